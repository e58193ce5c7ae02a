"""Certified tuning: a policy whose loss is guaranteed, up to a stated chance, to keep within a limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.cached import FEWEST_SAMPLES
from edgeexit.errors import DataError, UnreachableError
from edgeexit.guarantees import certify
from edgeexit.policies import Policy, Setting
from edgeexit.thresholds import MaxDrop
from edgeexit.tuning import Tuned, fit_as_stored, material, tune_all, with_early

__all__ = ["CERTIFIED", "FITTING_SHARE", "tune_certified"]

CERTIFIED = "certified"
"""What stands for the threshold method where thresholds come with a guarantee."""

FITTING_SHARE = 1 / 3
"""Of the samples, those that the policy is fitted on, and that certify nothing."""


def tune_certified(
    names: Sequence[str],
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    costs: NDArray[np.float64],
    *,
    max_drop: float,
    delta: float,
    seed: int = 0,
) -> Tuned:
    """Thresholds whose loss exceeds `max_drop` with a chance of at most `delta` over calibration draws.

    A random third of the samples chooses and fits the policy, and orders the thresholds that are tried. They
    are certified on the others (see `edgeexit.guarantees`), and the outcome is measured on those.

    A policy that changes the last exit's answers may be impossible to certify. The next best is tried then: the
    first has half of δ, the next half of what is left, the last all that is left. So the chance of a wrong
    certificate stays below δ.

    Args:
        names: Policies to choose from, keys of `edgeexit.policies.POLICIES`.
        logits: E arrays of shape (N, C).
        labels: (N,) what counts as right.
        costs: (E,) everything spent until each exit answers.
        max_drop: The largest loss of accuracy against the whole model, a fraction of all samples.
        delta: Between 0 and 1.
        seed: Draws the third, and whatever else is drawn.

    Raises:
        UsageError: No such policy, or a number is out of range.
        DataError: There are too few samples.
        UnreachableError: No thresholds can be certified; the message says what can.
    """
    if len(labels) < FEWEST_SAMPLES:
        raise DataError("too few samples for a guarantee", got=len(labels), expected="hundreds, better thousands")
    fitting = np.random.default_rng(seed).permutation(len(labels))[: round(FITTING_SHARE * len(labels))]
    part, truth = [values[fitting] for values in logits], labels[fitting]
    refused: list[UnreachableError] = []
    ranked = _ranked(names, part, truth, costs, max_drop, seed)
    for policy, share in zip(ranked, _shares(len(ranked)), strict=True):
        trial = material(policy, logits, labels, costs)
        try:
            certificate = certify(trial, epsilon=max_drop, delta=share * delta, seed=seed, ladder_rows=fitting)
        except UnreachableError as error:
            refused.append(error)
        else:
            return Tuned(with_early(policy, certificate.thresholds), CERTIFIED, certificate.outcome, costs)
    raise refused[0]


def _ranked(
    names: Sequence[str],
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    costs: NDArray[np.float64],
    max_drop: float,
    seed: int,
) -> list[Policy]:
    """The policies, fitted, the cheapest first; a single one whatever it costs."""
    if len(names) == 1:
        return [fit_as_stored(names[0], logits, labels, Setting(costs, None, seed))]
    tuned = tune_all(names, logits, labels, costs, MaxDrop(max_drop), method="joint", seed=seed)
    return [each.policy for each in tuned]


def _shares(count: int) -> list[float]:
    """1/2, 1/4, …, the last as much as the one before, so that they add up to 1."""
    return [0.5 ** min(number + 1, count - 1) for number in range(count)]
