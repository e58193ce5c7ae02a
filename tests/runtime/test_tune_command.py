"""`edgeexit tune`: another bundle that decides as was asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.bundles import bundle_parts, snapshot
from core.profiles import a_profile
from edgeexit.bundle import Bundle
from edgeexit.policies import POLICIES
from edgeexit.profiles import write_profile
from edgeexit.replay import replay
from edgeexit.thresholds import METHODS
from runtime.cascades import COMMANDS, EXITS, F32, forward, tiny_parts, write_tiny

Cli = Callable[..., Any]

N = 240
X = np.random.default_rng(21).standard_normal((N, 4)).astype(F32)
CERTAIN = forward(X)[-1].argmax(axis=1)
Y = np.where(np.arange(N) % 5 == 0, np.arange(N) % 3, CERTAIN)
COSTS = np.array([0.4, 0.7, 1.1])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.eexit")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


@pytest.fixture
def tune(cli: Cli, bundle: Path, data: Path, tmp_path: Path) -> Cli:
    """Runs `edgeexit tune` on the tiny bundle, writing `tuned.eexit`."""

    def run(*arguments: object, on: Path = data, to: Path = tmp_path / "tuned.eexit") -> Any:
        return cli("tune", bundle, "--data", on, *arguments, "-o", to, commands=COMMANDS)

    return run


def tuned_bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(tmp_path / "tuned.eexit")


def test_the_document_has_the_promised_keys(tune: Cli) -> None:
    document = tune("--budget", 0.8, "--json").document()
    assert list(document) == [
        "bundle",
        "policy",
        "thresholds",
        "labels",
        "max_drop",
        "delta",
        "budget",
        "unit",
        "times_from",
        "samples",
        "accuracy",
        "full_accuracy",
        "accuracy_drop",
        "mean_cost",
        "mean_ms",
        "exits",
    ]
    assert [list(row) for row in document["exits"]] == [["name", "threshold", "share", "accuracy", "cost"]] * EXITS


@pytest.mark.parametrize("arguments", [("--budget", 0.8), ("--max-drop", 0.05)], ids=["budget", "loss"])
def test_the_new_bundle_does_what_the_document_says(tune: Cli, tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    document = tune(*arguments, "--json").document()
    tuned = tuned_bundle(tmp_path)
    answers = replay(tuned.policy(), list(forward(X)))
    assert document["accuracy"] == pytest.approx((answers.label == Y).mean(), abs=0.01)
    assert document["mean_cost"] == pytest.approx(COSTS[answers.exit].mean(), abs=0.01)
    assert [row["share"] for row in document["exits"]] == pytest.approx(answers.shares(EXITS), abs=0.01)
    summary = tuned.manifest.calibration
    assert (summary.accuracy, summary.mean_cost) == (document["accuracy"], document["mean_cost"])


def test_a_budget_is_kept_with_its_reserve(tune: Cli) -> None:
    asked = ("--budget", 0.55, "--policy", "max-probability", "--json")  # whose scores need no fit
    free, careful = (tune(*asked, "--reserve", z).document()["mean_cost"] for z in (0, 3))
    assert careful < free <= 0.55


@pytest.mark.parametrize(("goal", "method"), [(("--budget", 0.8), "risk"), (("--max-drop", 0.05), "joint")])
def test_a_goal_has_a_threshold_method_of_its_own(tune: Cli, goal: tuple[Any, ...], method: str) -> None:
    assert tune(*goal, "--json").document()["thresholds"] == method


def test_a_largest_loss_is_kept(tune: Cli) -> None:
    document = tune("--max-drop", 0.03, "--json").document()
    assert document["accuracy_drop"] <= 0.03
    assert document["mean_cost"] < 1.1


def test_the_new_bundle_verifies(tune: Cli, cli: Cli, tmp_path: Path) -> None:
    tune("--budget", 0.8)
    assert cli("verify", tmp_path / "tuned.eexit", commands=COMMANDS).code == 0


def test_the_old_bundle_stays_as_it_was(tune: Cli, bundle: Path) -> None:
    before = bundle.read_bytes()
    tune("--budget", 0.8)
    assert bundle.read_bytes() == before


def test_a_tuned_bundle_can_be_tuned_again(tune: Cli, cli: Cli, data: Path, tmp_path: Path) -> None:
    tune("--budget", 0.5, "--policy", "pooled-probability")
    again = cli(
        "tune", tmp_path / "tuned.eexit", "--data", data, "--budget", 0.9, "--policy", "max-probability",
        "-o", tmp_path / "again", "--json", commands=COMMANDS,
    )  # fmt: skip
    assert again.code == 0
    assert Bundle.open(tmp_path / "again").manifest.calibration.budget == 0.9


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_asked_for(tune: Cli, tmp_path: Path, name: str) -> None:
    document = tune("--budget", 0.9, "--policy", name, "--json").document()
    assert document["policy"] == name
    assert tuned_bundle(tmp_path).manifest.policy.name == name
    assert document["mean_cost"] <= 0.9


@pytest.mark.parametrize("method", METHODS)
def test_every_threshold_method_can_be_asked_for(tune: Cli, method: str) -> None:
    document = tune("--budget", 0.9, "--policy", "max-probability", "--thresholds", method, "--json").document()
    assert document["thresholds"] == method
    assert document["mean_cost"] <= 0.9


def test_equal_seeds_give_equal_bytes(tune: Cli, tmp_path: Path) -> None:
    first, second = tmp_path / "first.eexit", tmp_path / "second.eexit"
    for path in (first, second):
        tune("--budget", 0.8, "--seed", 3, to=path)
    assert first.read_bytes() == second.read_bytes()


def test_without_labels_the_whole_models_answers_count(tune: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "unlabelled.npz", x=X)
    document = tune("--max-drop", 0.05, "--labels", "model", "--json", on=tmp_path / "unlabelled.npz").document()
    assert (document["full_accuracy"], document["labels"]) == (1.0, "model")
    assert tuned_bundle(tmp_path).manifest.calibration.labels == "model"
    answers = replay(tuned_bundle(tmp_path).policy(), list(forward(X)))
    assert document["accuracy"] == pytest.approx((answers.label == CERTAIN).mean(), abs=0.01)


def test_a_guarantee_is_recorded(tune: Cli, tmp_path: Path) -> None:
    document = tune("--max-drop", 0.2, "--delta", 0.2, "--json").document()
    assert (document["max_drop"], document["delta"]) == (0.2, 0.2)
    assert tuned_bundle(tmp_path).manifest.calibration.delta == 0.2


def profile(tmp_path: Path, *times: float) -> Path:
    path = tmp_path / "profile.json"
    write_profile(path, a_profile(tiny_parts()[0], times))
    return path


def test_a_budget_in_milliseconds_reckons_with_the_profile(tune: Cli, tmp_path: Path) -> None:
    path = profile(tmp_path, 2.0, 10.0, 11.0)
    document = tune("--budget", 6, "--unit", "ms", "--profile", path, "--json").document()
    shares = np.array([row["share"] for row in document["exits"]])
    assert document["mean_ms"] == pytest.approx(shares @ [2.0, 10.0, 11.0])
    assert document["mean_ms"] <= 6
    assert document["mean_cost"] == pytest.approx(shares @ COSTS)
    assert [row["ms"] for row in document["exits"]] == [2.0, 10.0, 11.0]
    assert document["times_from"] == str(path)


def test_costs_in_the_bundle_stay_shares_of_the_macs(tune: Cli, tmp_path: Path) -> None:
    tune("--budget", 6, "--unit", "ms", "--profile", profile(tmp_path, 2.0, 10.0, 11.0))
    manifest = tuned_bundle(tmp_path).manifest
    assert [entry.cost for entry in manifest.exits] == COSTS.tolist()
    assert (manifest.calibration.budget, manifest.calibration.unit) == (6.0, "ms")
    assert manifest.calibration.mean_cost < 1.1


def test_without_a_profile_the_exits_are_timed_here(tune: Cli) -> None:
    document = tune("--budget", 10_000, "--unit", "ms", "--json").document()
    times = [row["ms"] for row in document["exits"]]
    assert 0 < times[0] < times[1] < times[2]
    assert document["times_from"] == "measured now"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", 0.1), r"got: 0\.1(.|\n)*0\.4 (.|\n)*1\.1 (.|\n)*share of the whole model's MACs"),
        (("--budget", 1, "--unit", "ms"), r"got: 1\n(.|\n)*2 (.|\n)*11 (.|\n)*milliseconds"),
    ],
)
def test_a_budget_out_of_reach_ends_with_exit_code_5_and_the_range_in_its_unit(
    tune: Cli, tmp_path: Path, arguments: tuple[Any, ...], words: str
) -> None:
    more = ["--profile", profile(tmp_path, 2.0, 10.0, 11.0)] if "ms" in arguments else []
    outcome = tune(*arguments, *more, "--json")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert re.search(words, outcome.stderr)
    assert not (tmp_path / "tuned.eexit").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--max-drop", 0.01, "--budget", 0.5),
        ("--budget", 0),
        ("--budget", -1),
        ("--budget", "nan"),
        ("--budget", "inf"),
        ("--budget", "half"),
        ("--max-drop", -0.1),
        ("--max-drop", 1),
        ("--budget", 0.5, "--delta", 0.1),
        ("--delta", 0.1),
        ("--max-drop", 0.1, "--delta", 0),
        ("--max-drop", 0, "--delta", 0.1),
        ("--max-drop", 0.1, "--delta", 1),
        ("--max-drop", 0.1, "--delta", 0.1, "--reserve", 1),
        ("--max-drop", 0.1, "--delta", 0.1, "--thresholds", "joint"),
        ("--max-drop", 0.1, "--unit", "ms"),
        ("--budget", 0.5, "--unit", "hours"),
        ("--budget", 0.5, "--profile", "p.json"),
        ("--budget", 0.5, "--unit", "macs", "--profile", "p.json"),
        ("--budget", 0.5, "--policy", "telepathy"),
        ("--budget", 0.5, "--thresholds", "guess"),
        ("--budget", 0.5, "--reserve", -1),
        ("--budget", 0.5, "--labels", "mine"),
    ],
)
def test_a_request_that_makes_no_sense_is_a_usage_error_and_writes_nothing(
    tune: Cli, tmp_path: Path, arguments: tuple[Any, ...]
) -> None:
    before = snapshot(tmp_path)
    outcome = tune(*arguments, "--json")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "Traceback" not in outcome.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X}, "has no array y"),
        ({"x": X[:1], "y": Y[:1]}, "one class only"),
        ({"x": X[:6], "y": Y[:6]}, "too few samples"),
        ({"x": X[Y != 2], "y": Y[Y != 2]}, "none of été"),
        ({"x": X, "y": Y + 1}, "out of range"),
        ({"x": np.where(np.arange(4) == 1, np.nan, X).astype(F32), "y": Y}, "cannot be used"),
    ],
    ids=["no labels", "one sample", "six samples", "an empty class", "labels out of range", "NaN"],
)
def test_data_that_cannot_be_fitted_on_end_with_exit_code_4_and_write_nothing(
    tune: Cli, tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    before = snapshot(tmp_path)
    outcome = tune("--budget", 0.8, "--json", on=tmp_path / "bad.npz")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert words in outcome.stderr
    assert snapshot(tmp_path) == before


def test_inputs_that_make_logits_overflow_end_with_exit_code_4(tune: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "huge.npz", x=np.where(np.arange(4) == 1, 3e38, X).astype(F32), y=Y)
    outcome = tune("--budget", 0.8, on=tmp_path / "huge.npz")
    assert outcome.code == 4
    assert "not finite" in outcome.stderr


def test_a_damaged_profile_ends_with_exit_code_6(tune: Cli, tmp_path: Path) -> None:
    path = profile(tmp_path, 2.0, 10.0, 11.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    outcome = tune("--budget", 5, "--unit", "ms", "--profile", path, "--json")
    assert (outcome.code, outcome.stdout) == (6, "")
    assert "profile.json does not match its digest" in outcome.stderr


def test_a_profile_of_another_bundle_ends_with_exit_code_6(tune: Cli, tmp_path: Path) -> None:
    write_profile(tmp_path / "other.json", a_profile(bundle_parts(EXITS)[0], (2.0, 10.0, 11.0)))
    outcome = tune("--budget", 5, "--unit", "ms", "--profile", tmp_path / "other.json")
    assert outcome.code == 6
    assert "is of another bundle" in outcome.stderr


def test_a_profile_that_is_not_there_ends_with_exit_code_6(tune: Cli, tmp_path: Path) -> None:
    assert tune("--budget", 5, "--unit", "ms", "--profile", tmp_path / "none.json").code == 6


def test_a_profile_stays_good_for_the_tuned_bundle(tune: Cli, cli: Cli, data: Path, tmp_path: Path) -> None:
    path = profile(tmp_path, 2.0, 10.0, 11.0)
    tune("--budget", 6, "--unit", "ms", "--profile", path, "--policy", "pooled-probability")
    again = cli(
        "tune", tmp_path / "tuned.eexit", "--data", data, "--budget", 6, "--unit", "ms", "--profile", path,
        "-o", tmp_path / "again", commands=COMMANDS,
    )  # fmt: skip
    assert again.code == 0


def test_the_bundle_is_not_written_over_itself(tune: Cli, bundle: Path, tmp_path: Path) -> None:
    before = bundle.read_bytes()
    (tmp_path / "link.eexit").symlink_to(bundle)
    for place in (bundle, tmp_path / "link.eexit"):
        outcome = tune("--budget", 0.8, to=place)
        assert (outcome.code, "over the one that it is made of" in outcome.stderr) == (2, True)
    assert bundle.read_bytes() == before


def test_a_bundle_is_not_written_into_the_folder_of_the_one_it_is_made_of(cli: Cli, data: Path, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "folder")
    before = snapshot(source)
    outcome = cli("tune", source, "--data", data, "--budget", 0.8, "-o", source / "new", commands=COMMANDS)
    assert outcome.code == 2
    assert snapshot(source) == before


def test_what_is_no_bundle_is_not_replaced(tune: Cli, tmp_path: Path) -> None:
    (tmp_path / "precious.eexit").write_text("mine")
    assert tune("--budget", 0.8, to=tmp_path / "precious.eexit").code == 2
    assert (tmp_path / "precious.eexit").read_text() == "mine"


def test_a_bundle_that_is_not_there_ends_with_exit_code_3(cli: Cli, data: Path, tmp_path: Path) -> None:
    outcome = cli("tune", tmp_path / "none", "--data", data, "--budget", 1, "-o", tmp_path / "n", commands=COMMANDS)
    assert outcome.code == 3


@pytest.mark.parametrize("word", ["exit0", "takes all", "samples: accuracy", "without exits"])
def test_the_table_says_where_samples_leave(tune: Cli, word: str) -> None:
    assert word in tune("--budget", 0.8).stdout


def test_the_table_has_times_where_they_were_asked_for(tune: Cli, tmp_path: Path) -> None:
    stdout = tune("--budget", 6, "--unit", "ms", "--profile", profile(tmp_path, 2.0, 10.0, 11.0)).stdout
    assert "ms a sample" in stdout
    assert "11.00" in stdout
