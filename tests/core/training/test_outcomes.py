"""Outcomes: an exit has learnt something where it does better than the commonest answer."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from edgeexit.training.outcomes import ExitOutcome, Tally, TrainingResult  # noqa: E402 torch may be missing


def tally(answers: list[int], targets: list[int]) -> Tally:
    """One exit that gives these answers to samples of these classes, counted in two batches."""
    counted, half = Tally(1), len(targets) // 3
    logits, right = torch.eye(3)[torch.tensor(answers)], torch.tensor(targets)
    for part in (slice(0, half), slice(half, None)):
        counted.add([logits[part]], [torch.tensor(0.5)], right[part])
    return counted


@pytest.mark.parametrize(("found", "learnt"), [(0, False), (9, False), (10, True), (20, True)])
def test_an_exit_that_finds_rare_classes_and_loses_nothing_has_learnt(found: int, learnt: bool) -> None:
    """Of 1000 samples 970 are of one class: √(p(1 − p)/n) would ask for 17 more that are right."""
    targets = [0] * 970 + [1] * 30
    counted = tally([0] * 970 + [1] * found + [0] * (30 - found), targets)
    assert counted.accuracy == [(970 + found) / 1000]
    assert counted.learnt(0) is learnt


@pytest.mark.parametrize(("lost", "learnt"), [(0, True), (8, True), (9, False), (25, False)])
def test_what_it_loses_counts_against_what_it_finds(lost: int, learnt: bool) -> None:
    """25 − 8 > 3·√(1000 · 0.97 · 0.03) and 25 − 9 is less."""
    targets = [0] * 970 + [1] * 30
    assert tally([1] * lost + [0] * (970 - lost) + [1] * 25 + [2] * 5, targets).learnt(0) is learnt


def test_of_few_samples_of_classes_alike_in_number_most_must_be_right() -> None:
    """Of 32 it is right on 25, on 21 of them alone: 14 > 3·√(32 · 0.34 · 0.66), though not > 3·√28."""
    targets = [0] * 11 + [1] * 11 + [2] * 10
    assert tally([0] * 4 + [2] * 7 + [1] * 11 + [2] * 10, targets).learnt(0)
    assert not tally([0] * 4 + [2] * 7 + [1] * 11 + [0] * 6 + [2] * 4, targets).learnt(0)


def test_an_exit_without_a_mistake_has_learnt_however_few_the_samples() -> None:
    assert tally([0, 1, 2], [0, 1, 2]).learnt(0)
    assert not tally([0, 1, 1], [0, 1, 2]).learnt(0)


def test_an_exit_whose_loss_is_not_finite_has_learnt_nothing() -> None:
    counted = tally([0, 1] * 50, [0, 1] * 50)
    assert counted.learnt(0)
    counted.losses[0] = float("nan")
    assert not counted.learnt(0)


def test_useless_are_the_early_exits_that_did_not_converge_and_never_the_whole_model() -> None:
    exits = tuple(
        ExitOutcome(name=name, accuracy=0.5, loss=1.0, converged=converged)
        for name, converged in (("a", False), ("b", True), ("c", False), ("whole model", False))
    )
    assert TrainingResult(exits=exits, epochs=1, best_epoch=1, seconds=0.0).useless == ("a", "c")
