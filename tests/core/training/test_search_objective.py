from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the search is part of training")

from edgeexit.training.search import Quality, quality
from edgeexit.training.search.objective import hopeless

COSTS = {"before": 200.0, "head": 50.0, "whole": 1000.0}


def logits(labels: NDArray[np.int64], *, right: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    """Sure where right, unsure where wrong."""
    random = np.random.default_rng(seed)
    wrong = random.uniform(size=len(labels)) >= right
    shown = np.where(wrong, (labels + 1) % 4, labels)
    strength = np.where(wrong, random.uniform(0, 2, len(labels)), random.uniform(1, 6, len(labels)))
    return (strength[:, None] * np.eye(4)[shown]).astype(np.float32)


TRUTH = np.arange(800) % 4
TEACHER = logits(TRUTH)


def found_for(given: NDArray[np.float32], labels: NDArray[np.int64] | None = None, **changes: float) -> Quality:
    return quality(given, TEACHER, labels, **{**COSTS, "max_drop": 0.02, **changes})


def test_an_exit_that_is_always_right_lets_everybody_leave_and_saves_all_that_is_behind_it() -> None:
    found = found_for(logits(TRUTH, seed=1))
    assert found == Quality(1.0, 1.0, pytest.approx(0.75), pytest.approx(0.75))
    assert found.saving == found.worth


def test_an_exit_that_knows_nothing_costs_its_head() -> None:
    found = found_for(np.roll(logits(TRUTH), 1, axis=1), max_drop=0.0)
    assert found == Quality(0.0, 0.0, pytest.approx(-0.05), pytest.approx(-0.05))


def test_logits_that_are_no_numbers_are_worth_nothing() -> None:
    assert found_for(np.full_like(TEACHER, np.nan)) == Quality(0.0, 0.0, -0.05, -0.05)


@given(st.floats(0.3, 1.0), st.integers(0, 50), st.floats(0.0, 0.2))
def test_the_saving_is_that_of_the_hits_without_the_head(right: float, seed: int, max_drop: float) -> None:
    found = found_for(logits(TRUTH, right=right, seed=seed), max_drop=max_drop)
    assert found.saving == pytest.approx(found.hit_rate * 0.8 - 0.05)
    assert found.worth == pytest.approx(found.accuracy * 0.8 - 0.05)


@given(st.floats(0.3, 0.95), st.integers(0, 50))
def test_of_the_samples_that_leave_no_more_are_wrong_than_half_of_what_may_be_lost(right: float, seed: int) -> None:
    given_ = logits(TRUTH, right=right, seed=seed)
    found = found_for(given_, max_drop=0.06)
    surest = np.argsort(-given_.max(axis=1))[: round(found.hit_rate * len(TRUTH))]
    assert np.mean(given_.argmax(axis=1)[surest] != TRUTH[surest]) * found.hit_rate <= 0.03 + 1e-9


def test_a_larger_tolerance_never_saves_less() -> None:
    given_ = logits(TRUTH, right=0.8, seed=3)
    savings = [found_for(given_, max_drop=drop).saving for drop in (0.0, 0.01, 0.02, 0.05, 0.1, 0.3)]
    assert savings == sorted(savings)
    assert savings[0] < savings[-1]


def test_with_labels_being_right_where_the_whole_model_is_wrong_counts_as_right() -> None:
    """The exit is always right, the whole model in half of the cases: without labels half of it seems wrong."""
    teacher = np.where((np.arange(800) % 2 == 0)[:, None], np.roll(TEACHER, 1, axis=1), TEACHER)
    given_ = logits(TRUTH, seed=1)
    assert quality(given_, teacher, TRUTH, **COSTS, max_drop=0.02).accuracy == 1.0
    assert quality(given_, teacher, None, **COSTS, max_drop=0.02).accuracy == 0.5


def test_of_two_equally_good_heads_the_cheaper_saves_more_and_is_worth_more() -> None:
    given_ = logits(TRUTH, right=0.8, seed=3)
    cheap, dear = found_for(given_, head=10.0), found_for(given_, head=50.0)
    assert (cheap.accuracy, cheap.hit_rate) == (dear.accuracy, dear.hit_rate)
    assert cheap.saving > dear.saving
    assert cheap.worth > dear.worth


def test_a_point_of_accuracy_is_worth_its_share_of_what_is_behind_the_exit() -> None:
    better, worse = (found_for(logits(TRUTH, right=right, seed=3), before=600.0) for right in (0.9, 0.6))
    assert better.worth - worse.worth == pytest.approx(0.4 * (better.accuracy - worse.accuracy))


def test_a_head_is_hopeless_beside_one_that_is_worth_what_it_would_be_if_it_were_always_right() -> None:
    assert hopeless(0.75, **COSTS)
    assert not hopeless(0.74, **COSTS)
    assert not hopeless(None, **COSTS)


def test_a_head_that_costs_more_than_a_tenth_of_what_is_behind_the_exit_is_tried_only_as_the_first() -> None:
    assert not hopeless(-1.0, before=200.0, head=80.0, whole=1000.0)
    assert hopeless(-1.0, before=200.0, head=81.0, whole=1000.0)
    assert not hopeless(None, before=200.0, head=900.0, whole=1000.0)
