"""Comparison: every contender at the same budgets, on the same logits."""

from __future__ import annotations

import numpy as np
import pytest

from core.logits import drawn, rising
from edgeexit.comparison import compare, cross_fit, summarise
from edgeexit.contenders import Contender, default_contenders, find_contenders
from edgeexit.errors import DataError, UsageError
from edgeexit.policies import POLICIES, MaxProbability, Policy, Setting
from edgeexit.replay import replay
from edgeexit.thresholds import METHODS, Budget
from edgeexit.trials import Trial, cross_trials, steps, trials
from edgeexit.tuning import tune

FIT, TEST, COSTS = drawn(400, seed=1), drawn(300, seed=2), rising(3)
TWO = find_contenders(["max-probability+joint", "pooled-probability"])
SEED_IS_CHANCE = next((name for name, row in POLICIES.items() if row.random), None)


def test_there_is_a_row_for_every_contender_and_budget_in_their_order() -> None:
    rows = compare(FIT, TEST, COSTS, [0.8, 0.5], contenders=TWO)
    assert [(row.policy, row.budget) for row in rows] == [
        ("max-probability+joint", 0.8),
        ("max-probability+joint", 0.5),
        ("pooled-probability", 0.8),
        ("pooled-probability", 0.5),
    ]


def test_a_row_is_what_tuning_on_one_set_and_replaying_the_other_gives() -> None:
    (row,) = compare(FIT, TEST, COSTS, [0.6], contenders=TWO[1:])
    tuned = tune("pooled-probability", FIT.logits, FIT.labels, COSTS, Budget(0.6))
    answers = replay(tuned.policy, TEST.logits)
    assert row.accuracy == pytest.approx((answers.label == TEST.labels).mean())
    assert row.cost == pytest.approx(COSTS[answers.exit].mean())


def test_the_standard_errors_are_those_of_the_means() -> None:
    contender = TWO[0]
    right = [np.array([True, True, False, True]), np.array([True, False, False, True])]
    taken = [np.array([0, 0, 1, 1], np.int16), np.array([0, 1, 1, 1], np.int16)]
    found = [Trial(contender, 0.5, seed, taken[seed], right[seed]) for seed in range(2)]
    (row,) = summarise(found, np.array([0.2, 1.0]))
    assert row.accuracy == pytest.approx(0.625)
    over_seeds = np.var([0.75, 0.5], ddof=1) / 2
    assert row.accuracy_error == pytest.approx(np.sqrt(over_seeds + (0.75 * 0.25 + 0.5 * 0.5) / 2 / 4))
    cost_over_seeds = np.var([0.6, 0.8], ddof=1) / 2
    assert row.cost_error == pytest.approx(np.sqrt(cost_over_seeds + (0.16 + 0.12) / 2 / 4))
    assert row.seeds == 2


def test_a_budget_below_the_first_exit_leaves_the_row_empty_with_a_note() -> None:
    low, high = compare(FIT, TEST, COSTS, [0.1, 0.9], contenders=TWO[:1])
    assert (low.accuracy, low.cost, low.reachable) == (None, None, False)
    assert "below the cost of the cheapest exit" in low.note
    assert high.reachable
    assert high.note == ""


def test_progress_counts_every_result() -> None:
    done: list[int] = []
    compare(FIT, TEST, COSTS, [0.1, 0.6], contenders=TWO, seeds=2, advance=lambda: done.append(1))
    assert len(done) == steps(TWO, [0.1, 0.6], 2)


def test_a_policy_without_chance_is_fitted_once() -> None:
    found = trials(FIT, TEST, COSTS, [0.6], contenders=TWO, seeds=3)
    assert [trial.seed for trial in found] == [0, 0]


@pytest.mark.skipif(SEED_IS_CHANCE is None, reason="no policy draws anything")
def test_a_policy_with_chance_in_its_fit_is_fitted_with_every_seed() -> None:
    (contender,) = find_contenders([f"{SEED_IS_CHANCE}+joint"])
    found = trials(drawn(60, seed=1), drawn(60, seed=2), COSTS, [0.6], contenders=[contender], seeds=2)
    assert [trial.seed for trial in found] == [0, 1]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, Setting]]:
    """The first exit's logits and the setting of every fit of max-probability."""
    seen: list[tuple[np.ndarray, Setting]] = []
    original = MaxProbability.fit

    def fit(logits: list[np.ndarray], labels: np.ndarray, setting: Setting) -> Policy:
        seen.append((logits[0], setting))
        return original(logits, labels, setting)

    monkeypatch.setattr(MaxProbability, "fit", fit)
    return seen


