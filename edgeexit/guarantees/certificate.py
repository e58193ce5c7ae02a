"""Thresholds that keep a loss of accuracy with a stated probability.

Learn then test (Angelopoulos et al. 2021): one part of the samples chooses a ladder of threshold vectors, from
"nobody leaves" to hasty; on the other part each rung is tested, in that order, against the null "it loses more than
ε" at level δ, and the last rung before the first that fails is taken. A wrong answer needs the first rung whose null
is true to pass its test, and that has probability δ at most: nothing is paid for the number of rungs. Losses are
those of the cascade as it runs, each sample counted once, where it leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError, UnreachableError, UsageError
from edgeexit.guarantees.binomial import upper_limit
from edgeexit.guarantees.exact import PairedTest
from edgeexit.guarantees.ladder import build_ladder, lost_and_gained
from edgeexit.thresholds import Material, Outcome, measure

__all__ = ["LADDER_SHARE", "Certificate", "certify"]

LADDER_SHARE = 0.25
"""Of the samples, those that choose the ladder."""

_RUNGS = 200
_FURTHER = 1.05
_COARSE = 1.2
_NUISANCE = 0.02
"""The part of δ that is spent on bounding how often a sample is gained."""


@dataclass(frozen=True)
class Certificate:
    """Thresholds, and what is guaranteed of them.

    Attributes:
        thresholds: (E−1,), infinity where nobody leaves.
        epsilon: The largest loss.
        delta: The largest chance, over the draw of the calibration samples, that more is lost.
        horizon: The number of future samples on which no more is lost; infinity: in the long run only.
        p_value: Of the thresholds; at most delta.
        tested: How many rungs of the ladder were tested, the one that failed included.
        samples_used: How many samples they were tested on.
        outcome: On those samples.
    """

    thresholds: NDArray[np.float64]
    epsilon: float
    delta: float
    horizon: float
    p_value: float
    tested: int
    samples_used: int
    outcome: Outcome

    @property
    def mean_cost(self) -> float:
        """On the samples used, in the unit of the material's costs."""
        return self.outcome.mean_cost


def certify(
    material: Material,
    *,
    epsilon: float,
    delta: float,
    seed: int = 0,
    horizon: float | None = None,
    ladder_rows: NDArray[np.int64] | None = None,
) -> Certificate:
    """The cheapest thresholds found of which it is certain, up to δ, that they lose at most ε.

    With a probability of at least 1 − δ over the draw of the samples, the expected loss of accuracy against
    the whole model is at most ε; and with a probability of at least 1 − δ over that draw and the next
    `horizon` samples, the loss on those is at most ε. Without labels (`correct` is agreement with the whole
    model, `reference` all True) the loss is the share of samples answered otherwise than by the whole model.

    The samples must be independent draws of what will come, and the policy must not have been fitted on those that
    are tested: pass the ones it was fitted on as `ladder_rows`, or leave them out.

    Args:
        material: Scores and correctness of N samples.
        epsilon: Largest loss, a fraction of all samples, between 0 and 1.
        delta: Largest chance of a larger loss, between 0 and 1.
        seed: Draws the samples that choose the ladder.
        horizon: How many future samples the loss must be kept on; as many as the material has if None.
            Infinity leaves the expected loss alone, which costs a little less.
        ladder_rows: Which samples choose the ladder; a random quarter if None.

    Returns:
        A certificate. Where no other thresholds pass, nobody leaves early.

    Raises:
        UsageError: A number is out of range.
        DataError: Too few samples for a ladder.
        UnreachableError: With so few samples no exit could be certified; or the policy's answer at the last exit is
            not the whole model's, and it too loses too much. The message says what is reachable.
    """
    horizon = float(max(1, material.samples)) if horizon is None else horizon
    _check_numbers(epsilon, delta, horizon)
    choosing, testing = _parts(material, seed, ladder_rows)
    ladder = build_ladder(choosing, epsilon, _RUNGS)
    most_gained = _most_gained(choosing, ladder, _NUISANCE * delta)
    level = delta if most_gained == 0 else (1 - _NUISANCE) * delta
    test = PairedTest(testing.samples, epsilon, horizon, most_gained)
    _check_samples(test, level)
    tested, passed, p_value = 0, -1, 1.0
    for tested, thresholds in enumerate(ladder, start=1):
        p = test.p_value(*lost_and_gained(testing, thresholds))
        if p > level:
            break
        passed, p_value = tested - 1, p
    if passed < 0:
        raise _beyond_reach(testing, test, level)
    outcome = measure(testing, ladder[passed])
    return Certificate(ladder[passed], epsilon, delta, horizon, p_value, tested, testing.samples, outcome)


