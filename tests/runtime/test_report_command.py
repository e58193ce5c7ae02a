"""`edgeexit report`: the page, the table and the document, and how bad requests end."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgeexit.manifest import CalibrationSummary
from edgeexit.replay import replay
from edgeexit_runtime.reporting import facts, notes
from runtime.cascades import COMMANDS, EXITS, F32, forward, tiny_policy, write_tiny

Cli = Callable[..., Any]

N = 120
X = np.random.default_rng(11).standard_normal((N, 4)).astype(F32)
Y = np.where(np.arange(N) % 3 == 0, np.arange(N) // 3 % 3, forward(X)[-1].argmax(axis=1))
ANSWERS = replay(tiny_policy(), list(forward(X)))
QUICK = ("--policies", "max-probability+joint,pooled-probability", "--budgets", "0.5,0.7,1.0")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.eexit")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


@pytest.fixture
def report(cli: Cli, bundle: Path, data: Path, tmp_path: Path) -> Cli:
    """Runs the command on the tiny bundle: the outcome, and the page or None."""

    def run(*options: object, on: Path = bundle, measured: Path = data) -> tuple[Any, str | None]:
        out = tmp_path / "page.html"
        outcome = cli("report", on, "--data", measured, "-o", out, *options, commands=COMMANDS)
        return outcome, out.read_text("utf-8") if out.exists() else None

    return run


def test_the_page_is_written_and_the_savings_are_printed(report: Cli) -> None:
    outcome, page = report(*QUICK)
    assert outcome.code == 0, outcome.stderr
    assert page.startswith("<!doctype html>")
    assert "Speed-up in MACs" in outcome.stdout
    assert outcome.stdout.strip() in page
    assert "page.html" in outcome.stderr


def test_the_document_has_the_figures_of_the_replay(report: Cli) -> None:
    outcome, _ = report("--policies", "none", "--json")
    document = outcome.document()
    right = ANSWERS.label == Y
    assert (document["samples"], document["accuracy"]) == (N, right.mean())
    assert document["full_accuracy"] == (forward(X)[-1].argmax(axis=1) == Y).mean()
    assert document["mean_cost"] == pytest.approx(np.array([0.4, 0.7, 1.1])[ANSWERS.exit].mean())
    assert [row["share"] for row in document["exits"]] == ANSWERS.shares(EXITS).tolist()
    assert document["savings"]["mean_macs"] == pytest.approx(np.array([120, 210, 330])[ANSWERS.exit].mean())
    assert document["rows"] == []


def test_the_document_has_the_rows_of_the_comparison(report: Cli) -> None:
    outcome, page = report(*QUICK, "--json")
    document = outcome.document()
    assert [(row["policy"], row["budget"]) for row in document["rows"]] == [
        (policy, budget) for policy in ("max-probability+joint", "pooled-probability") for budget in (0.5, 0.7, 1.0)
    ]
    assert document["page_bytes"] == len(page.encode())
    assert "and the other way round." in page


def test_with_calibration_data_policies_are_fitted_there(report: Cli, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((80, 4)).astype(F32)
    np.savez(tmp_path / "calibration.npz", x=x, y=np.arange(80) % 3)
    outcome, page = report(*QUICK, "--calibration", tmp_path / "calibration.npz")
    assert outcome.code == 0, outcome.stderr
    assert "80 calibration samples" in page


def test_of_more_data_than_asked_for_some_are_drawn_and_the_page_says_so(report: Cli) -> None:
    outcome, page = report("--policies", "none", "--samples", 50, "--json")
    assert outcome.document()["samples"] == 50
    assert "50 samples, drawn at random from the 120" in page


def test_without_labels_the_whole_models_answers_count(report: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "unlabelled.npz", x=X)
    outcome, page = report("--policies", "none", "--labels", "model", "--json", measured=tmp_path / "unlabelled.npz")
    document = outcome.document()
    assert document["full_accuracy"] == 1
    assert document["accuracy"] == (ANSWERS.label == forward(X)[-1].argmax(axis=1)).mean()
    assert "No labels were used" in page


def test_pictures_are_on_the_page_of_a_bundle_that_takes_pictures(report: Cli, tmp_path: Path) -> None:
    folder, random = tmp_path / "pictures", np.random.default_rng(0)
    for name in ("cat", "dog", "été"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(folder / name / f"{i}.png")
    bundle = write_tiny(tmp_path / "pictures.eexit", pictures=True)
    outcome, page = report("--policies", "none", on=bundle, measured=folder)
    assert outcome.code == 0, outcome.stderr
    assert len(re.findall(r'<img src="data:image/png;base64,', page)) > 10
    assert str(tmp_path) not in page


def test_of_paths_only_the_last_name_is_on_the_page(report: Cli, tmp_path: Path) -> None:
    _, page = report("--policies", "none")
    assert str(tmp_path) not in page
    assert "tiny.eexit" in page
    assert "data.npz" in page


def test_the_page_is_the_same_every_time(report: Cli) -> None:
    assert report(*QUICK)[1] == report(*QUICK)[1]


def test_data_without_labels_end_with_exit_code_4(report: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "unlabelled.npz", x=X)
    outcome, page = report(*QUICK, measured=tmp_path / "unlabelled.npz")
    assert (outcome.code, page) == (4, None)
    assert "no array y" in outcome.stderr


def test_a_class_that_cannot_be_fitted_on_ends_with_exit_code_4_and_its_name(report: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=X, y=Y % 2)
    outcome, page = report(*QUICK, measured=tmp_path / "two.npz")
    assert (outcome.code, page) == (4, None)
    assert "été" in outcome.stderr


def test_a_class_without_a_sample_needs_no_fit_and_has_a_page(report: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=X, y=Y % 2)
    assert report("--policies", "none", measured=tmp_path / "two.npz")[0].code == 0


def test_a_bundle_that_is_none_ends_with_exit_code_3(report: Cli, data: Path) -> None:
    assert report(*QUICK, on=data)[0].code == 3


@pytest.mark.parametrize("options", [("--budgets", "0.4,x"), ("--budgets", "-1"), ("--policies", "nonsense")])
def test_requests_that_make_no_sense_end_with_exit_code_2(report: Cli, options: tuple[str, ...]) -> None:
    outcome, page = report(*options)
    assert (outcome.code, page) == (2, None)


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(
    cli: Cli, bundle: Path, data: Path, tmp_path: Path
) -> None:
    for out in (tmp_path / "nowhere" / "page.html", tmp_path):
        outcome = cli("report", bundle, "--data", data, "-o", out, commands=COMMANDS)
        assert outcome.code == 2
        assert "running" not in outcome.stderr


def test_without_jinja_the_command_ends_with_exit_code_6_before_anything_runs(
    report: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    outcome, page = report(*QUICK)
    assert (outcome.code, page) == (6, None)
    assert "edgeexit-runtime[report]" in outcome.stderr
    assert "running" not in outcome.stderr


def test_budgets_that_nobody_can_keep_still_have_a_page(report: Cli) -> None:
    outcome, page = report("--policies", "pooled-probability", "--budgets", "0.1")
    assert outcome.code == 0, outcome.stderr
    assert "None of the budgets can be kept" in page


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"max_drop": 0.01}, "a loss of 1.00\u202f% at most"),
        ({"max_drop": 0.01, "delta": 0.1}, "a loss of 1.00\u202f% at most, with probability 0.90"),
        ({"budget": 0.5, "unit": "macs"}, "a mean cost of 0.50 of the whole model"),
        ({"budget": 12.0, "unit": "ms"}, "a mean cost of 12.00 ms"),
    ],
)
def test_the_page_tells_what_the_thresholds_were_fitted_for(asked: dict[str, Any], told: str) -> None:
    from core.evidence import random_evidence

    manifest, evidence, _ = random_evidence()
    nothing: dict[str, Any] = {"max_drop": None, "delta": None, "budget": None, "unit": None}
    calibration: CalibrationSummary = msgspec.structs.replace(manifest.calibration, **{**nothing, **asked})
    manifest = msgspec.structs.replace(manifest, calibration=calibration)
    assert dict(facts(manifest, "data", evidence))["fitted for"] == told


def test_there_is_nothing_to_note_about_all_samples_with_labels() -> None:
    assert notes(100, 100, "data") == []
