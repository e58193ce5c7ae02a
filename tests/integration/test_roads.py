"""Every kind of source goes the whole road: export, verify, eval, run, and the same from Python."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.data import open_data
from edgeexit.manifest import Manifest
from edgeexit.replay import replay
from edgeexit_runtime import Cascade
from integration.material import ENDINGS

Cli = Callable[..., Any]


@dataclass(frozen=True)
class Road:
    """An export, and what its bundle is to be."""

    arguments: tuple[str, ...]
    heads: tuple[str, ...] | None = None  # None: whatever auto finds
    kind: str = "pictures"
    suffix: str = ""
    calibrated: bool = True
    max_drop: float = 0.01
    needs: tuple[str, ...] = ()


ROADS = {
    "auto": Road(("plain.onnx",)),
    "auto, archive": Road(("plain.onnx",), suffix=".eexit"),
    "two exits": Road(("plain.onnx", "--exits", "2"), ("gaussian", "gaussian", "model")),
    "one named exit": Road(("plain.onnx", "--exits", "/relu_2"), ("gaussian", "model")),
    "class means": Road(
        ("plain.onnx", "--head", "class-means", "--exits", "2"), ("class-means", "class-means", "model")
    ),
    "labels of the model": Road(("plain.onnx", "--labels", "model", "--exits", "2")),
    "held out": Road(("plain.onnx", "--exits", "2"), calibrated=False),
    "no loss at all": Road(("plain.onnx", "--exits", "2", "--max-drop", "0"), max_drop=0.0),
    "arrays": Road(("plain.onnx", "--exits", "2"), ("gaussian", "gaussian", "model"), kind="arrays"),
    "arrays, archive": Road(("plain.onnx", "--exits", "2"), kind="arrays", suffix=".eexit"),
    "cascade of models": Road(("small.onnx", "big.onnx", "--exits", "0"), ("model", "model")),
    "cascade of models, auto": Road(("small.onnx", "big.onnx")),
    "cascade with an exit in the big model": Road(
        ("small.onnx", "big.onnx", "--exits", "1"), ("model", "gaussian", "model")
    ),
    "three logits": Road(("three.onnx",), ("model", "model", "model")),
    "three logits in a cascade": Road(("small.onnx", "three.onnx"), ("model",) * 4),
    "two inputs": Road(("text.onnx", "--exits", "1"), ("gaussian", "model"), kind="text"),
    "two inputs, class means": Road(
        ("text.onnx", "--exits", "1", "--head", "class-means"), ("class-means", "model"), kind="text"
    ),
    "torch": Road(
        ("zoo_torch:small_resnet", "--exits", "2", "--labels", "model"),
        ("gaussian", "gaussian", "model"),
        kind="large-pictures",
        needs=("torch", "onnxscript"),
    ),
    "torch, three logits": Road(
        ("zoo_torch:three_logits",), ("model", "model", "model"), kind="large-arrays", needs=("torch", "onnxscript")
    ),
    "torch, two inputs": Road(
        ("zoo_torch:text_encoder", "--exits", "1", "--labels", "model"),
        ("gaussian", "model"),
        kind="text",
        needs=("torch", "onnxscript"),
    ),
}


@pytest.fixture(params=ROADS.values(), ids=ROADS.keys())
def road(request: pytest.FixtureRequest) -> Road:
    road: Road = request.param
    for package in road.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return road


@pytest.fixture
def bundle(road: Road, exported: Callable[..., Path]) -> Path:
    return exported(*road.arguments, kind=road.kind, suffix=road.suffix, calibrated=road.calibrated)


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return Bundle.open(bundle).manifest


@pytest.fixture
def unseen(road: Road, world: Path) -> Path:
    return world / f"test{ENDINGS[road.kind]}"


def whole_set(manifest: Manifest, path: Path) -> tuple[dict[str, Any], Any]:
    dataset = open_data(path, manifest.inputs, manifest.preprocessing, manifest.labels)
    return next(iter(dataset.batches(len(dataset)))), dataset.labels


def test_the_exits_are_those_that_were_asked_for(road: Road, manifest: Manifest) -> None:
    if road.heads is None:
        assert manifest.exits[-1].head == "model"
    else:
        assert tuple(entry.head for entry in manifest.exits) == road.heads


def test_costs_rise_from_exit_to_exit(manifest: Manifest) -> None:
    costs = [entry.cost for entry in manifest.exits]
    assert costs == sorted(costs)
    assert costs[0] > 0


def test_the_summary_says_how_it_was_calibrated(road: Road, manifest: Manifest) -> None:
    summary = manifest.calibration
    assert summary.held_out is not road.calibrated
    assert summary.samples == (250 if road.calibrated else 50)
    assert summary.labels == ("model" if "model" in road.arguments else "data")
    assert summary.full_accuracy - summary.accuracy <= road.max_drop + 1e-9
    assert sum(summary.exit_shares) == pytest.approx(1)


def test_verify_passes(cli: Cli, bundle: Path, manifest: Manifest) -> None:
    outcome = cli("verify", bundle, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.document()["exits"] == len(manifest.exits)


def test_inspect_and_bench_can_read_it(cli: Cli, bundle: Path) -> None:
    assert cli("inspect", bundle, "--json").code == 0
    outcome = cli("bench", bundle, "--batch", "1,2", "--seconds", 0, "--json")
    assert outcome.code == 0, outcome.stderr
    assert [row["batch"] for row in outcome.document()["rows"]] == [1, 2]


def test_eval_counts_what_replaying_the_logits_gives(cli: Cli, bundle: Path, unseen: Path, manifest: Manifest) -> None:
    outcome = cli("eval", bundle, "--data", unseen, "--timing-samples", 2, "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.document()
    cascade = Cascade.open(bundle)
    batch, labels = whole_set(manifest, unseen)
    logits = cascade.logits(batch)
    replayed = replay(cascade.policy, list(logits))
    assert found["samples"] == 300
    assert found["accuracy"] == pytest.approx((replayed.label == labels).mean())
    assert found["full_accuracy"] == pytest.approx((logits[-1].argmax(axis=1) == labels).mean())
    assert found["accuracy_drop"] == pytest.approx(found["full_accuracy"] - found["accuracy"])
    assert [entry["share"] for entry in found["exits"]] == pytest.approx(replayed.shares(len(manifest.exits)))
    assert [entry["name"] for entry in found["exits"]] == [entry.name for entry in manifest.exits]
    assert found["mean_cost"] == pytest.approx(sum(e["share"] * e["cost"] for e in found["exits"]))
    assert found["mean_ms"] > 0
    assert found["full_ms"] > 0


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_device_decides_as_replaying_its_logits_does(
    bundle: Path, unseen: Path, manifest: Manifest, batch_size: int
) -> None:
    cascade = Cascade.open(bundle)
    batch, _ = whole_set(manifest, unseen)
    expected = replay(cascade.policy, list(cascade.logits(batch)))
    for start in range(0, 70, batch_size):
        rows = slice(start, start + batch_size)
        answers = cascade.run({name: array[rows] for name, array in batch.items()})
        np.testing.assert_array_equal(answers.exit, expected.exit[rows])
        np.testing.assert_array_equal(answers.label, expected.label[rows])
        np.testing.assert_allclose(answers.probability, expected.probability[rows], atol=1e-5)


def test_run_prints_one_line_a_sample(cli: Cli, bundle: Path, unseen: Path, manifest: Manifest) -> None:
    outcome = cli("run", bundle, unseen, "--batch", 64)
    assert outcome.code == 0, outcome.stderr
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert len({line["input"] for line in lines}) == len(lines) == 300
    assert {line["label"] for line in lines} <= set(manifest.labels)
    assert {line["exit"] for line in lines} <= {entry.name for entry in manifest.exits}
