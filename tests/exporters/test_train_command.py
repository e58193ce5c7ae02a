"""`edgeexit train`: its flags, what it prints, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from core.bundles import snapshot
from edgeexit.cli import Commands, installed_commands
from edgeexit.errors import UsageError
from integration.material import LABELS, NORMALISE, normalised, pictures, save_arrays, save_folder

torch = pytest.importorskip("torch", reason="needs edgeexit[train]")
pytest.importorskip("onnxscript", reason="needs edgeexit-exporters[torch]")

from edgeexit.training.store import load_run  # noqa: E402  torch may be missing
from nets_torch import write_nets  # noqa: E402

TRAIN = EntryPoint("train", "edgeexit_exporters.commands.train:train", "edgeexit.commands")
COMMANDS = Commands(installed=lambda: {**installed_commands(), "train": TRAIN})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("world")
    write_nets(root)
    pixels, labels = pictures(400, 1)
    save_folder(root / "pictures", pixels, labels)
    save_arrays(root / "data.npz", x=normalised(pixels), y=labels)
    (root / "lone").mkdir()
    Image.fromarray(pixels[0]).save(root / "lone" / "0.png")
    (root / "flat").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(root / "flat" / f"{i}.png")
    yield root
    sys.modules.pop("nets", None)


@pytest.fixture
def train(cli: Callable[..., Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Train on the world's pictures into `tmp_path / "run"`, and see how it ends."""
    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(str(world))

    def run(*more: object, code: int = 0, source: str = "nets:build", **changes: object) -> Any:
        options = {
            "--data": "pictures",
            "--at": "one,two",
            "--epochs": 2,
            "--rate": 0.01,
            "-o": tmp_path / "run",
            **changes,
        }
        arguments = [word for pair in options.items() if pair[1] is not None for word in pair]
        before = snapshot(tmp_path)
        outcome = cli("train", source, *arguments, "--threads", 1, "--batch", 8, *more, commands=COMMANDS)
        assert outcome.code == code, outcome.stderr
        if code:
            assert outcome.stdout == ""
            assert "Traceback" not in outcome.stderr
            assert snapshot(tmp_path) == before
        return outcome

    return run


def test_a_run_says_what_each_exit_can_do_and_what_comes_next(train: Callable[..., Any], tmp_path: Path) -> None:
    outcome = train(*NORMALISE)
    assert all(word in outcome.stdout for word in ("one", "two", "whole model", "agreement", "converged"))
    assert f"edgeexit export {tmp_path / 'run'} --data pictures --labels model" in outcome.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"epoch"') >= 2


@pytest.mark.parametrize("mode", ["joint", "layerwise", "combined"])
def test_modes_with_labels_go_the_same_road(train: Callable[..., Any], mode: str) -> None:
    document = train(*NORMALISE, "--quiet", "--json", **{"--mode": mode, "--head": "linear"}).document()
    assert (document["mode"], document["epochs"]) == (mode, 2)
    assert [exit_["name"] for exit_ in document["exits"]] == ["one", "two", "whole model"]
    assert "--labels" not in document["next"]


def test_the_run_keeps_preprocessing_inputs_and_class_names(train: Callable[..., Any], tmp_path: Path) -> None:
    train(*NORMALISE, "--quiet", **{"--mode": "layerwise", "--epochs": 1})
    document = json.loads((tmp_path / "run" / "training.json").read_text())
    assert tuple(document["class_names"]) == LABELS
    assert document["preprocessing"]["mean"] == [0.45, 0.5, 0.55]
    assert document["inputs"][0]["shape"] == [8, 8, 3]
    assert document["source"] == "nets:build"


def test_without_labels_any_folder_of_pictures_or_archive_is_enough(
    train: Callable[..., Any], world: Path, tmp_path: Path
) -> None:
    train(*NORMALISE, "--quiet", **{"--data": "flat"})
    save_arrays(world / "bare.npz", x=np.load(world / "data.npz")["x"])
    found = train("--quiet", "--json", **{"--data": "bare.npz", "-o": tmp_path / "other"}).document()
    assert found["exits"][0]["against"] == "model"


