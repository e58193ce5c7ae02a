"""Which exits save the most together (SelfXit, eq. 4), against plain loops and brute force."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import UsageError
from edgeexit.subsets import EXHAUSTIVE, best_subset, subset_score

Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def problem(seed: int, candidates: int, samples: int = 60) -> Problem:
    """Whole costs, so that sums are exact."""
    rng = np.random.default_rng(seed)
    score = rng.random((candidates + 1, samples)).astype(np.float32)
    thresholds = rng.uniform(0.3, 1.1, candidates)
    backbone = np.cumsum(rng.integers(1, 50, candidates + 1)).astype(np.float64)
    heads = rng.integers(0, 20, candidates + 1).astype(np.float64)
    return score, thresholds, backbone, heads


PROBLEMS = st.builds(problem, st.integers(0, 10_000), st.integers(0, 6))


def subsets(candidates: int) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(range(candidates), size) for size in range(candidates + 1)))


def test_hits_save_what_lies_behind_and_misses_pay_for_the_head() -> None:
    score = np.asarray([[0.9, 0.1, 0.1, 0.9], [0.9, 0.9, 0.1, 0.1], [1, 1, 1, 1]], np.float32)
    thresholds, backbone, heads = np.asarray([0.5, 0.5]), np.asarray([10.0, 30.0, 100.0]), np.asarray([2.0, 3.0, 1.0])
    assert subset_score(score, thresholds, backbone, heads, [0]) == 2 * (90 - 2) - 2 * 2
    assert subset_score(score, thresholds, backbone, heads, [1]) == 2 * (70 - 3) - 2 * 3
    # Sample 0 has left before exit 1, and so has sample 3.
    assert subset_score(score, thresholds, backbone, heads, [1, 0]) == 2 * 88 - 2 * 2 + 1 * 67 - 1 * 3
    assert subset_score(score, thresholds, backbone, heads, []) == 0


@given(found=PROBLEMS, data=st.data())
def test_the_score_is_the_cost_of_the_backbone_alone_less_that_of_the_cascade(
    found: Problem, data: st.DataObject
) -> None:
    score, thresholds, backbone, heads = found
    chosen = data.draw(st.sampled_from(subsets(len(thresholds))))
    spent = 0.0
    for i in range(score.shape[1]):
        for k in (*chosen, len(thresholds)):
            spent += heads[k] if k < len(thresholds) else 0.0
            if k == len(thresholds) or score[k, i] >= np.float32(thresholds[k]):
                spent += backbone[k]
                break
    assert subset_score(*found, chosen) == score.shape[1] * backbone[-1] - spent


@given(found=PROBLEMS)
def test_the_best_subset_is_that_of_brute_force(found: Problem) -> None:
    best = max(subsets(len(found[1])), key=lambda s: (subset_score(*found, s), -len(s), [-k for k in s]))
    assert best_subset(*found) == best


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_with_many_candidates_no_single_exit_added_or_taken_away_saves_more(seed: int) -> None:
    found = problem(seed, EXHAUSTIVE + 3)
    best = best_subset(*found)
    value = subset_score(*found, best)
    for k in range(EXHAUSTIVE + 3):
        assert subset_score(*found, sorted(set(best) ^ {k})) <= value
    assert list(best) == sorted(best)


def test_exits_that_nobody_takes_or_that_cost_too_much_are_left_out() -> None:
    score = np.asarray([[0.9, 0.9], [0.9, 0.1], [0.9, 0.9], [1, 1]], np.float32)
    thresholds, backbone = np.asarray([np.inf, 0.5, 0.5]), np.asarray([10.0, 20.0, 99.0, 100.0])
    assert best_subset(score, thresholds, backbone, np.asarray([1.0, 1.0, 50.0, 0.0])) == (1,)


def test_a_threshold_between_two_floats_is_compared_in_float32() -> None:
    score = np.asarray([[0.1], [1.0]], np.float32)
    assert best_subset(score, np.asarray([0.1]), np.asarray([1.0, 10.0]), np.asarray([1.0, 0.0])) == (0,)


@pytest.mark.parametrize("subset", [[0, 0], [-1], [2]])
def test_what_is_no_subset_of_the_candidates_is_refused(subset: list[int]) -> None:
    with pytest.raises(UsageError, match="subset"):
        subset_score(*problem(0, 2), subset)


def test_costs_of_another_cascade_are_refused() -> None:
    score, thresholds, backbone, heads = problem(0, 3)
    with pytest.raises(UsageError, match="different cascades"):
        best_subset(score, thresholds, backbone[:-1], heads)
