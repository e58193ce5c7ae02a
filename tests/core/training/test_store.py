"""The store: a run's folder gives the trained network back, to the backbone that it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from core.training.small_nets import (  # noqa: E402 torch may be missing
    Convolutional,
    a_network,
    a_pretrained_network,
    picture_feeds,
    pictures,
    values,
)
from edgeexit.errors import DataError, ModelError  # noqa: E402
from edgeexit.manifest import Preprocessing, TensorSpec  # noqa: E402
from edgeexit.training.attach import MultiExit  # noqa: E402
from edgeexit.training.outcomes import ExitOutcome, TrainingResult  # noqa: E402
from edgeexit.training.settings import TrainSettings  # noqa: E402
from edgeexit.training.store import RUN_FILE, WEIGHTS_FILE, load_run, restore, save_run  # noqa: E402
from edgeexit.training.trainer import train  # noqa: E402

EXAMPLE = pictures(2, 0)[0]
OUTCOMES = tuple(
    ExitOutcome(name=name, accuracy=0.5, loss=loss, converged=loss is not None, epoch=1)
    for name, loss in (("first", None), ("second", 0.5), ("whole model", 0.25))
)
RESULT = TrainingResult(exits=OUTCOMES, epochs=2, best_epoch=1, seconds=1.5)
PREPROCESSING = Preprocessing(kind="image", mode="RGB", size=(6, 6), mean=(0.5,), std=(0.25,))


def saved(folder: Path, mode: str) -> tuple[Path, object]:
    network = a_pretrained_network(head="conv")
    settings = TrainSettings(mode=mode, epochs=1, batch=32, rate=0.02, threads=1)
    result = train(network, *picture_feeds(), settings, quiet=True)
    save_run(folder, network, settings, result, source="zoo:model", class_names=("a", "b", "c"))
    return folder, network


@pytest.mark.parametrize("mode", ["joint", "layerwise"])
def test_a_restored_network_gives_the_same_logits(tmp_path: Path, mode: str) -> None:
    folder, network = saved(tmp_path / "run", mode)
    backbone = a_pretrained_network().backbone if mode == "layerwise" else Convolutional()
    again = restore(load_run(folder), backbone, EXAMPLE)
    assert values(again) == values(network)
    assert not again.training
    with torch.no_grad():
        for one, other in zip(again(EXAMPLE), network.eval()(EXAMPLE), strict=True):
            assert torch.equal(one, other)


def test_heads_are_refused_by_another_backbone(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "layerwise")
    with pytest.raises(ModelError, match="another backbone"):
        restore(load_run(folder), a_network().backbone, EXAMPLE)


def test_a_joint_run_is_refused_by_a_backbone_of_another_architecture(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "joint")
    wider = Convolutional()
    wider.last = torch.nn.Linear(8, 4)
    for backbone in (torch.nn.Linear(3, 3), wider):
        with pytest.raises(ModelError, match="does not fit"):
            restore(load_run(folder), backbone, EXAMPLE)


def test_frozen_runs_store_the_heads_alone(tmp_path: Path) -> None:
    frozen, _ = saved(tmp_path / "frozen", "distilled")
    joint, _ = saved(tmp_path / "joint", "joint")
    assert not any(name.startswith("backbone") for name in load_run(frozen).weights)
    assert any(name.startswith("backbone") for name in load_run(joint).weights)


def test_all_that_was_said_is_stored(tmp_path: Path) -> None:
    inputs = (TensorSpec(name="image", dtype="uint8", shape=(6, 6, 3)),)
    settings = TrainSettings(mode="joint", loss_weights=(0.2, 0.3))
    written = save_run(
        tmp_path,
        a_network(),
        settings,
        RESULT,
        source="m:f",
        preprocessing=PREPROCESSING,
        inputs=inputs,
        held_out=False,
    )
    run = load_run(tmp_path)
    assert run.document == written
    assert (run.document.settings, run.document.exits, run.document.preprocessing) == (
        settings,
        OUTCOMES,
        PREPROCESSING,
    )
    assert run.document.held_out is False
    assert run.useless == ("first",)


def test_the_document_is_of_format_one(tmp_path: Path) -> None:
    save_run(tmp_path, a_network(), TrainSettings(mode="joint"), RESULT, source="m:f")
    document = json.loads((tmp_path / RUN_FILE).read_text())
    assert (document["format"], document["version"]) == ("edgeexit-training", 1)
    assert document["at"] == ["first", "second"]
    assert document["exits"][0] == {
        "name": "first", "accuracy": 0.5, "loss": None, "converged": False, "epoch": 1, "against": "labels",
        "problem": None,
    }  # fmt: skip
    assert set(document) == {
        "format", "version", "source", "at", "heads", "settings", "preprocessing", "inputs", "class_names", "exits",
        "epochs", "best_epoch", "seconds", "held_out", "whole", "backbone_sha256", "weights_sha256",
    }  # fmt: skip


GOLDEN = Path(__file__).with_name("golden_training.json")


def test_the_bytes_of_a_run_are_those_of_format_one(tmp_path: Path) -> None:
    network = MultiExit.attach(
        torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)), ["0"], example=torch.zeros(2, 2)
    )
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
    inputs = (TensorSpec(name="input", dtype="float32", shape=(2,)),)
    save_run(
        tmp_path,
        network,
        TrainSettings(),
        RESULT,
        source="m:f",
        preprocessing=PREPROCESSING,
        inputs=inputs,
        class_names=("a", "b"),
        held_out=True,
    )
    assert (tmp_path / RUN_FILE).read_bytes() == GOLDEN.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "another version"),
        ({"format": "something"}, "another version"),
        ({"unknown": 1}, "cannot be read"),
        ({"settings": {"mode": "joint", "rate": -1}}, "cannot be read"),
    ],
)
def test_a_document_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_run(tmp_path, a_network(), TrainSettings(mode="joint"), RESULT, source="m:f")
    path = tmp_path / RUN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        load_run(tmp_path)


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path, a_network(), TrainSettings(mode="joint"), RESULT, source="m:f")
    path = tmp_path / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="does not belong"):
        load_run(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="not the folder of a training run"):
            load_run(folder)
