"""Confusion: how far this exit's probabilities are from those of the last exits."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from edgeexit.policies.confusion import Confusion
from edgeexit.replay import judge

ROWS = np.asarray([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]])


def scores(rows: np.ndarray) -> np.ndarray:
    exits = len(rows)
    policy = Confusion((1.0,) * exits, (inf,) * exits)
    return judge(policy, [np.log(row[None]).astype(np.float32) for row in rows]).score[:, 0]


def test_the_score_is_minus_the_mean_l1_distance_from_up_to_three_exits_before() -> None:
    expected = [
        -2 * (1 - 0.6),  # from its own one-hot answer
        -0.2,
        -(1.0 + 1.0) / 2,
        -(1.0 + 0.8 + 1.2) / 3,
        -(0.4 + 1.4 + 1.2) / 3,  # exits 3, 2 and 1, no longer 0
    ]
    np.testing.assert_allclose(scores(ROWS), expected, atol=1e-6)


def test_what_an_exit_said_more_than_three_exits_ago_does_not_count() -> None:
    other = ROWS.copy()
    other[0] = [0.01, 0.01, 0.98]
    assert scores(other)[4] == pytest.approx(scores(ROWS)[4], abs=1e-6)
    assert scores(other)[3] != pytest.approx(scores(ROWS)[3], abs=1e-2)


def test_exits_that_say_the_same_are_not_confused() -> None:
    np.testing.assert_allclose(scores(ROWS[[0, 0, 0, 0]])[1:], 0, atol=1e-6)


def test_exits_that_contradict_each_other_with_certainty_are_confused_as_much_as_can_be() -> None:
    policy = Confusion((1.0, 1.0), (inf, inf))
    judgement = judge(policy, [np.asarray([[1e4, 0]], np.float32), np.asarray([[0, 1e4]], np.float32)])
    np.testing.assert_array_equal(judgement.score[:, 0], [0, -2])
    np.testing.assert_array_equal(judgement.label[:, 0], [0, 1])


def test_probabilities_of_each_exit_have_their_own_temperature() -> None:
    same = np.log(np.asarray([[0.6, 0.3, 0.1]])).astype(np.float32)
    judgement = judge(Confusion((1.0, 3.0), (inf, inf)), [same, 3 * same])
    assert judgement.score[1, 0] == pytest.approx(0, abs=1e-6)
