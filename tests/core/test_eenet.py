"""EENet: the learned scheduler, its gradients written by hand, and algorithm 1."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.logits import drawn, rising
from edgeexit.cached import CachedLogits
from edgeexit.errors import BundleError, UnreachableError
from edgeexit.policies import LearnedScheduler, MaxProbability, Setting
from edgeexit.policies.adam import Adam
from edgeexit.policies.eenet.forward import LARGEST, agreement, own_inputs
from edgeexit.policies.eenet.network import Network, survival
from edgeexit.policies.eenet.samples import Samples, assignment_targets
from edgeexit.replay import judge, replay
from edgeexit.thresholds import Budget, Goal, Material, MaxDrop, exits_taken, fit_thresholds, measure
from edgeexit.thresholds.assignment import tilted
from edgeexit.tuning import material, tune

ALPHA, BETA = 0.7, 0.3


def problem(costs: np.ndarray | None, *, ranked: bool = True) -> tuple[Network, Samples]:
    """A network whose weights are large enough for every part of the loss to count."""
    data = drawn(60, exits=4)
    samples = Samples.of(data.logits, data.labels, (1.0, 2.0, 1.5, 1.0), ranked, costs)
    network = Network(samples.inputs.shape[2], 4)
    network.draw(np.random.default_rng(1))
    network.flat *= 3
    return network, samples


@cache
def fitted(budget: float | None = 0.5, seed: int = 0) -> LearnedScheduler:
    data = drawn(1000, seed=3)
    return LearnedScheduler.fit(data.logits, data.labels, Setting(rising(3), budget, seed))


def area(score: np.ndarray, right: np.ndarray) -> float:
    """How likely a right answer scores above a wrong one."""
    return float((score[right][:, None] > score[~right]).mean() + (score[right][:, None] == score[~right]).mean() / 2)


# The parts of the loss


def test_a_sample_belongs_in_equal_parts_to_the_exits_that_have_it_right_or_to_all() -> None:
    correct = np.array([[True, False, False], [True, False, True], [False, False, True], [True, False, True]])
    expected = [[1 / 3, 1 / 4, 0], [1 / 3, 1 / 4, 1 / 3], [0, 1 / 4, 1 / 3], [1 / 3, 1 / 4, 1 / 3]]
    np.testing.assert_allclose(assignment_targets(correct), expected)


def test_a_sample_weighs_at_an_exit_what_the_exits_before_leave_of_it() -> None:
    assignment = np.array([[0.5, 0.0], [0.25, 0.5], [0.25, 0.5]])
    np.testing.assert_allclose(survival(assignment), [[1 / 2, 1 / 2], [1 / 3, 2 / 3], [1 / 3, 2 / 3]])


def test_the_loss_of_a_scheduler_that_knows_nothing_is_known() -> None:
    network, samples = problem(np.array([0.5, 1.0, 2.0, 4.5]))
    network.flat[:] = 0
    found = network.forward(samples)
    expected = np.log(2) + ALPHA * (2.0 - 1.0) + BETA * np.log(4) / 4
    assert network.loss(samples, found, survival(found.assignment), ALPHA, BETA) == pytest.approx(expected)


def test_spending_less_than_the_budget_is_not_punished() -> None:
    losses = []
    for costs in ([0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.6, 0.8], None):
        network, samples = problem(None if costs is None else np.array(costs))
        found = network.forward(samples)
        losses.append(network.loss(samples, found, survival(found.assignment), ALPHA, BETA))
    assert losses[0] == losses[1] == losses[2]


def test_a_utility_nearer_the_truth_has_a_smaller_loss() -> None:
    network, samples = problem(None)
    found = network.forward(samples)
    nearer = found._replace(utility=(found.utility + samples.correct) / 2)
    weights = survival(found.assignment)
    assert (network.utility_loss(samples, nearer, weights) < network.utility_loss(samples, found, weights)).all()


@pytest.mark.parametrize("ranked", [True, False])
@pytest.mark.parametrize("costs", [None, [0.1, 0.2, 0.3, 0.4], [0.2, 0.6, 1.0, 3.0]])
def test_the_gradient_is_that_of_finite_differences(costs: list[float] | None, ranked: bool) -> None:
    network, samples = problem(None if costs is None else np.array(costs), ranked=ranked)
    found = network.forward(samples)
    weights = survival(found.assignment)
    gradient = network.gradient(samples, found, weights, ALPHA, BETA)
    step = 1e-6
    for i in np.flatnonzero(network.flat):
        values = []
        for change in (step, -step):
            network.flat[i] += change
            values.append(network.loss(samples, network.forward(samples), weights, ALPHA, BETA))
            network.flat[i] -= change
        assert gradient[i] == pytest.approx((values[0] - values[1]) / (2 * step), abs=2e-8)


def test_weights_that_an_exit_should_not_have_get_no_gradient() -> None:
    network, samples = problem(None)
    found = network.forward(samples)
    gradient = network.gradient(samples, found, survival(found.assignment), ALPHA, BETA)
    assert not gradient[network.flat == 0].any()
    assert np.count_nonzero(network.flat) == sum(hidden * (size + 2) for hidden, size in network.sizes)


def test_adams_first_step_is_its_rate_whatever_the_gradients_size() -> None:
    parameters = np.zeros(3)
    Adam(3, 0.1).step(parameters, np.array([1e-3, -20.0, 0.0]))
    np.testing.assert_allclose(parameters, [-0.1, 0.1, 0.0], rtol=1e-4)


def test_adam_finds_the_least_of_a_bowl() -> None:
    parameters, adam = np.array([3.0, -2.0]), Adam(2, 0.05)
    for _ in range(1500):
        adam.step(parameters, np.array([1.0, 50.0]) * (parameters - [1.0, 2.0]))
    np.testing.assert_allclose(parameters, [1.0, 2.0], atol=1e-3)


# What the scheduler sees


def test_the_inputs_are_the_probabilities_the_largest_and_one_less_the_entropy() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25]], dtype=np.float32)) * 2 + 7
    inputs, largest = own_inputs(logits, 2.0, ranked=False)
    entropy = 1.5 * np.log(2) / np.log(3)
    np.testing.assert_allclose(inputs, [[0.5, 0.25, 0.25, 0.5, 1 - entropy]], rtol=1e-5)
    assert largest[0] == pytest.approx(0.5)


@pytest.mark.parametrize("classes", [2, LARGEST, LARGEST + 1, 300])
def test_ranked_probabilities_fall_and_the_rest_is_one_input(classes: int) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (20, classes)).astype(np.float32)
    inputs, largest = own_inputs(logits, 1.0, ranked=True)
    kept = inputs[:, : min(classes, LARGEST)]
    assert (np.diff(kept, axis=1) <= 0).all()
    np.testing.assert_allclose(kept[:, 0], largest, rtol=1e-6)
    np.testing.assert_allclose(inputs[:, :-2].sum(axis=1), 1, rtol=1e-5)
    assert inputs.shape[1] == min(classes, LARGEST + 1) + 2


def test_agreement_is_the_share_of_the_most_frequent_label() -> None:
    labels = np.array([[1, 2, 3, 4], [1, 2, 1, 2], [5, 1, 1, 1], [7, 7, 7, 7]], dtype=np.float32)
    np.testing.assert_allclose(agreement(labels), [0.25, 0.5, 0.75, 1.0])


# What it learns


def test_it_learns_the_class_that_an_exit_is_sure_of_and_wrong_about() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(3000) % 5)
    answered = np.where(labels == 3, 2, labels)  # the first exit takes every 3 for a 2
    logits = [(5 * np.eye(5)[at]).astype(np.float32) for at in (answered, labels)]
    policy = LearnedScheduler.fit(logits, labels, Setting(np.array([0.3, 1.0]), 0.7))
    judgement = judge(policy, logits)
    assert not policy.ranked
    assert area(judgement.score[0], answered != 2) > 0.99
    assert area(judge(MaxProbability.fit(logits, labels), logits).score[0], answered != 2) == 0.5


def test_it_learns_that_an_exit_which_contradicts_the_one_before_is_wrong() -> None:
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(3000) % 5)
    wrong = random.random(3000) < 0.3
    slip = np.where(wrong, (labels + 1) % 5, labels)
    logits = [(5 * np.eye(5)[at]).astype(np.float32) for at in (labels, slip, labels)]
    policy = LearnedScheduler.fit(logits, labels)
    assert area(judge(policy, logits).score[1], ~wrong) > 0.99


def test_where_every_class_is_like_the_others_their_order_is_not_looked_at() -> None:
    policy, data = fitted(), drawn(50, seed=9)
    assert policy.ranked
    order = [2, 0, 3, 1]
    swapped = judge(policy, [values[:, order] for values in data.logits])
    np.testing.assert_allclose(judge(policy, data.logits).score, swapped.score, rtol=1e-6)


def test_the_utility_is_close_to_the_accuracy_of_those_who_have_it() -> None:
    data = drawn(4000, seed=11)
    judgement = judge(fitted(), data.logits)
    sure = judgement.score[0] > 0.8
    assert (judgement.label[0] == data.labels)[sure].mean() == pytest.approx(judgement.score[0][sure].mean(), abs=0.05)


def test_the_shares_cost_about_the_budget_and_less_for_a_smaller_one() -> None:
    costs = [float(np.dot(fitted(budget).shares, rising(3))) for budget in (0.4, 0.5, 0.6)]
    assert all(cost == pytest.approx(budget, rel=0.1) for cost, budget in zip(costs, (0.4, 0.5, 0.6), strict=True))
    assert costs == sorted(costs)
    assert sum(fitted().shares) == pytest.approx(1)


def test_without_a_budget_the_shares_are_those_of_the_exits_that_are_right() -> None:
    data = drawn(1000, seed=3)
    wanted = assignment_targets(np.stack([values.argmax(axis=1) == data.labels for values in data.logits]))
    np.testing.assert_allclose(fitted(budget=None).shares, wanted.mean(axis=1), atol=0.05)


def test_equal_seeds_give_equal_policies_and_other_seeds_others() -> None:
    one, again, other = fitted().tensors(), fitted.__wrapped__().tensors(), fitted(seed=1).tensors()
    for name, values in one.items():
        np.testing.assert_array_equal(values, again[name])
    assert not np.array_equal(one["policy.shared"], other["policy.shared"])


def test_the_device_computes_what_was_trained() -> None:
    data = drawn(60, exits=4)
    network, samples = problem(None)
    shared, utility = network.shared.astype(np.float32), network.heads[:, :, 0].astype(np.float32)
    policy = LearnedScheduler((1.0, 2.0, 1.5, 1.0), (np.inf,) * 4, True, shared, utility, (0.25,) * 4)
    np.testing.assert_allclose(judge(policy, data.logits).score, network.forward(samples).utility, atol=1e-5)


def test_a_sample_has_the_very_same_score_alone_as_in_a_batch() -> None:
    policy, data = fitted(), drawn(300, seed=5)
    together = judge(policy, data.logits).score
    alone = [judge(policy, data.rows(np.array([i])).logits).score[:, 0] for i in range(300)]
    np.testing.assert_array_equal(together, np.stack(alone, axis=1))


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("policy.shared", np.zeros((3, 5, 5), np.float32)),
        ("policy.shared", np.zeros((3, 40), np.float32)),
        ("policy.utility", np.zeros((3, 1), np.float32)),
        ("policy.shares", np.full(3, -1.0, np.float32)),
        ("policy.ranked", np.full(2, 1.0, np.float32)),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(name: str, bad: np.ndarray) -> None:
    with pytest.raises(BundleError, match="usable"):
        LearnedScheduler.load((0.5, 0.5, np.inf), {**fitted().tensors(), name: bad})


# Algorithm 1


def scores(*rows: list[float], shares: list[float] | None = None) -> Material:
    score = np.array(rows, dtype=np.float32)
    nothing = np.ones(score.shape, dtype=bool)
    given = None if shares is None else np.array(shares)
    return Material(score, nothing, nothing[0], np.array([0.25, 0.5, 1.0]), given)


def test_the_most_useful_of_those_still_there_leave_until_each_quota_is_full() -> None:
    # Quotas 3, 2, 3. Samples 7, 1, 4 leave first; of the others 0 and 5 lead at the second exit.
    worked = scores(
        [0.30, 0.90, 0.10, 0.20, 0.80, 0.40, 0.50, 0.95],
        [0.70, 0.99, 0.20, 0.50, 0.98, 0.90, 0.10, 0.97],
        [0.0] * 8,
        shares=[3 / 8, 2 / 8, 3 / 8],
    )
    budget = Budget((3 * 0.25 + 2 * 0.5 + 3 * 1.0) / 8, reserve=0)  # what the shares cost: no tilt
    thresholds = fit_thresholds("assignment", worked, budget)
    np.testing.assert_allclose(thresholds, [(0.80 + 0.50) / 2, (0.70 + 0.50) / 2], rtol=1e-6)
    np.testing.assert_array_equal(exits_taken(worked.score, thresholds), [1, 0, 2, 2, 0, 1, 2, 0])


def test_a_quota_that_ends_among_equal_scores_goes_to_the_nearer_end_of_them() -> None:
    level = scores([0.9, 0.5, 0.5, 0.5, 0.1, 0.0], [0.5] * 6, [0.0] * 6, shares=[4 / 6, 0.0, 2 / 6])
    thresholds = fit_thresholds("assignment", level, Budget((4 * 0.25 + 2) / 6, reserve=0))
    assert (exits_taken(level.score, thresholds) == 0).sum() == 4
    level = scores([0.9, 0.5, 0.5, 0.5, 0.1, 0.0], [0.5] * 6, [0.0] * 6, shares=[2 / 6, 0.0, 4 / 6])
    thresholds = fit_thresholds("assignment", level, Budget(0.9, reserve=0))
    assert (exits_taken(level.score, thresholds) == 0).sum() == 1


def test_an_exit_with_no_share_takes_next_to_nobody() -> None:
    random = np.random.default_rng(0)
    found = scores(*random.random((3, 1000)).tolist(), shares=[0.0, 0.5, 0.5])
    taken = exits_taken(found.score, fit_thresholds("assignment", found, Budget(0.7, reserve=0)))
    assert (taken == 0).sum() == 0
    assert (taken == 1).sum() == pytest.approx(600, abs=2)


def test_a_policy_that_assigns_nothing_gets_geometric_shares() -> None:
    data = drawn(1000)
    found = material(MaxProbability.fit(data.logits, data.labels), data.logits, data.labels, rising(3))
    goal = Budget(0.6)
    expected = fit_thresholds("geometric", found, goal)
    np.testing.assert_array_equal(fit_thresholds("assignment", found, goal), expected)


def test_a_tilt_of_one_leaves_the_shares_and_others_make_them_dearer_or_cheaper() -> None:
    shares = np.array([0.5, 0.2, 0.3])
    np.testing.assert_allclose(tilted(shares, 0.0), shares)
    np.testing.assert_allclose(tilted(shares, np.log(2)), np.array([0.5, 0.4, 1.2]) / 2.1)
    means = [tilted(shares, log_ratio) @ rising(3) for log_ratio in (-50, -1, 0, 1, 50)]
    assert means == sorted(means)
    assert (means[0], means[-1]) == (pytest.approx(1 / 3), pytest.approx(1.0))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    samples=st.integers(1, 200),
    shares=st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda values: sum(values) > 0.01),
    levels=st.sampled_from([2, 5, 1000]),
    goal=st.one_of(st.floats(1 / 3, 1).map(Budget), st.floats(0, 0.5).map(MaxDrop)),
)
def test_the_goal_is_met_whatever_the_shares(
    seed: int, samples: int, shares: list[float], levels: int, goal: Goal
) -> None:
    random = np.random.default_rng(seed)
    score = (random.integers(0, levels, (3, samples)) / levels).astype(np.float32)
    correct = random.random((3, samples)) < np.array([[0.5], [0.7], [0.9]])
    found = Material(score, correct, correct[-1], rising(3), np.array(shares) / sum(shares))
    assert goal.met(measure(found, fit_thresholds("assignment", found, goal)))


def test_a_budget_below_the_first_exit_is_refused() -> None:
    with pytest.raises(UnreachableError, match="below the cost"):
        fit_thresholds("assignment", scores([0.5], [0.5], [0.5], shares=[1.0, 0.0, 0.0]), Budget(0.2))


def test_the_shares_go_with_a_selection_of_samples_and_with_the_policy() -> None:
    data: CachedLogits = drawn(50)
    found = material(fitted(), data.logits, data.labels, rising(3))
    assert found.shares is not None
    np.testing.assert_allclose(found.shares, fitted().shares)
    assert found.rows(np.arange(5)).shares is found.shares


@pytest.mark.parametrize("budget", [0.4, 0.5, 0.7])
def test_a_budget_holds_on_new_samples(budget: float) -> None:
    seen, new = drawn(2000, seed=1), drawn(4000, seed=2)
    tuned = tune("eenet", seen.logits, seen.labels, rising(3), Budget(budget))
    answers = replay(tuned.policy, new.logits)
    assert rising(3)[answers.exit].mean() <= 1.01 * budget
    assert tuned.method == "assignment"
