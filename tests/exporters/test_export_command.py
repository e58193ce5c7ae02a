"""`edgeexit export`: its flags, what it prints, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import zoo
from core.bundles import snapshot
from edgeexit.bundle import Bundle
from integration.material import NORMALISE, make_world, normalised, pictures, save_arrays, save_folder

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def export(cli: Cli, world: Path, tmp_path: Path) -> Callable[..., Any]:
    """Export the plain model on the world's arrays to `tmp_path / "out"`, and see how it ends."""

    def run(*more: object, code: int = 0, sources: tuple[object, ...] = ("plain.onnx",), **changes: object) -> Any:
        options: dict[str, object] = {"--data": world / "train.npz", "--exits": "1", "-o": tmp_path / "out", **changes}
        arguments = [world / source if str(source).endswith(".onnx") else source for source in sources]
        for flag, value in options.items():
            arguments += [] if value is None else [flag, value]
        before = snapshot(tmp_path)
        outcome = cli("export", *arguments, *more)
        assert outcome.code == code, outcome.stderr
        if code:
            assert outcome.stdout == ""
            assert "Traceback" not in outcome.stderr
            assert snapshot(tmp_path) == before
        return outcome

    return run


def test_without_calibration_it_says_that_a_part_is_held_out(export: Callable[..., Any], tmp_path: Path) -> None:
    assert "held out" in export().stderr
    assert Bundle.open(tmp_path / "out").manifest.calibration.held_out


def test_a_model_too_small_for_exits_to_save_time_is_said_to_be_so(export: Callable[..., Any]) -> None:
    assert "slower than the model alone" in export().stderr


def test_the_charge_for_a_check_decides_how_many_exits_are_worth_having(
    export: Callable[..., Any], tmp_path: Path
) -> None:
    exits = []
    for charge in ("0", "1e9"):
        outcome = export("--check-macs", charge, **{"--exits": "auto", "-o": tmp_path / charge})
        exits.append(len(Bundle.open(tmp_path / charge).manifest.exits))
        assert ("No exit pays" in outcome.stderr) == (exits[-1] == 1)
    assert exits[0] > exits[1] == 1


