"""`edgeexit quickstart`: the whole way once, and at its end the tiers."""

from __future__ import annotations

import importlib.util
import io
import json
import shlex
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from edgeexit.cli import main
from edgeexit_exporters.commands.quickstart import show_quickstart
from edgeexit_exporters.quickstart import Quickstart

MISSING = [package for package in ("torch", "onnxscript", "sklearn") if importlib.util.find_spec(package) is None]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quick start")


@pytest.fixture(scope="module")
def document(folder: Path) -> Any:
    """What `edgeexit quickstart --json` prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["quickstart", "--out", str(folder), "--json"]) == 0
    return json.loads(printed.getvalue())


@pytest.fixture
def result(document: Any, folder: Path) -> Quickstart:
    bundle, data = Path(document["bundle"]), folder / "digits-test.npz"
    return Quickstart(bundle, data, document["verified"], document["evaluation"])


@pytest.fixture
def no_grpc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started from now on cannot import grpc."""
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError('not here', name='grpc')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_stopping_early_saves_work_at_hardly_any_loss(document: Any) -> None:
    assert document["evaluation"]["mean_cost"] < 0.5
    assert document["evaluation"]["accuracy_drop"] < 0.03
    assert document["evaluation"]["full_accuracy"] > 0.9


def test_the_tiers_resolve_every_sample_between_them_as_one_process_does(document: Any) -> None:
    pytest.importorskip("tritonclient.grpc")
    tiers = document["tiers"]
    assert document["tiers_skipped"] is None
    assert [tier["tier"] for tier in tiers["tiers"]] == ["device", "server"]
    assert [k for tier in tiers["tiers"] for k in tier["segments"]] == [0, 1, 2]
    assert tiers["samples"] == document["evaluation"]["samples"] == sum(tier["samples"] for tier in tiers["tiers"])
    assert sum(tier["share"] for tier in tiers["tiers"]) == pytest.approx(1)
    assert (tiers["degraded"], tiers["differing"]) == (0, 0)


def test_the_device_resolves_the_share_that_leaves_in_front_of_the_cut(document: Any) -> None:
    pytest.importorskip("tritonclient.grpc")
    tiers, exits = document["tiers"], document["evaluation"]["exits"]
    device = tiers["tiers"][0]["share"]
    assert 0 < device < 1
    assert device == pytest.approx(sum(entry["share"] for entry in exits[: tiers["cut"]]))


def test_it_ends_with_the_tiers_and_how_to_run_them_by_hand(
    document: Any, result: Quickstart, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient.grpc")
    cut = str(document["tiers"]["cut"])
    show_quickstart(result)
    printed, said = capsys.readouterr()
    last_table = printed.rpartition("on two tiers")[2].splitlines()
    assert [line.split()[0] for line in last_table[3:5]] == ["device", "server"]
    assert f"All {result.evaluation['samples']} have the label and the exit that one process gives" in last_table[-1]
    lines = [shlex.split(line) for line in said.splitlines()[-2:]]
    serve, run = [line[line.index(word) :] for word, line in zip(("serve", "run"), lines, strict=True)]
    assert serve == ["serve", str(result.bundle), "--from", cut]
    assert run[:5] == ["run", str(result.bundle), str(result.test_data), "--upto", cut]
    assert all(shutil.which(line[0]) for line in lines)


@pytest.mark.usefixtures("no_grpc")
def test_without_the_tiers_packages_it_says_what_to_install_and_goes_on(
    result: Quickstart, capsys: pytest.CaptureFixture[str]
) -> None:
    show_quickstart(result)
    printed, said = capsys.readouterr()
    assert "Handwritten digits" in printed
    assert "server" not in printed
    assert "The two tiers are skipped: edgeexit serve needs the package edgeexit-runtime[tiers]" in said
    assert "pip install 'edgeexit-runtime[tiers]'" in said
    assert f"inspect {shlex.quote(str(result.bundle))}" in said
    assert "--offload" not in said


@pytest.mark.usefixtures("no_grpc")
def test_without_the_tiers_packages_the_document_says_why(
    result: Quickstart, capsys: pytest.CaptureFixture[str]
) -> None:
    show_quickstart(result, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["tiers"] is None
    assert "pip install 'edgeexit-runtime[tiers]'" in found["tiers_skipped"]
    assert found["evaluation"] == result.evaluation
