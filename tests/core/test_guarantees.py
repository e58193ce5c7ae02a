"""Guarantees: the exact test, the ladder, and certificates whose error rate is what they say."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.materials import drawn_material, label_free
from edgeexit.errors import DataError, UnreachableError, UsageError
from edgeexit.guarantees import LADDER_SHARE, certify
from edgeexit.guarantees.binomial import binomial_mass, upper_limit
from edgeexit.guarantees.exact import PairedTest
from edgeexit.guarantees.ladder import build_ladder, lost_and_gained
from edgeexit.thresholds import Material, exits_taken, measure

# The binomial distribution


@pytest.mark.parametrize(("trials", "chance"), [(1, 0.3), (20, 0.0), (20, 1.0), (300, 0.013)])
def test_binomial_masses_are_exact(trials: int, chance: float) -> None:
    counts = np.arange(-1, trials + 2)
    exact = [
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) if 0 <= k <= trials else 0.0
        for k in counts.tolist()
    ]
    found = binomial_mass(np.asarray([trials]), np.asarray([chance]), counts)
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-200)


def test_the_upper_limit_of_no_event_is_the_rule_of_three() -> None:
    assert upper_limit(0, 1000, 0.05) == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert upper_limit(7, 7, 0.05) == 1.0


# The exact test


@pytest.mark.parametrize("lost", [0, 3, 9])
def test_without_gains_the_population_p_value_is_the_binomial_tail(lost: int) -> None:
    tail = sum(math.comb(600, k) * 0.02**k * 0.98 ** (600 - k) for k in range(lost + 1))
    assert PairedTest(600, 0.02, math.inf).p_value(lost, 0) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("lost", [3, 6, 9])
def test_without_gains_the_horizon_p_value_is_the_beta_binomial_tail_within_a_few_percent(lost: int) -> None:
    samples, horizon, within = 600, 800, 16  # 0.02 × 800 may be lost
    ways = math.comb(samples + horizon, samples)
    tail = sum(
        math.comb(k + within, k) * math.comb(samples - k + horizon - within - 1, samples - k) / ways
        for k in range(lost + 1)
    )
    assert tail <= PairedTest(samples, 0.02, horizon).p_value(lost, 0) <= 1.08 * tail + 1e-3


@settings(deadline=None)
@given(lost=st.integers(0, 40), gained=st.integers(0, 40))
def test_a_loss_more_speaks_for_the_null_and_a_gain_more_against_it(lost: int, gained: int) -> None:
    test = PairedTest(500, 0.03, 500, 0.05)
    assert test.p_value(lost + 1, gained) >= test.p_value(lost, gained)
    assert test.p_value(lost, gained + 1) <= test.p_value(lost, gained)


def test_a_horizon_is_the_harder_to_promise_the_shorter_it_is() -> None:
    p_values = [PairedTest(500, 0.03, horizon, 0.05).p_value(9, 4) for horizon in (math.inf, 2000, 500)]
    assert p_values[0] < p_values[1] < p_values[2]


@pytest.mark.parametrize("gained", [0.0, 0.002, 0.01, 0.03])
@pytest.mark.parametrize("samples", [150, 1000])
def test_at_the_limit_the_test_errs_no_more_often_than_it_says(samples: int, gained: float) -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(samples, [0.02 + gained, gained, 0.98 - 2 * gained], size=4000)
    test = PairedTest(samples, 0.02, math.inf, 0.03)
    errors = np.asarray([test.p_value(lost, won) for lost, won, _ in counts.tolist()])
    for level in (0.05, 0.1, 0.2):
        assert (errors <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 4000)


@pytest.mark.parametrize("gained", [0.0, 0.01])
def test_along_a_ladder_the_next_samples_lose_too_much_no_more_often_than_stated(gained: float) -> None:
    rng, draws, samples, horizon, delta = np.random.default_rng(1), 2000, 500, 400, 0.1
    rungs = 40
    steps = np.asarray([*([2 * 0.05 / rungs + gained / rungs] * rungs), *([gained / rungs] * rungs)])
    chances = np.append(steps, 1 - steps.sum())
    broken = 0
    test = PairedTest(samples, 0.05, horizon, gained)
    for _ in range(draws):
        seen, coming = (np.cumsum(rng.multinomial(n, chances)[:-1].reshape(2, -1), axis=1) for n in (samples, horizon))
        rung = 0
        while rung < rungs and test.p_value(*seen[:, rung].tolist()) <= delta:
            rung += 1
        broken += rung > 0 and coming[0, rung - 1] - coming[1, rung - 1] > 0.05 * horizon
    assert 0.02 < broken / draws <= delta + 3 * math.sqrt(delta * (1 - delta) / draws)


# The ladder


def test_the_ladder_begins_with_nobody_and_grows_cheaper_until_it_loses_far_too_much() -> None:
    found = drawn_material(0, exits=5, samples=1000)
    ladder = build_ladder(found, 0.02, 50)
    outcomes = [measure(found, thresholds) for thresholds in ladder]
    assert np.isinf(ladder[0]).all()
    assert len(ladder) > 10
    assert all(later.mean_cost < earlier.mean_cost for earlier, later in pairwise(outcomes))
    assert all(outcome.loss - 3 * outcome.standard_error <= 0.02 for outcome in outcomes)


def test_losses_are_counted_where_a_sample_leaves_and_nowhere_else() -> None:
    score = np.asarray([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=np.float32)
    correct = np.asarray([[0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 1]], dtype=bool)
    found = Material(score, correct, correct[-1], np.asarray([0.2, 0.6, 1.0]))
    assert lost_and_gained(found, np.asarray([0.5, 0.5])) == (2, 2)
    assert lost_and_gained(found, np.asarray([np.inf, np.inf])) == (0, 0)


# Certificates

EPSILON, DELTA = 0.04, 0.2


@pytest.mark.parametrize("labels", ["data", "model"])
def test_the_guarantee_is_broken_no_more_often_than_stated(labels: str) -> None:
    draws, broken_ahead, broken_in_the_long_run = 30, 0, 0
    for seed in range(draws):
        found = drawn_material(seed, exits=4, samples=4800)
        found = label_free(found) if labels == "model" else found
        certificate = certify(found.rows(np.arange(400)), epsilon=EPSILON, delta=DELTA, seed=seed)
        coming = found.rows(np.arange(400, 800))
        broken_ahead += measure(coming, certificate.thresholds).loss > EPSILON + 1e-12
        broken_in_the_long_run += measure(found.rows(np.arange(800, 4800)), certificate.thresholds).loss > EPSILON
    allowed = draws * (DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / draws))
    assert broken_ahead <= allowed
    assert broken_in_the_long_run <= allowed


def test_a_certificate_tells_how_it_was_come_by() -> None:
    found = drawn_material(0, exits=4, samples=1000)
    certificate = certify(found, epsilon=EPSILON, delta=DELTA)
    assert certificate.p_value <= DELTA
    assert certificate.samples_used == round((1 - LADDER_SHARE) * 1000)
    assert certificate.tested > 1
    assert certificate.horizon == 1000
    assert certificate.mean_cost == certificate.outcome.mean_cost < 1
    assert certificate.outcome.loss < EPSILON


def test_the_same_seed_gives_the_same_certificate() -> None:
    found = drawn_material(0, exits=4, samples=600)
    one, same, other = (certify(found, epsilon=EPSILON, delta=DELTA, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.thresholds, same.thresholds)
    assert not np.array_equal(one.thresholds, other.thresholds)


def test_samples_that_choose_the_ladder_certify_nothing() -> None:
    found = drawn_material(0, exits=4, samples=900)
    rows = np.arange(0, 900, 3)
    certificate = certify(found, epsilon=EPSILON, delta=DELTA, ladder_rows=rows)
    assert certificate.outcome == measure(found.rows(np.setdiff1d(np.arange(900), rows)), certificate.thresholds)


def mean_cost(samples: int, *, epsilon: float = EPSILON, delta: float = DELTA, horizon: float | None = None) -> float:
    """Of certified thresholds on new samples, over some draws."""
    costs = []
    for seed in range(3):
        found = drawn_material(seed, exits=4, samples=4000)
        certificate = certify(found.rows(np.arange(samples)), epsilon=epsilon, delta=delta, horizon=horizon)
        costs.append(measure(found.rows(np.arange(2500, 4000)), certificate.thresholds).mean_cost)
    return float(np.mean(costs))


def test_more_samples_buy_cheaper_thresholds() -> None:
    assert mean_cost(2400) < mean_cost(800) < mean_cost(250)


def test_a_larger_loss_more_risk_and_no_horizon_each_make_it_cheaper() -> None:
    base = mean_cost(800)
    assert mean_cost(800, epsilon=2 * EPSILON) < base
    assert mean_cost(800, delta=2 * DELTA) < base
    assert mean_cost(800, horizon=math.inf) < base


def test_where_every_early_exit_loses_too_much_nobody_leaves() -> None:
    found = drawn_material(0, exits=3, samples=800)
    correct = np.stack([~found.reference, ~found.reference, found.reference])
    certificate = certify(
        Material(found.score, correct, found.reference, found.costs), epsilon=EPSILON, delta=DELTA, seed=1
    )
    assert set(exits_taken(found.score, certificate.thresholds).tolist()) == {2}


def test_a_cascade_of_one_exit_is_certified_as_it_is() -> None:
    found = drawn_material(0, exits=2, samples=400)
    last = Material(found.score[1:], found.correct[1:], found.reference, found.costs[1:])
    assert certify(last, epsilon=EPSILON, delta=DELTA).thresholds.shape == (0,)


def test_a_policy_that_changes_the_last_answers_for_the_worse_is_refused_with_the_loss_in_reach() -> None:
    found = label_free(drawn_material(0, samples=800))
    correct = found.correct.copy()
    correct[-1, ::10] = False
    changed = Material(found.score, correct, found.reference, found.costs)
    with pytest.raises(UnreachableError, match=r"about 0\.1\d* or more") as refused:
        certify(changed, epsilon=EPSILON, delta=DELTA)
    reachable = float(str(refused.value.expected).split()[1])
    certify(changed, epsilon=1.1 * reachable, delta=DELTA)


def test_a_policy_that_changes_the_last_answers_for_the_better_is_certified() -> None:
    found = drawn_material(0, exits=4, samples=1500)
    better = Material(found.score, found.correct, found.reference.copy(), found.costs)
    better.reference[::20] = False
    better.correct[-1, ::20] = True
    assert certify(better, epsilon=0.02, delta=0.1).mean_cost < 1


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 0.1), (1.0, 0.1), (-0.1, 0.1), (float("nan"), 0.1), (0.1, 0.0), (0.1, 1.0)]
)
def test_numbers_that_no_guarantee_can_have_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(UsageError, match="cannot be guaranteed"):
        certify(drawn_material(0), epsilon=epsilon, delta=delta)


@pytest.mark.parametrize("horizon", [0.0, -5.0, float("nan")])
def test_a_horizon_without_samples_is_refused(horizon: float) -> None:
    with pytest.raises(UsageError, match="future samples"):
        certify(drawn_material(0), epsilon=0.1, delta=0.1, horizon=horizon)


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_too_few_samples_for_a_ladder_are_refused(samples: int) -> None:
    with pytest.raises(DataError, match="too few samples"):
        certify(drawn_material(0).rows(np.arange(samples)), epsilon=0.1, delta=0.1)


def test_too_few_samples_for_so_small_a_loss_are_refused_with_what_is_reachable() -> None:
    with pytest.raises(UnreachableError, match=r"(?s)more than 0\.0.*samples or more") as refused:
        certify(drawn_material(0, samples=100), epsilon=0.001, delta=0.1)
    assert refused.value.exit_code == 5
