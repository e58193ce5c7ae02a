"""Choosing exits: useless ones go, useful ones stay."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.thresholds import Material, MaxDrop, fit_thresholds, measure
from edgeexit_exporters.selection import (
    CHECK_MACS,
    cascade_costs,
    check_macs,
    expected_time,
    select_exits,
    select_exits_selfxit,
)


def scored(skill: list[float], samples: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Exits that are right where an easiness common to all is below their skill, and nearly know it."""
    rng = np.random.default_rng(seed)
    difficulty = rng.random(samples)
    correct = np.stack([difficulty < level for level in skill])
    score = np.stack([np.clip(level - difficulty + rng.normal(size=samples) * 0.05, 0, 1) for level in skill])
    return score.astype(np.float32), correct


def test_costs_add_up_the_backbone_and_every_head_on_the_way() -> None:
    costs = cascade_costs(np.asarray([10.0, 20.0, 30.0]), np.asarray([1.0, 2.0, 0.0]))
    assert costs.tolist() == [11.0, 23.0, 33.0]


def test_an_exit_that_knows_nothing_goes_and_a_good_one_stays() -> None:
    score, correct = scored([0.0, 0.7, 0.95])
    backbone, heads = np.asarray([0.3, 0.5, 1.0]), np.asarray([0.001, 0.001, 0.0])
    assert select_exits(score, correct, backbone, heads, max_drop=0.01, min_gain=0.01) == [1, 2]


def test_of_two_equal_exits_at_nearly_the_same_place_one_goes() -> None:
    score, correct = scored([0.6, 0.6, 0.95])
    backbone, heads = np.asarray([0.40, 0.401, 1.0]), np.asarray([0.001, 0.001, 0.0])
    assert len(select_exits(score, correct, backbone, heads, max_drop=0.01, min_gain=0.01)) == 2


def test_an_exit_whose_head_costs_more_than_it_saves_goes() -> None:
    score, correct = scored([0.3, 0.95])
    backbone, heads = np.asarray([0.7, 1.0]), np.asarray([0.5, 0.0])
    assert select_exits(score, correct, backbone, heads, max_drop=0.01, min_gain=0.01) == [1]


def test_exits_that_only_pay_together_with_free_checks_go_when_checks_take_time() -> None:
    score, correct = scored([0.2, 0.4, 0.5, 0.6, 0.95])
    backbone, heads = np.asarray([0.1, 0.3, 0.4, 0.6, 1.0]), np.asarray([0.001] * 4 + [0.0])
    slow = heads + np.asarray([0.08, 0.08, 0.08, 0.08, 0.0])
    free = select_exits(score, correct, backbone, heads, max_drop=0.01, min_gain=0)
    charged = select_exits(score, correct, backbone, slow, max_drop=0.01, min_gain=0)
    assert len(charged) < len(free)


def test_no_single_step_from_the_chosen_exits_is_better() -> None:
    score, correct = scored([0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.95])
    backbone, heads = np.linspace(0.1, 1.0, 7), np.asarray([0.02] * 6 + [0.0])

    def cost(kept: list[int]) -> float:
        costs = cascade_costs(backbone[kept], heads[kept])
        material = Material(score[kept], correct[kept], correct[-1], costs)
        return measure(material, fit_thresholds("joint", material, MaxDrop(0.02))).mean_cost

    kept = select_exits(score, correct, backbone, heads, max_drop=0.02, min_gain=0)
    for i in range(6):
        other = sorted({*kept} ^ {i})
        assert cost(other) >= cost(kept) - 2e-4


@pytest.mark.parametrize(("whole", "charge"), [(125e6, CHECK_MACS), (1e9, CHECK_MACS), (1e6, 5e4), (0, 0)])
def test_a_check_is_charged_a_fixed_number_of_macs_but_never_much_of_a_small_model(whole: float, charge: float) -> None:
    assert check_macs(whole) == charge


def test_exits_that_the_model_brings_stay_whatever_they_are_worth() -> None:
    score, correct = scored([0.0, 0.7, 0.95])
    backbone, heads = np.asarray([0.3, 0.5, 1.0]), np.asarray([0.001, 0.001, 0.0])
    assert 0 in select_exits(score, correct, backbone, heads, max_drop=0.01, min_gain=0.01, keep=[0])


def test_selfxit_keeps_the_exit_that_saves_and_leaves_out_one_whose_hits_do_not_pay_for_its_misses() -> None:
    score, correct = scored([0.1, 0.7, 0.95])
    backbone, heads = np.asarray([0.3, 0.5, 1.0]), np.asarray([0.2, 0.001, 0.0])
    assert select_exits_selfxit(score, correct, backbone, heads, max_drop=0.1) == [1, 2]


def test_selfxit_keeps_what_the_model_brings_and_chooses_among_at_most_eight() -> None:
    score, correct = scored([0.1, *np.linspace(0.3, 0.9, 20), 0.95])
    backbone, heads = np.linspace(0.05, 1.0, 22), np.full(22, 0.001)
    kept = select_exits_selfxit(score, correct, backbone, heads, max_drop=0.05, keep=[0])
    assert {0, 21} < set(kept)
    assert len(kept) <= 10


def test_selfxit_keeps_only_the_whole_model_where_nothing_pays() -> None:
    score, correct = scored([0.0, 0.95])
    assert select_exits_selfxit(score, correct, np.asarray([0.9, 1.0]), np.asarray([0.5, 0.0]), max_drop=0.01) == [1]


def test_a_policy_that_takes_longer_is_charged_for_it_in_the_same_proportion_in_small_models() -> None:
    large = check_macs(125e6, "stacked-margin") / check_macs(125e6, "max-probability")
    small = check_macs(1e6, "stacked-margin") / check_macs(1e6, "max-probability")
    assert large == pytest.approx(small)
    assert large > 1


def test_the_time_to_be_expected_counts_every_check_on_the_way_and_none_at_the_last_exit() -> None:
    assert expected_time([0.5, 0.25, 0.25], 0.6, CHECK_MACS * 10) == pytest.approx(0.6 + 0.1 * (0.5 + 0.5 + 0.5))
    assert expected_time([1.0], 1.0, 0) == 1
