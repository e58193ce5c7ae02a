"""Model repositories on disk, and the commands that write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from core.bundles import snapshot
from edgeexit.bundle import Bundle
from edgeexit.cli import Commands
from edgeexit.errors import ModelError, UsageError
from edgeexit.profiles import identity
from edgeexit.tails import model_name, tail_name
from edgeexit_exporters.triton import Serving, check_repository, write_repository
from exporters.triton.tails import golden_inputs
from integration.material import NORMALISE
from runtime.cascades import write_tiny

COMMANDS = Commands(
    "edgeexit",
    installed=lambda: {
        name: EntryPoint(name, f"edgeexit_exporters.commands.{name}:{name}", "edgeexit.commands")
        for name in ("export", "triton")
    },
)
Cli = Callable[..., Any]


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny(tmp_path / "tiny"))


def test_each_tail_is_a_model_of_its_own(bundle: Bundle, repository: Path) -> None:
    models = write_repository(bundle, repository)
    assert [model.name.rpartition("__from_")[2] for model in models] == [
        str(k) for k in range(len(bundle.manifest.segments))
    ]
    assert sorted(snapshot(repository)) == sorted(
        f"{model.name}/{file}" for model in models for file in ("config.pbtxt", "1/model.onnx")
    )


def test_a_model_runs_from_its_file(bundle: Bundle, repository: Path) -> None:
    model = write_repository(bundle, repository, tails=[0])[0]
    session = ort.InferenceSession(model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], golden_inputs(bundle))
    manifest = bundle.manifest
    assert logits.shape == (len(bundle.check["labels"]), len(manifest.segments), len(manifest.labels))


def test_tails_are_called_as_tiers_call_them(tiny: Bundle, repository: Path) -> None:
    expected = [tail_name(model_name(tiny.manifest), k) for k in range(3)]
    assert [model.name for model in write_repository(tiny, repository)] == expected


def test_the_tails_that_are_asked_for_are_written(tiny: Bundle, repository: Path) -> None:
    assert [model.name[-1] for model in write_repository(tiny, repository, tails=[2, 1, 2])] == ["1", "2"]


@pytest.mark.parametrize("tails", [[3], [-1], []])
def test_a_tail_that_is_not_there_is_refused(tiny: Bundle, repository: Path, tails: list[int]) -> None:
    with pytest.raises(UsageError, match="no such tail"):
        write_repository(tiny, repository, tails=tails)
    assert not repository.exists()


def test_other_models_of_the_repository_stay(tiny: Bundle, repository: Path) -> None:
    (repository / "other" / "1").mkdir(parents=True)
    (repository / "other" / "config.pbtxt").write_text('backend: "python"')
    write_repository(tiny, repository)
    assert "other/config.pbtxt" in snapshot(repository)


def test_a_tail_written_before_is_replaced(tiny: Bundle, repository: Path) -> None:
    write_repository(tiny, repository)
    (model, *_) = write_repository(tiny, repository, Serving(max_batch=7))
    assert "max_batch_size: 7" in (model / "config.pbtxt").read_text()
    assert {path.name for path in repository.parent.iterdir()} == {"tiny", "models"}


def test_a_model_says_which_bundle_it_is_of(tiny: Bundle, repository: Path) -> None:
    texts = [(model / "config.pbtxt").read_text() for model in write_repository(tiny, repository)]
    assert all(identity(tiny.manifest) in text for text in texts)


def test_a_model_of_somebody_else_is_never_replaced(tiny: Bundle, repository: Path) -> None:
    model = write_repository(tiny, repository)[1]
    (model / "config.pbtxt").write_text('name: "mine"')
    before = snapshot(repository)
    with pytest.raises(UsageError, match="not written by EdgeExit"):
        write_repository(tiny, repository)
    assert snapshot(repository) == before


def test_a_file_is_no_repository(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("years")
    for path in (tmp_path / "file", tmp_path / "nowhere" / "models"):
        with pytest.raises(UsageError, match="cannot be a model repository"):
            check_repository(path)


def test_a_tail_that_does_not_give_the_golden_logits_is_not_written(tiny: Bundle, repository: Path) -> None:
    exits = {name: np.asarray(array) + 1 for name, array in tiny.exits.items()}
    false = Bundle(tiny.path, tiny.manifest, tiny.size_bytes, tiny.contents, exits)
    with pytest.raises(ModelError, match="golden samples"):
        write_repository(false, repository)
    assert not repository.exists()


def test_a_state_of_the_policy_is_no_input_of_a_tail(bundles: dict[str, Bundle], repository: Path) -> None:
    bundle = bundles["int8 with a state"]
    assert bundle.policy().start(1, 5) != ()
    (model,) = write_repository(bundle, repository, tails=[1])
    assert "policy.state" not in (model / "config.pbtxt").read_text()


@pytest.mark.parametrize(("precision", "types"), [("fp16", ["FP16", "FP16"]), ("uint8", ["UINT8", "FP32", "FP32"] * 2)])
def test_a_rounded_payload_is_declared_as_it_travels(
    tiny: Bundle, repository: Path, precision: str, types: list[str]
) -> None:
    models = write_repository(tiny, repository, Serving(payload=precision))
    first, second, _ = ((model / "config.pbtxt").read_text().partition("output [")[0] for model in models)
    assert re.findall(r"TYPE_(\w+)", first) == ["FP32"]
    assert re.findall(r"TYPE_(\w+)", second) == types


def test_the_command_writes_what_it_says(cli: Cli, tiny: Bundle, repository: Path) -> None:
    outcome = cli("triton", tiny.path, "-o", repository, "--from", 1, "--max-queue", 9, "--json", commands=COMMANDS)
    assert outcome.code == 0, outcome.stderr
    (model,) = outcome.document()["models"]
    assert "max_queue_size: 9" in (repository / model["name"] / "config.pbtxt").read_text()


def test_the_commands_table_names_every_model(cli: Cli, tiny: Bundle, repository: Path) -> None:
    outcome = cli("triton", tiny.path, "-o", repository, commands=COMMANDS)
    assert all(f"__from_{k}" in outcome.stdout for k in range(3))
    assert "tritonserver" in outcome.stderr


def test_the_command_refuses_a_tail_that_is_not_there(cli: Cli, tiny: Bundle, repository: Path) -> None:
    assert cli("triton", tiny.path, "-o", repository, "--from", 3, commands=COMMANDS).code == 2


def test_export_writes_a_repository_too(cli: Cli, bundles: dict[str, Bundle], tmp_path: Path) -> None:
    root = bundles["class means"].path.parent
    outcome = cli(
        *("export", root / "means.onnx", "--data", root / "train", *NORMALISE, "--exits", "1", "--max-drop", "0.5"),
        *("-o", tmp_path / "out", "--triton", tmp_path / "models", "--threads", 1, "--json", "--quiet"),
        commands=COMMANDS,
    )
    assert outcome.code == 0, outcome.stderr
    assert outcome.document()["triton"] == sorted(str(path) for path in (tmp_path / "models").iterdir())
    assert Bundle.open(tmp_path / "out")


def test_export_finds_out_early_that_a_repository_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("years")
    arguments = ("m.onnx", "--data", "d", "-o", tmp_path / "out", "--triton", tmp_path / "models")
    outcome = cli("export", *arguments, commands=COMMANDS)
    assert outcome.code == 2
    assert "model repository" in outcome.stderr


def test_a_manifest_without_sources_still_gives_a_name(tiny: Bundle, repository: Path) -> None:
    provenance = msgspec.structs.replace(tiny.manifest.provenance, sources=())
    manifest = msgspec.structs.replace(tiny.manifest, provenance=provenance)
    bundle = Bundle(tiny.path, manifest, tiny.size_bytes, tiny.contents, tiny.exits)
    assert write_repository(bundle, repository, tails=[0])[0].name == "model__from_0"