def test_with_calibration_nothing_is_held_out(export: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    assert "held out" not in export("--calibration", world / "calibration.npz").stderr
    assert not Bundle.open(tmp_path / "out").manifest.calibration.held_out


def test_progress_goes_to_standard_error(export: Callable[..., Any]) -> None:
    outcome = export()
    assert "fitting heads: 450/450" in outcome.stderr
    assert "fitting heads" not in outcome.stdout


def test_quiet_shows_no_progress(export: Callable[..., Any]) -> None:
    assert "fitting" not in export("--quiet").stderr


def test_json_is_one_document_with_the_manifests_figures(export: Callable[..., Any], tmp_path: Path) -> None:
    document = export("--json").document()
    bundle = Bundle.open(tmp_path / "out")
    assert document["bundle"] == str(tmp_path / "out")
    assert document["size_bytes"] == bundle.size_bytes
    assert (document["macs"], document["params"]) == (bundle.manifest.macs, bundle.manifest.params)
    assert [entry["name"] for entry in document["exits"]] == [entry.name for entry in bundle.manifest.exits]
    assert document["calibration"]["accuracy"] == bundle.manifest.calibration.accuracy


def test_list_cuts_names_places_that_exits_accepts(export: Callable[..., Any], tmp_path: Path) -> None:
    listed = export("--list-cuts", "--json", **{"-o": None}).document()
    names = [cut["after"] for cut in listed["cuts"] if cut["obstacle"] is None]
    assert not (tmp_path / "out").exists()
    export(**{"--exits": f"{names[3]},{names[1]}"})
    found = [entry.name for entry in Bundle.open(tmp_path / "out").manifest.exits[:-1]]
    assert found == [names[1], names[3]]


def test_list_cuts_shares_rise_from_0_to_1(export: Callable[..., Any]) -> None:
    shares = [cut["share"] for cut in export("--list-cuts", "--json", **{"-o": None}).document()["cuts"]]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1


def test_a_target_may_be_named(export: Callable[..., Any]) -> None:
    assert "verify" in export("--target", "raspberry-pi-4").stderr


@pytest.mark.parametrize("name", ["out", "out.eexit"])
def test_an_older_bundle_is_replaced(export: Callable[..., Any], tmp_path: Path, name: str) -> None:
    export(**{"-o": tmp_path / name})
    export(**{"-o": tmp_path / name, "--exits": "2"})
    assert len(Bundle.open(tmp_path / name).manifest.exits) == 3


def test_equal_commands_write_equal_bytes(export: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("a.eexit", "b.eexit"):
        export("--threads", 1, **{"-o": tmp_path / name})
    assert (tmp_path / "a.eexit").read_bytes() == (tmp_path / "b.eexit").read_bytes()


def test_the_folder_and_the_archive_hold_the_same(export: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("a", "a.eexit"):
        export("--threads", 1, **{"-o": tmp_path / name})
    folder, archive = Bundle.open(tmp_path / "a"), Bundle.open(tmp_path / "a.eexit")
    assert dict(folder.contents) == dict(archive.contents)
    assert folder.manifest == archive.manifest


def test_no_path_of_the_workstation_gets_into_the_bundle(
    export: Callable[..., Any], world: Path, tmp_path: Path
) -> None:
    export("--calibration", world / "calibration.npz")
    for data in snapshot(tmp_path / "out").values():
        assert str(world).encode() not in data
        assert str(tmp_path).encode() not in data
        assert str(Path.home()).encode() not in data


USAGE = {
    "an exit that is no tensor": ("--exits", "/nothing_7"),
    "one of several exits that is no tensor": ("--exits", "/relu_2,/nothing_7"),
    "the input as an exit": ("--exits", "image"),
    "the output as an exit": ("--exits", "logits"),
    "a weight as an exit": ("--exits", "weight.0"),
    "an empty list of exits": ("--exits", ""),
    "commas for exits": ("--exits", ","),
    "no exits for a plain classifier": ("--exits", "0"),
    "a negative number of exits": ("--exits", "-1"),
    "more exits than places": ("--exits", "1000"),
    "a negative loss": ("--max-drop", "-0.01"),
    "a loss of everything": ("--max-drop", "1"),
    "a loss that is no number": ("--max-drop", "nan"),
    "a loss in words": ("--max-drop", "little"),
    "a mean without std": ("--mean", "0.5"),
    "a std without mean": ("--std", "0.5"),
    "a mean in words": ("--mean", "half", "--std", "1"),
    "two means for three channels": ("--mean", "0.1,0.2", "--std", "1,1,1"),
    "a std of 0": ("--mean", "0,0,0", "--std", "1,0,1"),
    "a mean that is no number": ("--mean", "nan,0,0", "--std", "1,1,1"),
    "a size of nothing": ("--size", "0,8"),
    "three sizes": ("--size", "8,8,8"),
    "half a pixel": ("--size", "8.5,8"),
    "an unknown head": ("--head", "tree"),
    "an unknown kind of labels": ("--labels", "guess"),
    "an unknown target": ("--target", "abacus"),
    "an unknown flag": ("--colour", "green"),
    "negative threads": ("--threads", "-1"),
    "no memory for class means": ("--means-kib", "0"),
}


@pytest.mark.parametrize("arguments", [pytest.param(a, id=name) for name, a in USAGE.items()])
def test_is_a_usage_error(export: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    if "--exits" in arguments:
        export(code=2, **{"--exits": arguments[1]})
    else:
        export(*arguments, code=2)


def test_no_output_is_a_usage_error(export: Callable[..., Any]) -> None:
    assert "-o" in export(code=2, **{"-o": None}).stderr


def test_no_source_is_a_usage_error(export: Callable[..., Any]) -> None:
    export(code=2, sources=())


def test_no_data_is_a_usage_error(export: Callable[..., Any]) -> None:
    export(code=2, **{"--data": None})


def test_calibrating_on_the_fitting_data_is_a_usage_error(export: Callable[..., Any], world: Path) -> None:
    assert str(world / "train.npz") in export("--calibration", world / "train.npz", code=2).stderr


def test_a_link_to_the_fitting_data_is_seen_through(export: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    (tmp_path / "other.npz").symlink_to(world / "train.npz")
    export("--calibration", tmp_path / "other.npz", code=2)


def test_an_output_in_a_folder_that_does_not_exist_is_a_usage_error(export: Callable[..., Any], tmp_path: Path) -> None:
    assert "nowhere" in export(code=2, **{"-o": tmp_path / "nowhere" / "out"}).stderr


@pytest.mark.parametrize("name", ["precious", "precious.eexit"])
def test_what_is_no_bundle_is_never_replaced(export: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    (tmp_path / "precious.eexit").write_text("years")
    assert name in export(code=2, **{"-o": tmp_path / name}).stderr


def test_the_data_folder_is_never_replaced(export: Callable[..., Any], tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data", *pictures(50, 0))
    export(*NORMALISE, code=2, **{"--data": data, "-o": data})


def test_a_failing_export_leaves_the_older_bundle(export: Callable[..., Any], tmp_path: Path) -> None:
    export()
    export(code=2, **{"--exits": "/nothing_7"})
    assert Bundle.open(tmp_path / "out").check


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("one-node", "cut"),
        ("sequence-first", "batch"),
        ("baked-batch", "batch"),
        ("mixed-samples", "other samples"),
    ],
)
def test_a_model_that_cannot_be_cut_ends_with_exit_code_4_and_the_reason(
    export: Callable[..., Any], tmp_path: Path, name: str, reason: str
) -> None:
    specimen = zoo.specimen(name)
    onnx.save(specimen.model, tmp_path / "model.onnx")
    inputs = {key: np.resize(array, (60, *array.shape[1:])) for key, array in specimen.inputs.items()}
    data = save_arrays(tmp_path / "data.npz", y=np.arange(60) % specimen.classes, **inputs)
    outcome = export("--labels", "model", code=4, sources=(tmp_path / "model.onnx",), **{"--data": data})
    assert reason in outcome.stderr.partition("error: ")[2]


def test_a_model_file_that_does_not_exist_is_named(export: Callable[..., Any], tmp_path: Path) -> None:
    assert "none.onnx" in export(code=4, sources=(tmp_path / "none.onnx",)).stderr


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x0a" * 50])
def test_a_file_that_is_no_model_is_named(export: Callable[..., Any], tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    assert str(tmp_path / "bad.onnx") in export(code=4, sources=(tmp_path / "bad.onnx",)).stderr


def test_a_truncated_model_is_named(export: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes((world / "plain.onnx").read_bytes()[:-500])
    assert str(tmp_path / "half.onnx") in export(code=4, sources=(tmp_path / "half.onnx",)).stderr


def test_models_that_take_different_inputs_make_no_cascade(export: Callable[..., Any], world: Path) -> None:
    export(code=4, sources=("plain.onnx", "text.onnx"))


def test_the_same_model_twice_is_a_cascade(export: Callable[..., Any], tmp_path: Path) -> None:
    export(sources=("small.onnx", "small.onnx"), **{"--exits": "0"})
    names = [entry.name for entry in Bundle.open(tmp_path / "out").manifest.exits]
    assert len(set(names)) == 2


def test_the_costs_of_a_cascade_are_fractions_of_the_last_model(
    export: Callable[..., Any], world: Path, tmp_path: Path
) -> None:
    export(sources=("small.onnx", "big.onnx"), **{"--exits": "0"})
    cascade = Bundle.open(tmp_path / "out").manifest
    alone = {}
    for name in ("small", "big"):
        export(sources=(f"{name}.onnx",), **{"-o": tmp_path / name})
        alone[name] = Bundle.open(tmp_path / name).manifest.macs
    assert cascade.macs == alone["big"]
    assert [entry.cost for entry in cascade.exits] == pytest.approx(
        [alone["small"] / alone["big"], 1 + alone["small"] / alone["big"]]
    )


def test_the_boundary_between_models_of_a_cascade_is_the_input(export: Callable[..., Any], tmp_path: Path) -> None:
    export(sources=("small.onnx", "big.onnx"), **{"--exits": "0"})
    manifest = Bundle.open(tmp_path / "out").manifest
    first, second = manifest.segments
    assert first.outputs == ()
    assert second.inputs == manifest.inputs


def test_a_precision_is_reported_with_the_accuracy_before(export: Callable[..., Any], tmp_path: Path) -> None:
    done = export("--json", **{"--precision": "int8", "--max-drop": "0.1"})
    document = done.document()
    assert document["precision"] == ["int8", "int8"]
    found = document["calibration"]
    assert 0 < found["reference_accuracy"] <= 1
    assert found["accuracy_drop"] == pytest.approx(found["reference_accuracy"] - found["accuracy"])
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.calibration.reference_accuracy == found["reference_accuracy"]


def test_a_target_says_which_precision_it_likes_and_changes_none(export: Callable[..., Any], tmp_path: Path) -> None:
    done = export(**{"--target": "jetson-orin-nano"})
    assert "--precision fp16" in done.stderr
    assert {segment.precision for segment in Bundle.open(tmp_path / "out").manifest.segments} == {"fp32"}


def test_a_killed_export_leaves_no_bundle(world: Path, tmp_path: Path) -> None:
    pixels, labels = pictures(3000, 0)
    data = save_folder(tmp_path / "data", pixels, labels)
    out = tmp_path / "out"
    out.mkdir()
    command = ["export", world / "plain.onnx", "--data", data, *NORMALISE, "-o", out / "model.eexit"]
    for milestone in ("fitting heads: started", "calibrating: started"):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeexit", *map(str, command)], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        seen = any(milestone in line for line in process.stderr)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert seen
        assert snapshot(out) == {}


def test_an_interrupted_export_says_so_and_leaves_no_bundle(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = ["export", world / "plain.onnx", "--data", world / "train", *NORMALISE, "-o", out / "model"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeexit", *map(str, command)],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    assert any("fitting heads: started" in line for line in process.stderr)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130, rest
    assert "Traceback" not in rest
    assert snapshot(out) == {}


def test_trained_heads_go_the_whole_road(export: Callable[..., Any], cli: Cli, world: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs edgeexit[train]")
    pytest.importorskip("onnxscript", reason="needs edgeexit-exporters[torch]")
    pixels, _ = pictures(500, 1)
    data = save_arrays(tmp_path / "bare.npz", x=normalised(pixels))
    options = ("--head", "trained", "--labels", "model", "--epochs", "6", "--exit-head", "linear/24", "--threads", "1")
    document = export(*options, "--max-drop", "0.3", "--json", **{"--data": data}).document()
    assert [entry["head"] for entry in document["exits"]] == ["trained", "model"]
    assert cli("verify", tmp_path / "out").code == 0
    assert cli("tune", tmp_path / "out", "--data", data, "--labels", "model", "--max-drop", "0.4", "-o",
               tmp_path / "tuned").code == 0  # fmt: skip


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--epochs", "3"), "--head trained"),
        (("--exit-head", "linear"), "--head trained"),
        (("--head", "trained", "--search-storage", "search.sqlite"), "--search TRIALS"),
        (("--search-storage", "search.sqlite"), "--head trained"),
        (("--search", "4"), "--head trained"),
        (("--head", "trained", "--updatable"), "cannot be updated"),
        (("--head", "trained", "--exit-head", "round"), "cannot be read"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    export: Callable[..., Any], more: tuple[str, ...], words: str
) -> None:
    assert words in export(*more, code=2).stderr
