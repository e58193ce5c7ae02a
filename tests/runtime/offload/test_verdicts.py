from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeexit.policies import MaxProbability, Patience, Policy
from edgeexit.replay import replay
from edgeexit_runtime.offload.fake import FakeTransport
from edgeexit_runtime.offload.transport import OffloadError
from edgeexit_runtime.offload.verdicts import Terms, check_reply, decided
from edgeexit_runtime.wire.messages import Question, Reply
from runtime.offload.upstreams import CLASSES, EXITS, F32, answering, ask, boundary, passing, reply_to, upstream

TERMS = Terms(rows=2, first=1, exits=EXITS, classes=CLASSES)

LIES: dict[str, dict[str, Any]] = {
    "too few rows": {"label": np.zeros(1, np.int64)},
    "too many rows": {"exit": np.full(3, 2)},
    "labels of another type": {"label": np.zeros(2, F32)},
    "labels in a list": {"label": [0, 1]},
    "a label that there is not": {"label": np.array([0, CLASSES])},
    "a negative label": {"label": np.array([-1, 0])},
    "an exit before the samples": {"exit": np.array([0, 2])},
    "an exit that there is not": {"exit": np.array([1, EXITS])},
    "a probability above one": {"probability": np.array([0.5, 1.1], F32)},
    "a negative probability": {"probability": np.array([-0.1, 0.5], F32)},
    "a nameless tier": {"tier": ("cloud", "")},
    "too few tiers": {"tier": ("cloud",)},
    "a time that is no number": {"server_ms": float("nan")},
    "a time before the question": {"server_ms": -1.0},
    "degraded of another shape": {"degraded": np.zeros((2, 1), np.bool_)},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_reply_that_contradicts_the_question_is_never_used(lie: dict[str, Any]) -> None:
    assert passing(ask(upstream(answering(**lie)), rows=2)) == "protocol"


def test_a_reply_that_fits_passes() -> None:
    check_reply(reply_to(Question("m", "1", boundary(2), None)), TERMS)


def test_a_probability_may_be_above_one_by_rounding_and_a_score_infinite() -> None:
    question = Question("m", "1", boundary(2), None)
    check_reply(reply_to(question, probability=np.array([1.0000002, 0], F32), score=np.full(2, np.inf, F32)), TERMS)


def test_a_sample_of_no_numbers_takes_the_others_nothing() -> None:
    question = Question("m", "1", boundary(2), None)
    check_reply(reply_to(question, probability=np.array([np.nan, 1], F32), score=np.array([np.nan, 1], F32)), TERMS)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bare_logits_that_are_no_numbers_take_the_others_nothing() -> None:
    terms = Terms(8, 0, EXITS, CLASSES)
    logits = logits_of(8)
    expected = decided(Reply.of_logits(logits), POLICIES["without state"], {}, terms)
    broken = logits.copy()
    broken[3] = np.nan
    found = decided(Reply.of_logits(broken), POLICIES["without state"], {}, terms)
    others = np.arange(8) != 3
    np.testing.assert_array_equal(found.label[others], expected.label[others])
    np.testing.assert_array_equal(found.exit[others], expected.exit[others])
    assert found.exit[3] == EXITS - 1


def logits_of(n: int, exits: int = EXITS, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((n, exits, CLASSES)).astype(F32) * F32(2)


POLICIES: dict[str, Policy] = {
    "without state": MaxProbability((1.0,) * EXITS, (0.6, 0.6, np.inf)),
    "with state": Patience((1.0,) * EXITS, (2.0, 2.0, np.inf)),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("first", [0, 1, 2])
def test_on_bare_logits_the_policy_goes_on_where_it_stopped(policy: Policy, first: int) -> None:
    logits = logits_of(256)
    whole = replay(policy, list(logits.transpose(1, 0, 2)))
    left = np.flatnonzero(whole.exit >= first)
    state = policy.start(len(left), CLASSES)
    for k in range(first):
        _, state = policy.decide(k, logits[left, k], state)
    arrays = {f"policy.state.{i}": array for i, array in enumerate(state)}
    bare = Reply.of_logits(logits[left, first:], tier="triton")
    found = decided(bare, policy, arrays, Terms(len(left), first, EXITS, CLASSES))
    assert len(left) > 5
    np.testing.assert_array_equal(found.label, whole.label[left])
    np.testing.assert_array_equal(found.exit, whole.exit[left])
    np.testing.assert_array_equal(found.score, whole.score[left])
    np.testing.assert_array_equal(found.probability, whole.probability[left])
    assert (found.logits, found.tier) == (None, ("triton",) * len(left))


@pytest.mark.parametrize(
    "logits",
    [
        np.zeros((2, 3, 3), F32),
        np.zeros((1, 2, 3), F32),
        np.zeros((2, 2, 4), F32),
        np.zeros((2, 2, 3)),
    ],
)
def test_logits_that_contradict_the_question_are_never_used(logits: Any) -> None:
    with pytest.raises(OffloadError) as caught:
        decided(Reply.of_logits(logits), POLICIES["without state"], {}, TERMS)
    assert caught.value.reason == "protocol"


def test_a_reply_of_bare_logits_becomes_one_with_labels() -> None:
    transport = FakeTransport(lambda question: Reply.of_logits(logits_of(2, 2), tier="triton", server_ms=2.0))
    reply = passing(ask(upstream(transport), rows=2))
    assert isinstance(reply, Reply)
    assert reply.tier == ("triton", "triton")
    assert set(reply.exit.tolist()) <= {1, 2}
