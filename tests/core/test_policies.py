"""Every registered policy: a pure function of logits and state, the same one by one, in batches and from a bundle."""

from __future__ import annotations

import warnings
from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.bundles import bundle_parts
from edgeexit.errors import BundleError
from edgeexit.manifest import PolicyEntry
from edgeexit.policies import (
    POLICIES,
    MaxProbability,
    Policy,
    PooledProbability,
    Setting,
    load_policy,
    policy_kind,
)
from edgeexit.policies.single import rounded_thresholds
from edgeexit.replay import judge, replay
from edgeexit.tensors import load_tensors, save_tensors
from edgeexit.thresholds import Budget
from edgeexit.tuning import tune

EXITS, CLASSES = 4, 4
SETTING = Setting(costs=np.asarray([0.2, 0.4, 0.7, 1.0]), budget=0.6, seed=0)
Cached = tuple[list[np.ndarray], np.ndarray]


@cache
def cached(classes: int = CLASSES, samples: int = 240, exits: int = EXITS) -> Cached:
    """Logits that tell more from exit to exit, and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    truth = np.eye(classes, dtype=np.float32)[labels]
    logits = [(k + 2) * truth + rng.normal(0, 1.5, truth.shape).astype(np.float32) for k in range(exits)]
    return logits, labels


@cache
def fitted(name: str, classes: int = CLASSES, samples: int = 240) -> Policy:
    """Fitted on `cached`, with thresholds in the middle of the scores, and half-way between two of them."""
    logits, labels = cached(classes, samples)
    policy = policy_kind(name).fit(logits, labels, SETTING)
    scores = np.sort(judge(policy, logits).score[:-1].astype(np.float64), axis=1)
    middle = (scores[:, samples // 2 - 1] + scores[:, samples // 2]) / 2
    return policy.with_thresholds((*map(float, middle), float("inf")))


POLICY = st.one_of(
    st.sampled_from(sorted(POLICIES)).map(fitted),
    st.sampled_from(
        [
            MaxProbability((0.5, 1.0, 2.0, 1.0), (0.9, 0.7, 0.5, float("inf"))),
            PooledProbability(((1.0, 0.0), (0.7, 0.5), (1.2, 0.3), (1.0, 1.0)), (0.9, 0.7, 0.6, float("inf"))),
            PooledProbability(((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)), (float("inf"), 0.6, 0.5, float("inf"))),
        ]
    ),
)
LOGITS = st.integers(1, 12).flatmap(
    lambda n: arrays(np.float32, (EXITS, n, CLASSES), elements=st.floats(-30, 30, width=32))
)


@settings(deadline=None)
@given(policy=POLICY, logits=LOGITS, data=st.data())
def test_a_samples_answer_depends_on_the_sample_alone(policy: Policy, logits: np.ndarray, data: st.DataObject) -> None:
    rows = np.asarray(data.draw(st.permutations(range(logits.shape[1]))))
    together, shuffled = replay(policy, list(logits)), replay(policy, list(logits[:, rows]))
    np.testing.assert_array_equal(together.exit[rows], shuffled.exit)
    np.testing.assert_array_equal(together.label[rows], shuffled.label)
    np.testing.assert_allclose(together.score[rows], shuffled.score, rtol=1e-6, atol=1e-6)
    alone = [replay(policy, list(logits[:, i : i + 1])).exit[0] for i in range(logits.shape[1])]
    np.testing.assert_array_equal(together.exit, alone)


@settings(deadline=None)
@given(policy=POLICY, logits=LOGITS)
def test_a_sample_leaves_at_the_first_exit_whose_score_reaches_its_threshold(
    policy: Policy, logits: np.ndarray
) -> None:
    judgement, answers = judge(policy, list(logits)), replay(policy, list(logits))
    for i, exit_index in enumerate(answers.exit):
        reached = [k for k in range(EXITS) if judgement.score[k, i] >= np.float32(policy.thresholds[k])]
        assert exit_index == (reached[0] if reached else EXITS - 1)


@settings(deadline=None)
@given(policy=POLICY, logits=LOGITS)
def test_those_who_stay_are_judged_as_if_nobody_had_left(policy: Policy, logits: np.ndarray) -> None:
    expected = replay(policy, list(logits))
    rows = np.arange(logits.shape[1])
    state = policy.start(len(rows), CLASSES)
    for k in range(EXITS):
        decision, state = policy.decide(k, logits[k, rows], state)
        gone = rows[decision.leave]
        np.testing.assert_array_equal(expected.exit[gone], k)
        np.testing.assert_array_equal(expected.label[gone], decision.label[decision.leave])
        state = tuple(array[~decision.leave] for array in state)
        rows = rows[~decision.leave]
    assert len(rows) == 0


@settings(deadline=None)
@given(policy=POLICY, logits=LOGITS)
def test_the_word_on_one_sample_is_the_word_on_a_batch_of_one(policy: Policy, logits: np.ndarray) -> None:
    state = single_state = policy.start(1, CLASSES)
    for k in range(EXITS):
        decision, state = policy.decide(k, logits[k, :1], state)
        verdict, single_state = policy.decide_one(k, logits[k, :1], single_state)
        assert verdict.score == pytest.approx(decision.score[0], rel=1e-4, abs=1e-6)
        assert verdict.probability == pytest.approx(decision.probability[0], rel=1e-4)
        if abs(decision.score[0] - policy.thresholds[k]) > 1e-4:
            assert verdict.leave == decision.leave[0]
        if decision.probability[0] > 0.51:  # below, two classes may be level
            assert verdict.label == decision.label[0]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_logits_that_are_no_numbers_get_an_answer_at_the_last_exit_at_least(name: str, value: float) -> None:
    policy = fitted(name, 4, 60)
    for logits in (np.full((1, 4), value, np.float32), np.array([[0, value, 1, 2]], np.float32)):
        state = policy.start(1, 4)
        for k in range(EXITS):
            verdict, state = policy.decide_one(k, logits, state)
        assert verdict.leave
        assert 0 <= verdict.label < 4


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("classes", [1, 2, 200])
def test_any_number_of_classes_gets_the_same_decisions_one_by_one(name: str, classes: int) -> None:
    samples = 2 * max(classes, 30)
    logits, _ = cached(classes, samples)
    policy = fitted(name, classes, samples)
    together = replay(policy, logits)
    for i in range(30):
        state = policy.start(1, classes)
        for k in range(EXITS):
            verdict, state = policy.decide_one(k, logits[k][i : i + 1], state)
            if verdict.leave:
                break
        assert (k, verdict.label) == (together.exit[i], together.label[i])


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_samples_close_to_certainty_get_the_same_decisions_one_by_one(name: str, share: float) -> None:
    rng = np.random.default_rng(0)
    gap = rng.uniform(10, 24, (2, 300)).astype(np.float32)
    logits = [np.stack([values, np.zeros_like(values)], axis=1) for values in gap]
    policy = policy_kind(name).fit(logits, np.zeros(300, dtype=np.int64), Setting(np.asarray([0.5, 1.0]), 0.7))
    if isinstance(policy, MaxProbability):
        policy = MaxProbability((1.0, 1.0), policy.thresholds)
    elif isinstance(policy, PooledProbability):
        policy = PooledProbability(((1.0, 0.0), (1.0, 0.5)), policy.thresholds)
    score = np.unique(judge(policy, logits).score[0])
    for threshold in (score[int(share * len(score))], score[-1], np.float32(1) - np.float32(2) ** -24):
        trial = policy.with_thresholds((float(threshold), float("inf")))
        together, _ = trial.decide(0, logits[0], trial.start(300, 2))
        alone = [trial.decide_one(0, logits[0][i : i + 1], trial.start(1, 2))[0].leave for i in range(300)]
        np.testing.assert_array_equal(together.leave, alone)


@settings(deadline=None)
@given(policy=POLICY, logits=LOGITS)
def test_everybody_leaves_at_the_last_exit(policy: Policy, logits: np.ndarray) -> None:
    state = policy.start(logits.shape[1], CLASSES)
    for k in range(EXITS):
        decision, state = policy.decide(k, logits[k], state)
    assert decision.leave.all()


# Multiples of 1/8 keep all differences exact in float32, so that no label may change.
@settings(deadline=None)
@given(
    policy=POLICY,
    logits=st.integers(1, 6).flatmap(lambda n: arrays(np.int64, (EXITS, n, CLASSES), elements=st.integers(-240, 240))),
    offset=st.integers(-8000, 8000),
)
def test_only_differences_between_classes_count(policy: Policy, logits: np.ndarray, offset: int) -> None:
    plain = judge(policy, list((logits / 8).astype(np.float32)))
    shifted = judge(policy, list(((logits + offset) / 8).astype(np.float32)))
    np.testing.assert_allclose(plain.score, shifted.score, atol=1e-3)


@settings(deadline=None)
@given(
    policy=POLICY,
    logits=arrays(np.float32, (EXITS, 5, CLASSES), elements=st.sampled_from([-1e4, -1.0, 0.0, 1.0, 1e4])),
)
def test_extreme_and_equal_logits_give_finite_scores_and_probabilities(policy: Policy, logits: np.ndarray) -> None:
    state = policy.start(5, CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(EXITS):
            decision, state = policy.decide(k, logits[k], state)
            assert (decision.score.dtype, decision.probability.dtype) == (np.float32, np.float32)
            assert (decision.label.dtype, decision.leave.dtype) == (np.int64, np.bool_)
            assert np.isfinite(decision.score).all()
            assert ((decision.probability >= 0) & (decision.probability <= 1)).all()
            assert ((decision.label >= 0) & (decision.label < CLASSES)).all()
            assert all(len(array) == 5 for array in state)


@pytest.mark.parametrize("name", POLICIES)
def test_logits_that_tell_nothing_are_fitted_to_finite_scores(name: str) -> None:
    equal = [np.zeros((40, CLASSES), dtype=np.float32)] * EXITS
    policy = policy_kind(name).fit(equal, np.arange(40) % CLASSES, SETTING)
    assert np.isfinite(judge(policy, equal).score).all()


@pytest.mark.parametrize("name", POLICIES)
def test_a_class_that_never_comes_is_fitted_and_not_answered_where_the_others_are_clear(name: str) -> None:
    logits, labels = cached()
    some = labels != 2
    policy = policy_kind(name).fit([values[some] for values in logits], labels[some], SETTING)
    clear = [30 * np.eye(CLASSES, dtype=np.float32)[[0, 1, 3]]] * EXITS
    np.testing.assert_array_equal(judge(policy, clear).label, np.broadcast_to([0, 1, 3], (EXITS, 3)))


@pytest.mark.parametrize("name", POLICIES)
def test_later_exits_of_a_fitted_policy_answer_as_well_as_their_logits_at_least(name: str) -> None:
    logits, labels = cached()
    accuracy = (judge(fitted(name), logits).label == labels).mean(axis=1)
    assert accuracy[-1] >= (logits[-1].argmax(axis=1) == labels).mean() - 0.01


@pytest.mark.parametrize("name", POLICIES)
def test_a_fitted_policy_survives_the_bundle(name: str) -> None:
    logits, _ = cached()
    policy = fitted(name)
    stored = load_tensors(save_tensors(policy.tensors()), "exits.safetensors")
    loaded = policy_kind(name).load(policy.thresholds, stored)
    before, after = replay(policy, logits), replay(loaded, logits)
    np.testing.assert_array_equal(before.exit, after.exit)
    np.testing.assert_array_equal(before.label, after.label)
    np.testing.assert_allclose(before.score, after.score, rtol=1e-5)
    assert (loaded.name, policy.entry().name, POLICIES[name].where[:17]) == (name, name, "edgeexit.policies")
    assert set(policy.entry().tensors) == set(stored)
    assert all(tensor.startswith("policy.") for tensor in stored)


@pytest.mark.parametrize("name", POLICIES)
def test_a_single_exit_takes_everybody_and_survives_the_bundle(name: str) -> None:
    logits, labels = cached(exits=1)
    policy = policy_kind(name).fit(logits, labels, Setting(costs=np.ones(1), budget=1.0))
    loaded = policy_kind(name).load((float("inf"),), load_tensors(save_tensors(policy.tensors()), "exits.safetensors"))
    assert loaded.decide(0, logits[0], loaded.start(240, CLASSES))[0].leave.all()


@pytest.mark.parametrize("name", POLICIES)
def test_unusable_tensors_of_a_policy_are_refused(name: str) -> None:
    policy = fitted(name)
    stored = dict(policy.tensors())

    def refused(tensors: dict[str, np.ndarray]) -> None:
        with pytest.raises(BundleError, match="usable"):
            policy_kind(name).load(policy.thresholds, tensors)

    for key, values in stored.items():
        refused({k: v for k, v in stored.items() if k != key})
        refused({**stored, key: values[None]})
        refused({**stored, key: np.float32(1.0).reshape(())})
        refused({**stored, key: np.concatenate([values, values[:1]])})
        for bad in (float("nan"), float("inf")):
            one = values.copy()
            one.flat[-1] = bad
            refused({**stored, key: one})
    for key in {"policy.temperatures", "policy.distance_temperatures", "policy.mean_distances"} & set(stored):
        refused({**stored, key: -stored[key]})
        refused({**stored, key: np.zeros_like(stored[key])})


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_can_be_tuned_to_a_budget(name: str) -> None:
    logits, labels = cached()
    tuned = tune(name, logits, labels, SETTING.costs, Budget(0.6), method="joint")
    assert tuned.outcome.mean_cost <= 0.6
    assert replay(tuned.policy, logits).shares(EXITS)[:-1].sum() > 0


@pytest.mark.parametrize("name", POLICIES)
def test_other_thresholds_leave_the_scores_as_they_are(name: str) -> None:
    logits, _ = cached()
    policy = fitted(name)
    other = policy.with_thresholds((float("inf"),) * EXITS)
    np.testing.assert_array_equal(judge(policy, logits).score, judge(other, logits).score)
    assert (replay(other, logits).exit == EXITS - 1).all()


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.3, 0.5, 0.9, 1 - 2.0**-24, 1.0, 1.5, float("inf")])
def test_a_rounded_threshold_lets_those_sums_leave_that_float32_does(threshold: float) -> None:
    start = min(1 / max(threshold, 0.01), 100.0)
    totals = np.unique(np.linspace(max(1.0, start - 1e-6), max(1.0, start + 1e-6), 4001))
    in_float32 = np.float32(1) / totals.astype(np.float32) >= np.float32(threshold)
    np.testing.assert_array_equal(1 / totals >= rounded_thresholds((threshold, 0.5))[0], in_float32)


@given(logits=LOGITS)
def test_maximum_probability_is_the_largest_softmax_of_logits_over_temperature(logits: np.ndarray) -> None:
    judgement = judge(MaxProbability((2.0,) * EXITS, (0.5,) * EXITS), list(logits))
    scaled = logits.astype(np.float64) / 2
    exponentials = np.exp(scaled - scaled.max(axis=2, keepdims=True))
    np.testing.assert_allclose(judgement.score, 1 / exponentials.sum(axis=2), rtol=1e-4)
    np.testing.assert_array_equal(judgement.label, logits.argmax(axis=2))


def test_a_policy_of_a_newer_version_is_refused_by_name() -> None:
    manifest, _ = bundle_parts()
    newer = msgspec.structs.replace(manifest, policy=PolicyEntry(name="telepathy"))
    with pytest.raises(BundleError, match="does not know") as refused:
        load_policy(newer, {})
    assert refused.value.got == "telepathy"