def test_a_policy_is_fitted_once_for_all_budgets(fits: list[tuple[np.ndarray, Setting]]) -> None:
    compare(FIT, TEST, COSTS, [0.5, 0.6, 0.7], contenders=TWO[:1])
    assert [setting.budget for _, setting in fits] == [None]


def test_a_policy_whose_fit_depends_on_the_budget_is_fitted_for_each(
    fits: list[tuple[np.ndarray, Setting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, "max-probability", POLICIES["max-probability"]._replace(uses_budget=True))
    compare(FIT, TEST, COSTS, [0.5, 0.1, 0.7], contenders=TWO[:1])
    assert [setting.budget for _, setting in fits] == [0.5, 0.7]


def test_with_folds_every_sample_is_measured_by_the_one_fit_that_did_not_see_it(
    fits: list[tuple[np.ndarray, Setting]],
) -> None:
    (trial,) = cross_trials(FIT, COSTS, [0.6], folds=4, contenders=TWO[:1])
    assert len(trial.right) == FIT.samples
    seen = np.concatenate([first[:, 0] for first, _ in fits])
    assert (np.isin(FIT.logits[0][:, 0], seen)).all()
    assert np.unique(seen, return_counts=True)[1].tolist() == [3] * FIT.samples


def test_folds_have_every_class_even_if_it_has_two_samples() -> None:
    few = drawn(200, classes=4, seed=5)
    keep = np.flatnonzero(few.labels != 3).tolist() + np.flatnonzero(few.labels == 3)[:2].tolist()
    rows = cross_fit(few.rows(np.asarray(keep)), COSTS, [0.7], contenders=TWO[:1])
    assert rows[0].reachable


def test_a_class_with_one_sample_cannot_be_cross_fitted() -> None:
    few = drawn(200, classes=4, seed=5)
    keep = np.flatnonzero(few.labels != 3).tolist() + np.flatnonzero(few.labels == 3)[:1].tolist()
    with pytest.raises(DataError, match=r"a single sample(.|\n)*one of class 3"):
        cross_fit(few.rows(np.asarray(keep)), COSTS, [0.7], contenders=TWO[:1])


def test_one_fold_is_no_cross_fit() -> None:
    with pytest.raises(UsageError, match="too few folds"):
        cross_fit(FIT, COSTS, [0.7], folds=1, contenders=TWO[:1])


def test_logits_of_another_cascade_are_refused() -> None:
    with pytest.raises(DataError, match=r"not of the same cascade(.|\n)*2 exits"):
        compare(FIT, drawn(50, exits=2), COSTS, [0.5], contenders=TWO)


@pytest.mark.parametrize("budget", [-1.0, float("nan"), float("inf")])
def test_a_budget_that_is_no_positive_number_is_refused(budget: float) -> None:
    with pytest.raises(UsageError, match="not a budget"):
        compare(FIT, TEST, COSTS, [budget], contenders=TWO)


def test_logits_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(DataError, match="too few samples"):
        compare(FIT.rows(np.arange(1)), TEST, COSTS, [0.5], contenders=TWO)


def test_every_policys_own_threshold_method_is_registered() -> None:
    assert {row.thresholds for row in POLICIES.values()} <= METHODS.keys()


def test_the_default_contenders_are_every_policy_its_own_way_selfxit_and_every_policy_with_joint_thresholds() -> None:
    contenders = default_contenders()
    by_name = {contender.name: contender for contender in contenders}
    assert len(by_name) == len(contenders)
    for policy, row in POLICIES.items():
        assert by_name[policy] == Contender(policy, policy, row.thresholds)
        assert Contender(policy if row.thresholds == "joint" else f"{policy}+joint", policy, "joint") in contenders
    assert by_name["selfxit"] == Contender("selfxit", "max-probability", "tolerance")


@pytest.mark.parametrize("contender", default_contenders(), ids=lambda contender: contender.name)
def test_a_contender_is_found_by_its_name(contender: Contender) -> None:
    assert find_contenders([contender.name]) == [contender]


def test_all_stands_for_the_default_contenders_and_nobody_is_named_twice() -> None:
    assert find_contenders(["all", "max-probability"]) == default_contenders()


@pytest.mark.parametrize("word", ["telepathy", "max-probability+telepathy", "", "+joint", "max-probability+"])
def test_a_contender_that_is_not_known_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="no such"):
        find_contenders([word])
