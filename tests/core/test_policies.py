"""Policies: pure functions of logits and state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.bundles import bundle_parts
from edgeexit.errors import BundleError
from edgeexit.manifest import PolicyEntry
from edgeexit.policies import POLICIES, MaxProbability, Policy, PooledProbability, load_policy, policy_kind
from edgeexit.replay import judge, replay

EXITS, CLASSES = 3, 4
LOGITS = st.integers(1, 12).flatmap(
    lambda n: arrays(np.float32, (EXITS, n, CLASSES), elements=st.floats(-30, 30, width=32))
)
POLICY = st.sampled_from(
    [
        MaxProbability((0.5, 1.0, 2.0), (0.9, 0.7, float("inf"))),
        PooledProbability(((1.0, 0.0), (0.7, 0.5), (1.2, 0.3)), (0.9, 0.7, float("inf"))),
        PooledProbability(((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)), (float("inf"), 0.6, float("inf"))),
    ]
)


@given(policy=POLICY, logits=LOGITS, data=st.data())
def test_a_samples_answer_depends_on_the_sample_alone(policy: Policy, logits: np.ndarray, data: st.DataObject) -> None:
    rows = np.asarray(data.draw(st.permutations(range(logits.shape[1]))))
    together, shuffled = replay(policy, list(logits)), replay(policy, list(logits[:, rows]))
    np.testing.assert_array_equal(together.exit[rows], shuffled.exit)
    np.testing.assert_array_equal(together.label[rows], shuffled.label)
    np.testing.assert_array_equal(together.score[rows], shuffled.score)
    alone = [replay(policy, list(logits[:, i : i + 1])).exit[0] for i in range(logits.shape[1])]
    np.testing.assert_array_equal(together.exit, alone)


@given(policy=POLICY, logits=LOGITS)
def test_a_sample_leaves_at_the_first_exit_whose_score_reaches_its_threshold(
    policy: Policy, logits: np.ndarray
) -> None:
    judgement, answers = judge(policy, list(logits)), replay(policy, list(logits))
    for i, exit_index in enumerate(answers.exit):
        reached = [k for k in range(EXITS) if judgement.score[k, i] >= np.float32(policy.thresholds[k])]
        assert exit_index == (reached[0] if reached else EXITS - 1)


@given(policy=POLICY, logits=LOGITS)
def test_the_word_on_one_sample_is_the_word_on_a_batch_of_one(policy: Policy, logits: np.ndarray) -> None:
    state = single_state = policy.start(1, CLASSES)
    for k in range(EXITS):
        decision, state = policy.decide(k, logits[k, :1], state)
        verdict, single_state = policy.decide_one(k, logits[k, :1], single_state)
        assert verdict.score == pytest.approx(decision.score[0], rel=1e-4)
        assert verdict.probability == pytest.approx(decision.probability[0], rel=1e-4)
        if abs(decision.score[0] - policy.thresholds[k]) > 1e-4:
            assert verdict.leave == decision.leave[0]
        row = np.sort(state[0][0] if state else logits[k, 0])
        if row[-1] - row[-2] > 1e-3:
            assert verdict.label == decision.label[0]


@pytest.mark.parametrize("name", POLICIES)
def test_many_classes_take_the_same_decisions_one_by_one(name: str) -> None:
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(50, 200)).astype(np.float32) * 3 for _ in range(2)]
    policy = policy_kind(name).fit(logits, rng.integers(0, 200, 50)).with_thresholds((0.01, float("inf")))
    decision, _ = policy.decide(0, logits[0], policy.start(50, 200))
    for i in range(50):
        verdict, _ = policy.decide_one(0, logits[0][i : i + 1], policy.start(1, 200))
        assert (verdict.label, verdict.leave) == (decision.label[i], decision.leave[i])


@given(policy=POLICY, logits=LOGITS)
def test_everybody_leaves_at_the_last_exit(policy: Policy, logits: np.ndarray) -> None:
    state = policy.start(logits.shape[1], CLASSES)
    for k in range(EXITS):
        decision, state = policy.decide(k, logits[k], state)
    assert decision.leave.all()


@given(policy=POLICY, logits=LOGITS, offset=st.floats(-1000, 1000))
def test_only_differences_between_classes_count(policy: Policy, logits: np.ndarray, offset: float) -> None:
    plain, shifted = judge(policy, list(logits)), judge(policy, list(logits + np.float32(offset)))
    np.testing.assert_allclose(plain.score, shifted.score, atol=5e-3)


@given(logits=LOGITS)
def test_maximum_probability_is_the_largest_softmax_of_logits_over_temperature(logits: np.ndarray) -> None:
    judgement = judge(MaxProbability((2.0, 2.0, 2.0), (0.5, 0.5, 0.5)), list(logits))
    scaled = logits.astype(np.float64) / 2
    exponentials = np.exp(scaled - scaled.max(axis=2, keepdims=True))
    np.testing.assert_allclose(judgement.score, 1 / exponentials.sum(axis=2), rtol=1e-4)
    np.testing.assert_array_equal(judgement.label, logits.argmax(axis=2))


def test_pooling_adds_the_weighted_evidence_of_the_exits_passed() -> None:
    logits = [np.asarray([[1.0, 0.0]]), np.asarray([[0.0, 3.0]])]
    policy = PooledProbability(((1.0, 0.0), (0.5, 2.0)), (float("inf"), float("inf")))
    judgement = judge(policy, [values.astype(np.float32) for values in logits])
    evidence = np.asarray([0.5 * 0 + 2 * 1, 0.5 * 3 + 2 * 0])
    assert judgement.label[1, 0] == 0
    assert judgement.score[1, 0] == pytest.approx(np.exp(evidence[0]) / np.exp(evidence).sum(), rel=1e-5)


def test_fitted_pooling_beats_each_exit_alone_where_exits_err_independently() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 4000)
    truth = np.eye(CLASSES, dtype=np.float32)[labels]
    logits = [2 * truth + rng.normal(size=truth.shape).astype(np.float32) * 1.5 for _ in range(EXITS)]
    judgement = judge(PooledProbability.fit(logits, labels), logits)
    accuracy = (judgement.label == labels).mean(axis=1)
    assert accuracy[-1] > max((values.argmax(axis=1) == labels).mean() for values in logits) + 0.05


def test_a_useless_earlier_exit_gets_next_to_no_weight() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 4000)
    noise = rng.normal(size=(4000, CLASSES)).astype(np.float32)
    good = 3 * np.eye(CLASSES, dtype=np.float32)[labels] + rng.normal(size=(4000, CLASSES)).astype(np.float32)
    own, earlier = PooledProbability.fit([noise, good], labels).weights[1]
    assert own > 1
    assert earlier * PooledProbability.fit([noise, good], labels).weights[0][0] < 0.1


def test_perfect_logits_are_fitted_without_running_away() -> None:
    labels = np.arange(100) % CLASSES
    perfect = [50 * np.eye(CLASSES, dtype=np.float32)[labels]] * 2
    policy = PooledProbability.fit(perfect, labels)
    assert np.isfinite(policy.weights).all()
    assert (judge(policy, perfect).label == labels).all()


@pytest.mark.parametrize("name", POLICIES)
def test_a_fitted_policy_survives_the_bundle(name: str) -> None:
    rng = np.random.default_rng(1)
    logits = [rng.normal(size=(200, CLASSES)).astype(np.float32) for _ in range(2)]
    labels = rng.integers(0, CLASSES, 200)
    fitted = policy_kind(name).fit(logits, labels).with_thresholds((0.5, float("inf")))
    loaded = policy_kind(name).load(fitted.thresholds, dict(fitted.tensors()))
    np.testing.assert_array_equal(replay(loaded, logits).exit, replay(fitted, logits).exit)
    assert fitted.entry().tensors == tuple(fitted.tensors())


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_unusable_tensors_of_a_policy_are_refused(name: str, bad: float) -> None:
    fitted = policy_kind(name).fit([np.eye(CLASSES, dtype=np.float32)] * 2, np.arange(CLASSES))
    tensors = {key: np.full_like(values, bad) for key, values in fitted.tensors().items()}
    with pytest.raises(BundleError, match="unusable"):
        policy_kind(name).load(fitted.thresholds, tensors)


def test_a_policy_of_a_newer_version_is_refused_by_name() -> None:
    manifest, _ = bundle_parts()
    import msgspec

    newer = msgspec.structs.replace(manifest, policy=PolicyEntry(name="telepathy"))
    with pytest.raises(BundleError, match="does not know") as refused:
        load_policy(newer, {})
    assert refused.value.got == "telepathy"
