"""Patience and vote: counts of exits that agree, and ties broken below the step."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeexit.policies.agreement import Patience, Vote
from edgeexit.replay import judge, replay

LABELS = arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.integers(0, 2))
"""(E, N) labels of three classes."""


def logits_of(labels: np.ndarray, height: float = 5.0) -> list[np.ndarray]:
    return [(height * np.eye(3, dtype=np.float32))[row] for row in labels]


def of(kind: type, exits: int, threshold: float = inf) -> Patience | Vote:
    return kind((1.0,) * exits, (threshold,) * exits)


def test_patience_counts_the_exits_in_a_row_that_gave_the_same_label() -> None:
    labels = np.asarray([[0], [0], [1], [1], [1], [0]])
    judgement = judge(of(Patience, 6), logits_of(labels))
    np.testing.assert_array_equal(np.floor(judgement.score[:, 0]), [1, 2, 1, 2, 3, 1])
    np.testing.assert_array_equal(judgement.label, labels)


def test_the_vote_is_the_largest_share_of_exits_that_gave_one_label() -> None:
    labels = np.asarray([[0], [0], [1], [1], [1], [2]])
    judgement = judge(of(Vote, 6), logits_of(labels))
    votes = np.floor(judgement.score[:, 0] * np.arange(1, 7))
    np.testing.assert_array_equal(votes, [1, 2, 2, 2, 3, 3])
    np.testing.assert_array_equal(judgement.label, labels)


@given(labels=LABELS, patience=st.integers(0, 8))
def test_whole_thresholds_give_exactly_the_published_patience(labels: np.ndarray, patience: int) -> None:
    exits = len(labels)
    answers = replay(of(Patience, exits, patience + 1.0), logits_of(labels))
    for i, column in enumerate(labels.T):
        count, leaves = 0, exits - 1
        for k in range(exits):  # PABEE, algorithm of section 3
            count = count + 1 if k and column[k] == column[k - 1] else 0
            if count == patience:
                leaves = k
                break
        assert (answers.exit[i], answers.label[i]) == (leaves, column[leaves])


@given(labels=LABELS, data=st.data())
def test_whole_shares_give_exactly_the_published_vote(labels: np.ndarray, data: st.DataObject) -> None:
    exits = len(labels)
    counts = [data.draw(st.integers(1, k + 1)) for k in range(exits)]
    thresholds = tuple(count / (k + 1) for k, count in enumerate(counts))
    answers = replay(Vote((1.0,) * exits, thresholds), logits_of(labels))
    for i, column in enumerate(labels.T):
        most = [np.bincount(column[: k + 1]).max() for k in range(exits)]
        reached = [k for k in range(exits) if most[k] >= counts[k]]
        assert answers.exit[i] == (reached[0] if reached else exits - 1)


@pytest.mark.parametrize("kind", [Patience, Vote])
def test_among_equal_counts_the_more_confident_has_the_higher_score_and_never_that_of_the_next_count(
    kind: type,
) -> None:
    logits = [np.asarray([[h, 0, 0] for h in (0.1, 1, 5, 50, 1e4)], np.float32)] * 3
    score = judge(of(kind, 3), logits).score
    assert (np.diff(score[:, :4], axis=1) > 0).all()
    steps = np.ones((3, 1)) if kind is Patience else 1 / np.arange(1, 4)[:, None]
    counts = np.arange(1, 4)[:, None]
    assert (score > counts * steps).all()
    assert (score < (counts + 1) * steps).all()


@pytest.mark.parametrize("kind", [Patience, Vote])
def test_the_probability_is_the_calibrated_one_of_the_exits_own_label(kind: type) -> None:
    logits = [np.log(np.asarray([[0.5, 0.3, 0.2]])).astype(np.float32) * 2] * 2
    judgement = judge(kind((2.0, 2.0), (inf, inf)), logits)
    np.testing.assert_allclose(judgement.probability, 0.5, rtol=1e-5)