def _check_numbers(epsilon: float, delta: float, horizon: float) -> None:
    for what, value in (("loss", epsilon), ("chance of a larger loss", delta)):
        if not 0 < value < 1:
            raise UsageError(f"that {what} cannot be guaranteed", got=value, expected="a number between 0 and 1")
    if not horizon >= 1:
        raise UsageError("that is not a number of future samples", got=horizon, expected="1 or more, or infinity")


def _parts(material: Material, seed: int, ladder_rows: NDArray[np.int64] | None) -> tuple[Material, Material]:
    """The samples that choose the ladder, and those that test it."""
    if ladder_rows is None:
        order = np.random.default_rng(seed).permutation(material.samples)
        ladder_rows = order[: round(LADDER_SHARE * material.samples)]
    chosen = np.zeros(material.samples, dtype=bool)
    chosen[ladder_rows] = True
    if chosen.sum() < 2 or (~chosen).sum() < 1:
        raise DataError(
            "too few samples for a guarantee",
            got=f"{chosen.sum()} to choose thresholds with and {(~chosen).sum()} to test them on",
            expected="at least 2 and 1; some hundreds of each in practice",
        )
    return material.rows(chosen), material.rows(~chosen)


def _most_gained(choosing: Material, ladder: NDArray[np.float64], error: float) -> float:
    """A chance of a gain that no rung exceeds, with confidence 1 − error.

    0 where the whole model has all these samples right, as it has without labels: gains are then left
    out of account, which can only overstate the loss.
    """
    if choosing.reference.all():
        return 0.0
    gained = max(lost_and_gained(choosing, thresholds)[1] for thresholds in ladder)
    limit = upper_limit(gained, choosing.samples, error / len(ladder))
    return min(1.0, _COARSE ** math.ceil(math.log(limit, _COARSE)))


def _check_samples(test: PairedTest, level: float) -> None:
    """Refuse where not even a cascade without a single loss could pass."""
    if test.p_value(0, 0) <= level:
        return
    least = 1 - level ** (1 / test.samples)
    enough = 2 * math.ceil(math.log(level) / math.log(1 - test.epsilon))
    raise UnreachableError(
        "too few samples to guarantee so small a loss",
        got=f"{test.epsilon:g}, to be tested on {test.samples} samples and kept on the next {test.horizon:g}",
        expected=f"more than {least:.2g}, the least that so many samples could show",
        remedy=f"use {enough} samples or more, or allow a larger loss",
    )


def _beyond_reach(testing: Material, test: PairedTest, level: float) -> UnreachableError:
    lost, gained = lost_and_gained(testing, np.full(testing.exits - 1, np.inf))
    reachable, p = test.epsilon, 1.0
    while p > level and reachable < 1 / _FURTHER:
        reachable *= _FURTHER
        p = PairedTest(test.samples, reachable, test.horizon, test.most_gained).p_value(lost, gained)
    return UnreachableError(
        "no thresholds can be guaranteed to keep the loss of accuracy within the limit",
        got=f"{test.epsilon:g}",
        expected=f"about {reachable:.2g} or more: with nobody leaving early this policy still answers otherwise "
        f"than the whole model ({lost} of {testing.samples} samples lost, {gained} gained)",
        remedy="allow a larger loss, use more samples, or choose a policy that leaves the last answers as they are",
    )
