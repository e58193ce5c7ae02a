"""Certified tuning: a loss that is kept with a stated probability."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from core.logits import drawn, rising
from edgeexit.certified import CERTIFIED, tune_certified
from edgeexit.errors import DataError, UnreachableError, UsageError
from edgeexit.policies import AUTO
from edgeexit.replay import replay
from edgeexit.tuning import Tuned

DATA, COSTS = drawn(3000, seed=6), rising(3)


@cache
def certified(*names: str, max_drop: float = 0.05, delta: float = 0.1, samples: int = 3000) -> Tuned:
    part = DATA.rows(np.arange(samples))
    return tune_certified(names, part.logits, part.labels, COSTS, max_drop=max_drop, delta=delta, seed=1)


def test_the_outcome_is_measured_on_samples_that_the_policy_was_not_fitted_on() -> None:
    tuned = certified("max-probability")
    unseen = np.random.default_rng(1).permutation(3000)[1000:]
    answers = replay(tuned.policy, [values[unseen] for values in DATA.logits])
    assert tuned.method == CERTIFIED
    assert tuned.outcome.accuracy == pytest.approx((answers.label == DATA.labels[unseen]).mean())
    assert tuned.outcome.mean_cost == pytest.approx(COSTS[answers.exit].mean())


def test_samples_leave_early_and_the_loss_stays_within_the_limit() -> None:
    outcome = certified("max-probability").outcome
    assert outcome.loss <= 0.05
    assert outcome.mean_cost < 0.9


def test_more_certainty_costs_more() -> None:
    costs = [certified("max-probability", delta=delta).outcome.mean_cost for delta in (0.5, 0.01)]
    assert costs[0] < costs[1]


def test_of_several_policies_one_is_certified() -> None:
    assert certified(*AUTO).policy.name in AUTO


def test_where_the_best_policy_cannot_be_certified_another_is() -> None:
    few = drawn(1500, seed=1, skill=(2.0, 4.0))
    data = (few.logits, few.labels, COSTS)
    with pytest.raises(UnreachableError, match="answers otherwise than the whole model"):
        tune_certified(("pooled-probability",), *data, max_drop=0.01, delta=0.05)
    both = tune_certified(("max-probability", "pooled-probability"), *data, max_drop=0.01, delta=0.1)
    assert both.policy.name == "max-probability"


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_far_too_few_samples_are_refused(samples: int) -> None:
    with pytest.raises((DataError, UnreachableError)):
        certified("max-probability", samples=samples)


def test_too_few_samples_for_so_small_a_loss_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(UnreachableError, match=r"too few samples(.|\n)*use \d+ samples or more"):
        certified("max-probability", max_drop=0.001, samples=300)


@pytest.mark.parametrize(("max_drop", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.05, 0.0), (0.05, 1.0)])
def test_numbers_out_of_range_are_refused(max_drop: float, delta: float) -> None:
    with pytest.raises(UsageError, match="cannot be guaranteed"):
        certified("max-probability", max_drop=max_drop, delta=delta)
