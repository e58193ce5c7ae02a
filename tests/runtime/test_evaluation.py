"""`edgeexit eval`: the figures, against NumPy by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.data import open_data
from edgeexit.errors import DataError
from edgeexit.replay import replay
from edgeexit_runtime import Cascade
from edgeexit_runtime.evaluation import evaluate, summarise, time_samples
from runtime.cascades import COMMANDS, EXITS, F32, forward, tiny_parts, tiny_policy, write_tiny

Cli = Callable[..., Any]

N = 150
X = np.random.default_rng(11).standard_normal((N, 4)).astype(F32)
Y = np.where(np.arange(N) % 3 == 0, np.arange(N) % 2, forward(X)[-1].argmax(axis=1))
ANSWERS = replay(tiny_policy(), list(forward(X)))
COSTS = np.array([0.4, 0.7, 1.1])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.eexit")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


def test_the_document_has_the_promised_keys(cli: Cli, bundle: Path, data: Path) -> None:
    document = cli("eval", bundle, "--data", data, "--timing-samples", 4, "--json", commands=COMMANDS).document()
    assert list(document) == [
        "samples",
        "accuracy",
        "full_accuracy",
        "accuracy_drop",
        "mean_cost",
        "mean_ms",
        "full_ms",
        "full_ms_from",
        "precision",
        "calibration_reference_accuracy",
        "calibration_full_accuracy",
        "exits",
    ]
    assert [list(row) for row in document["exits"]] == [["name", "share", "accuracy", "cost"]] * EXITS


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_the_figures_are_those_of_numpy_at_every_batch_size(cli: Cli, bundle: Path, data: Path, batch: int) -> None:
    arguments = ("eval", bundle, "--data", data, "--batch", batch, "--timing-samples", 0, "--json")
    document = cli(*arguments, commands=COMMANDS).document()
    right = ANSWERS.label == Y
    full = float((forward(X)[-1].argmax(axis=1) == Y).mean())
    assert document["samples"] == N
    assert document["accuracy"] == pytest.approx(right.mean())
    assert document["full_accuracy"] == pytest.approx(full)
    assert document["accuracy_drop"] == pytest.approx(full - right.mean())
    assert document["mean_cost"] == pytest.approx(COSTS[ANSWERS.exit].mean())
    for k, row in enumerate(document["exits"]):
        here = ANSWERS.exit == k
        assert here.any()
        assert (row["share"], row["accuracy"]) == pytest.approx((here.mean(), right[here].mean()))
        assert row["cost"] == COSTS[k]


def test_the_whole_models_answers_are_those_with_every_exit_disabled(bundle: Path, data: Path) -> None:
    cascade = Cascade.open(bundle)
    never = cascade.with_policy(cascade.policy.with_thresholds((np.inf,) * EXITS))
    dataset = open_data(data, cascade.manifest.inputs, cascade.manifest.preprocessing)
    result = evaluate(never, dataset, batch=50, advance=lambda n=1: None)
    assert (result.accuracy_drop, result.exits[-1].share) == (0, 1)


def test_an_exit_that_nobody_takes_has_no_accuracy() -> None:
    manifest, _ = tiny_parts()
    result = summarise(
        manifest.exits, exits=np.array([0, 2]), right=np.array([True, False]), full_right=np.array([True, True])
    )
    assert [(row.share, row.accuracy) for row in result.exits] == [(0.5, 1.0), (0.0, None), (0.5, 0.0)]


def test_progress_adds_up_to_the_samples(bundle: Path, data: Path) -> None:
    cascade = Cascade.open(bundle)
    done: list[int] = []
    dataset = open_data(data, cascade.manifest.inputs, cascade.manifest.preprocessing)
    evaluate(cascade, dataset, batch=64, advance=lambda n=1: done.append(n))
    assert sum(done) == N


def test_times_are_left_out_on_request(cli: Cli, bundle: Path, data: Path) -> None:
    document = cli("eval", bundle, "--data", data, "--timing-samples", 0, "--json", commands=COMMANDS).document()
    assert (document["mean_ms"], document["full_ms"]) == (None, None)


def test_times_are_milliseconds_of_one_sample(cli: Cli, bundle: Path, data: Path) -> None:
    document = cli("eval", bundle, "--data", data, "--timing-samples", 10, "--json", commands=COMMANDS).document()
    assert 0 < document["mean_ms"] < 50
    assert 0 < document["full_ms"] < 50


def test_where_onnx_is_missing_the_whole_models_time_has_heads_in_it(
    cli: Cli, bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    document = cli("eval", bundle, "--data", data, "--timing-samples", 2, "--json", commands=COMMANDS).document()
    assert (document["full_ms_from"], document["full_ms"] > 0) == ("segments with heads", True)


def test_every_contender_answers_every_sample_in_turn() -> None:
    calls: list[tuple[str, int]] = []
    samples = [{"x": np.array([i])} for i in range(2)]
    time_samples(
        [lambda s: calls.append(("a", int(s["x"][0]))), lambda s: calls.append(("b", int(s["x"][0])))], samples
    )
    assert calls[2:6] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_the_table_says_what_was_saved_at_what_loss(cli: Cli, bundle: Path, data: Path) -> None:
    stdout = cli("eval", bundle, "--data", data, "--timing-samples", 2, commands=COMMANDS).stdout
    assert "without exits" in stdout
    assert "% of the MACs at a loss of" in stdout


def test_data_that_cannot_be_used_ends_with_exit_code_4(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.full((4, 4), np.nan, F32), y=np.array([0, 1, 0, 1]))
    outcome = cli("eval", bundle, "--data", tmp_path / "bad.npz", "--json", commands=COMMANDS)
    assert (outcome.code, outcome.stdout) == (4, "")
    assert "bad.npz" in outcome.stderr


def test_samples_without_labels_are_a_data_error(bundle: Path, data: Path) -> None:
    from edgeexit.data import open_files

    cascade = Cascade.open(bundle)
    dataset = open_files([data], cascade.manifest.inputs, cascade.manifest.preprocessing)
    with pytest.raises(DataError, match="no labelled samples"):
        evaluate(cascade, dataset, batch=8, advance=lambda n=1: None)
