"""`edgeexit compare`: every policy at the same budgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.cached import CachedLogits
from edgeexit.comparison import compare, cross_fit
from edgeexit.contenders import default_contenders, find_contenders
from runtime.cascades import COMMANDS, F32, forward, write_tiny

Cli = Callable[..., Any]

COSTS = np.array([0.4, 0.7, 1.1])
TWO = ("--policies", "max-probability+joint,pooled-probability")


def drawn(samples: int, seed: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((samples, 4)).astype(F32)
    answers = forward(x)[-1].argmax(axis=1)
    return {"x": x, "y": np.where(np.arange(samples) % 5 == 0, np.arange(samples) % 3, answers)}


DATA, CALIBRATION = drawn(150, 31), drawn(200, 32)


def cached(arrays: dict[str, np.ndarray]) -> CachedLogits:
    return CachedLogits(tuple(forward(arrays["x"])), arrays["y"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def run(cli: Cli, bundle: Path, tmp_path: Path) -> Cli:
    """Runs `edgeexit compare` on the tiny bundle and data."""
    np.savez(tmp_path / "data.npz", **DATA)
    np.savez(tmp_path / "calibration.npz", **CALIBRATION)

    def compare(*arguments: object, calibrated: bool = True, on: str = "data.npz") -> Any:
        more = ["--calibration", tmp_path / "calibration.npz"] if calibrated else []
        return cli("compare", bundle, "--data", tmp_path / on, *more, *arguments, commands=COMMANDS)

    return compare


def test_the_document_has_the_promised_keys(run: Cli) -> None:
    document = run(*TWO, "--json").document()
    assert list(document) == ["bundle", "samples", "fitted_on", "labels", "full_accuracy", "rows"]
    assert {tuple(row) for row in document["rows"]} == {
        (
            "policy",
            "thresholds",
            "budget",
            "accuracy",
            "accuracy_error",
            "cost",
            "cost_error",
            "seeds",
            "reachable",
            "note",
        )
    }


def test_rows_are_fitted_on_the_calibration_data_and_measured_on_the_data(run: Cli) -> None:
    rows = run(*TWO, "--budgets", "0.5,0.8", "--json").document()["rows"]
    expected = compare(
        cached(CALIBRATION), cached(DATA), COSTS, [0.5, 0.8], contenders=find_contenders(TWO[1].split(","))
    )
    assert [(row["policy"], row["budget"]) for row in rows] == [(row.policy, row.budget) for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert row["accuracy"] == pytest.approx(wanted.accuracy, abs=0.01)
        assert row["cost"] == pytest.approx(wanted.cost, abs=0.01)


def test_without_calibration_data_the_folds_of_the_data_are_used(run: Cli) -> None:
    document = run(*TWO, "--budgets", "0.8", "--json", calibrated=False).document()
    expected = cross_fit(cached(DATA), COSTS, [0.8], contenders=find_contenders(TWO[1].split(",")))
    assert document["fitted_on"] == "the other 4 of 5 folds"
    for row, wanted in zip(document["rows"], expected, strict=True):
        assert row["accuracy"] == pytest.approx(wanted.accuracy, abs=0.01)


def test_all_policies_are_compared_unless_some_are_named(run: Cli) -> None:
    rows = run("--budgets", "0.9", "--seeds", 1, "--json").document()["rows"]
    assert [row["policy"] for row in rows] == [contender.name for contender in default_contenders()]
    assert all(row["cost"] <= 0.9 * 1.2 for row in rows if row["reachable"])


def test_the_whole_models_answers_count_on_request(run: Cli) -> None:
    document = run(*TWO, "--labels", "model", "--json").document()
    assert (document["labels"], document["full_accuracy"]) == ("model", 1.0)


def test_a_budget_that_nobody_keeps_leaves_its_rows_empty(run: Cli) -> None:
    outcome = run(*TWO, "--budgets", "0.2,0.8", "--json")
    low, high, *_ = outcome.document()["rows"]
    assert outcome.code == 0
    assert (low["accuracy"], low["cost"], low["reachable"]) == (None, None, False)
    assert "below the cost" in low["note"]
    assert high["reachable"]


def test_if_nobody_keeps_any_budget_the_exit_code_is_5_with_the_reachable_range(run: Cli) -> None:
    outcome = run(*TWO, "--budgets", "0.1,0.2", "--json")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert "0.4 to 1.1 of the whole model's MACs" in outcome.stderr


def test_the_tables_show_accuracy_and_cost_and_mark_the_best(run: Cli) -> None:
    stdout = run(*TWO, "--budgets", "0.2,0.5,0.8").stdout
    accuracies, _, costs = stdout.partition("mean cost")
    assert [line.count("±") for line in accuracies.splitlines() if "±" in line] == [2, 2]
    assert accuracies.count("*") >= 3  # the heading's, and one for each budget that is kept
    assert costs.count("pooled-probability") == 1
    assert "≤ 0.2: the budget is below the cost of the cheapest exit" in stdout


def test_progress_goes_to_standard_error(run: Cli) -> None:
    outcome = run(*TWO, "--json")
    assert "fitting policies" in outcome.stderr
    assert outcome.stdout.startswith("{")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--budgets", ""),
        ("--budgets", "half"),
        ("--budgets", "0.4,,0.6"),
        ("--budgets", "0.4,0"),
        ("--budgets", "-0.4"),
        ("--budgets", "nan"),
        ("--budgets", "inf"),
        ("--policies", "telepathy"),
        ("--policies", "max-probability+telepathy"),
        ("--policies", ""),
        ("--seeds", 0),
        ("--labels", "mine"),
    ],
)
def test_a_request_that_makes_no_sense_is_a_usage_error(run: Cli, arguments: tuple[object, ...]) -> None:
    outcome = run(*arguments, "--json")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": DATA["x"]}, "has no array y"),
        ({"x": DATA["x"][:1], "y": DATA["y"][:1]}, "one class only"),
        ({"x": DATA["x"][:6], "y": DATA["y"][:6]}, "too few samples"),
        ({name: array[DATA["y"] != 2] for name, array in DATA.items()}, "none of été"),
        ({"x": DATA["x"], "y": DATA["y"] - 1}, "out of range"),
    ],
    ids=["no labels", "one sample", "six samples", "an empty class", "labels out of range"],
)
def test_data_that_cannot_be_fitted_on_end_with_exit_code_4(
    run: Cli, tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    outcome = run("--json", *TWO, calibrated=False, on="bad.npz")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert words in outcome.stderr
