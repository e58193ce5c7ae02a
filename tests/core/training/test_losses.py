"""Losses: weights of the papers, and distillation that teaches and is not taught."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeexit.errors import UsageError

torch = pytest.importorskip("torch", reason="training needs torch")

from edgeexit.training.losses import (  # noqa: E402 torch may be missing
    distillation,
    distiller_weights,
    eenet_weights,
    exit_weights,
    late_to_early,
    weighted_cross_entropy,
)


def logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 50))
def test_eenets_weights_sum_to_one_and_grow_with_the_exit(exits: int) -> None:
    weights = eenet_weights(exits)
    assert math.isclose(sum(weights), 1)
    assert list(weights) == sorted(weights)
    assert math.isclose(weights[-1], exits * weights[0])


def test_eenets_weights_of_three_exits_are_sixths() -> None:
    assert eenet_weights(3) == pytest.approx((1 / 6, 2 / 6, 3 / 6))


def test_distillers_last_exit_gets_what_is_left() -> None:
    assert distiller_weights((0.1, 0.3), 3) == pytest.approx((0.1, 0.3, 0.6))


@pytest.mark.parametrize("weights", [(0.1,), (0.1, 0.2, 0.3), (0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.1)])
def test_distillers_weights_that_cannot_be_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="loss weights"):
        distiller_weights(weights, 3)


def test_as_many_weights_as_exits_are_taken_as_they_are() -> None:
    assert exit_weights((1.0, 0.0, 3.0), 3) == (1.0, 0.0, 3.0)
    assert exit_weights("uniform", 4) == (0.25,) * 4
    with pytest.raises(UsageError):
        exit_weights((0.0, 0.0), 2)
    with pytest.raises(UsageError, match="unknown"):
        exit_weights("EENet", 2)


def test_the_weighted_loss_is_the_weighted_sum_of_the_exits_losses() -> None:
    exits, labels = (logits(0, 8, 5), logits(1, 8, 5)), torch.arange(8) % 5
    each = [torch.nn.functional.cross_entropy(one, labels) for one in exits]
    assert weighted_cross_entropy(exits, labels, (0.25, 0.75)).item() == pytest.approx(
        (0.25 * each[0] + 0.75 * each[1]).item()
    )


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.5, 8))
def test_distillation_is_zero_for_the_teacher_itself_and_positive_for_others(seed: int, temperature: float) -> None:
    teacher = logits(seed, 6, 4)
    assert distillation(teacher + 3, teacher, temperature).item() == pytest.approx(0, abs=1e-4)
    assert distillation(logits(seed + 1, 6, 4), teacher, temperature).item() > 0


def test_distillation_is_the_divergence_of_the_student_from_the_teacher() -> None:
    student, teacher = logits(0, 3, 4), logits(1, 3, 4)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    by_hand = 4 * (p * (p / q).log()).sum(1).mean()
    assert distillation(student, teacher, 2.0).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_distillation_keeps_its_size_when_the_temperature_rises() -> None:
    student, teacher = logits(0, 64, 4).requires_grad_(), logits(1, 64, 4)
    norms = []
    for temperature in (8.0, 16.0):
        (gradient,) = torch.autograd.grad(distillation(student, teacher, temperature), student)
        norms.append(gradient.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.15)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(0, 3, 4).requires_grad_(), logits(1, 3, 4).requires_grad_()
    distillation(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_late_to_early_teaches_all_but_the_last_exit() -> None:
    exits = [logits(seed, 5, 3).requires_grad_() for seed in range(3)]
    late_to_early(exits).backward()
    assert [one.grad is not None for one in exits] == [True, True, False]
    assert late_to_early(exits[:1]).item() == 0


def test_losses_are_float32_whatever_the_logits_are() -> None:
    half, labels = logits(0, 4, 3).bfloat16(), torch.zeros(4, dtype=torch.int64)
    assert weighted_cross_entropy((half,), labels, (1.0,)).dtype == torch.float32
    assert distillation(half, half).dtype == torch.float32