def test_what_was_given_to_judge_by_is_what_the_next_command_calibrates_on(train: Callable[..., Any]) -> None:
    found = train(*NORMALISE, "--quiet", "--json", **{"--validation": "flat", "--epochs": 1}).document()
    assert "--calibration flat" in found["next"]


def test_places_may_be_shares_and_each_exit_may_have_a_head_of_its_own(train: Callable[..., Any]) -> None:
    both = {"--at": "0.2,0.7", "--epochs": 1}
    found = train(*NORMALISE, "--quiet", "--json", "--head", "linear", "--head", "mixed", **both).document()
    assert [str(exit_["head"]).partition("@")[0] for exit_ in found["exits"]] == ["linear", "mixed", "None"]


def test_a_multi_exit_is_trained_as_it_comes(train: Callable[..., Any]) -> None:
    found = train(*NORMALISE, "--quiet", "--json", source="nets:attached", **{"--at": None}).document()
    assert [exit_["name"] for exit_ in found["exits"]] == ["one", "two", "whole model"]


def test_a_run_that_is_done_keeps_no_checkpoint_and_says_so_when_it_is_to_be_resumed(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    train(*NORMALISE, "--quiet", **{"--epochs": 1})
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    told = train(*NORMALISE, "--quiet", "--resume", code=2, **{"--epochs": 1}).stderr
    assert "is finished" in told
    assert "edgeexit export" in told


@pytest.fixture
def stopped(train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run whose last word was not written."""

    def fail(*_: object, **__: object) -> None:
        raise UsageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("edgeexit.training.store.save_run", fail)
        with pytest.raises(AssertionError, match="the disk is full"):
            train(*NORMALISE, "--quiet")
    return tmp_path / "run"


def test_a_run_that_was_stopped_is_resumed(train: Callable[..., Any], stopped: Path) -> None:
    assert (stopped / "checkpoint.safetensors").exists()
    assert train(*NORMALISE, "--quiet", "--json", "--resume").document()["epochs"] == 2
    assert not (stopped / "checkpoint.safetensors").exists()


def test_a_resumed_run_with_other_settings_is_refused(train: Callable[..., Any], stopped: Path) -> None:
    assert "epochs" in train(*NORMALISE, "--quiet", "--resume", code=2, **{"--epochs": 3}).stderr


def test_an_onnx_file_is_sent_to_the_export(train: Callable[..., Any]) -> None:
    told = train("--quiet", source="some/x.onnx", code=2).stderr
    assert "edgeexit export some/x.onnx --head trained" in told


@pytest.mark.parametrize(("validation", "held_out"), [(None, True), ("flat", False)])
def test_the_run_keeps_whether_a_part_of_its_data_was_held_out(
    train: Callable[..., Any], tmp_path: Path, validation: str | None, held_out: bool
) -> None:
    train(*NORMALISE, "--quiet", **{"--validation": validation, "--epochs": 1})
    assert json.loads((tmp_path / "run" / "training.json").read_text())["held_out"] is held_out


def test_an_older_folder_is_not_overwritten(train: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    assert "--resume" in train(*NORMALISE, code=2).stderr


@pytest.mark.parametrize(
    ("changes", "more", "code", "words"),
    [
        ({"--data": "none.npz"}, (), 4, "does not exist"),
        ({"--data": "flat", "--mode": "joint"}, (), 4, "--labels model"),
        ({"--at": "four"}, (), 2, "four"),
        ({"--at": ","}, (), 2, "names no place"),
        ({"--head": "round"}, (), 2, "cannot be read"),
        ({"--rate": "-1"}, (), 2, "rate"),
        ({"--validation": "pictures"}, (), 2, "--validation"),
        ({"-o": "pictures/run"}, (), 2, "the run would lie inside the data"),
        ({"--data": "lone"}, (), 4, "give others with --validation"),
        ({}, ("--mean", "0.5"), 2, "go together"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    train: Callable[..., Any], changes: dict[str, object], more: tuple[object, ...], code: int, words: str
) -> None:
    assert words in train(*more, "--quiet", code=code, **changes).stderr


@pytest.mark.parametrize(("source", "code"), [("nets:several", 2), ("nets:nothing", 2), ("nonets:build", 2)])
def test_a_source_that_cannot_carry_exits_is_refused(train: Callable[..., Any], source: str, code: int) -> None:
    train(*NORMALISE, "--quiet", source=source, code=code)


def test_other_classes_than_the_models_are_refused(train: Callable[..., Any], world: Path) -> None:
    save_folder(world / "three", *pictures(30, 1, classes=3))
    assert "fewer classes" in train(*NORMALISE, code=4, **{"--data": "three", "--mode": "joint"}).stderr


def test_a_run_in_which_no_exit_learnt_anything_is_kept_and_is_an_error(train: Callable[..., Any], world: Path) -> None:
    told = train(*NORMALISE, "--json", code=4, **{"--rate": "1e-12", "--epochs": 1, "-o": world / "useless"}).stderr
    assert "no early exit learnt anything" in told
    assert "edgeexit export" not in told
    assert (world / "useless" / "training.json").exists()


@pytest.mark.parametrize(
    ("outcome", "words"), [({"problem": "its loss was not finite"}, True), ({"problem": None}, False)]
)
def test_what_kept_an_exit_from_learning_is_said(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: dict[str, Any], words: bool
) -> None:
    train(*NORMALISE, "--quiet")
    document = load_run(tmp_path / "run").document
    first = msgspec.structs.replace(document.exits[0], converged=False, **outcome)
    found = msgspec.structs.replace(document, exits=(first, *document.exits[1:]))
    monkeypatch.setattr("edgeexit_exporters.commands.train.make_run", lambda *_: found)
    assert train("--json").document()["exits"][0]["problem"] == outcome["problem"]
    assert ("one: its loss was not finite" in train().stderr) is words


@pytest.mark.parametrize("options", [{"--at": "one"}, {"--at": None, "--head": "linear"}, {"--at": "auto"}])
def test_exits_that_the_source_has_attached_are_not_described_again(
    train: Callable[..., Any], options: dict[str, object]
) -> None:
    told = train(*NORMALISE, source="nets:attached", code=2, **options).stderr
    assert "has exits attached" in told


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("distilled", ("--optimiser", "adamw")),
        ("layerwise", ("--loss-weights", "eenet")),
        ("combined", ("--self-distillation", "0")),
        ("distilled", ("--backbone-rate", "0.1")),
        ("layerwise", ("--heads-first", "0")),
        ("layerwise", ("--temperature", "1")),
        ("joint", ("--temperature", "2")),
        ("distilled", ("--label-share", "0.5")),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    train: Callable[..., Any], mode: str, options: tuple[str, str]
) -> None:
    told = train(*NORMALISE, *options, code=2, **{"--mode": mode}).stderr
    assert f"{options[0]} does nothing here" in told


def test_the_options_named_in_advice_reach_the_training(train: Callable[..., Any], tmp_path: Path) -> None:
    advised = {"--warmup": 0.2, "--clip": 1.5, "--keep": "accuracy", "--label-share": 0.25, "--mode": "combined"}
    train(*NORMALISE, "--quiet", **advised)
    settings = load_run(tmp_path / "run").document.settings
    assert (settings.warmup, settings.clip, settings.keep, settings.label_share) == (0.2, 1.5, "accuracy", 0.25)


def test_temperature_is_for_a_joint_run_that_distils_itself(train: Callable[..., Any]) -> None:
    joint = {"--mode": "joint", "--temperature": 2, "--self-distillation": 0.5}
    assert train(*NORMALISE, "--quiet", "--json", **joint).document()["mode"] == "joint"


def test_a_share_that_is_a_modules_name_is_refused(train: Callable[..., Any]) -> None:
    assert "two ways" in train(*NORMALISE, source="nets:numbered", code=2, **{"--at": "0.1"}).stderr


def test_examples_calibrate_on_samples_that_a_run_was_not_trained_on(cli: Callable[..., Any]) -> None:
    shown = cli("train", "--help", commands=COMMANDS).stdout
    exports = [line for line in shown.splitlines() if "edgeexit export run" in line]
    assert exports
    assert all("--calibration" in line for line in exports)


def test_without_torch_the_package_is_named(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgeexit.training.trainer", None)
    assert "edgeexit[train]" in train(code=6).stderr
