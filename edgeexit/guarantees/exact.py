"""An exact test that a cascade loses at most ε, from losses and gains against the whole model.

A sample is lost (whole model right, cascade wrong) with chance a, gained (the reverse) with chance b, and
otherwise unchanged; the loss of accuracy is a − b. Among n samples L are lost and G gained. The statistic is

    T = (ε n − L + G) / √(ε n + 2 G),

about standard normal where a − b = ε, for any b: the root estimates the standard deviation of L − G. T falls with
L and rises with G, so P(T ≥ c) falls with a and rises with b, and its largest value over all a − b ≥ ε is found at
a = b + ε, for some b, which is looked for on a grid. This is an exact unconditional test, as for the difference of
paired proportions (Hsueh, Liu and Chen 2001, Biometrics 57). P-values for bounded losses in general
(Hoeffding–Bentkus; betting, Waudby-Smith and Ramdas 2024) hold for losses of any distribution, and at δ = 0.1 ask
for about 2.1 standard errors; three values with exact probabilities ask for 1.3.

Two nulls are tested; the p-value is the larger of theirs.

- *Population*: a − b > ε. Its level is the largest P(T ≥ c) at a = b + ε.
- *Horizon*: on the next m samples, more than ε m are lost on balance. Let g(a, b) be the chance of that. Thresholds are
  tested in a fixed order up to the first rejected ones; the last accepted ones have g > t only if the first ones
  with g > t were accepted. Hence

      P(more than ε m lost) = E[g] = ∫₀¹ P(g > t) dt ≤ ∫₀¹ max { P(T ≥ c) : g(a, b) ≥ t } dt,

  which is the level. Without gains (b = 0) it is the beta-binomial tail, the two-sample bound of sampling theory.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeexit.guarantees.binomial import binomial_mass, window

__all__ = ["PairedTest"]

_STATISTICS = np.concatenate([np.arange(0.0, 2.5, 0.02), np.arange(2.5, 6.01, 0.1)])
_TIMES = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in np.arange(-6.0, 4.001, 0.05)])
"""Where the integral over t is cut."""

_GAINED = np.concatenate(
    [np.arange(0, 2, 0.1), np.arange(2, 6, 0.25), 6 * 1.08 ** np.arange(30), 60 * 1.3 ** np.arange(40)]
)
"""Expected gains n b at which the supremum over b is taken."""

_BETWEEN = 1.04
"""Between those points no p-value from 0.005 up rises by more, as grids ten times as fine show."""

_LOST_POINTS = 200
_DRIFT = 0.1
_TINY = 1e-9


class PairedTest:
    """The test for n samples.

    Args:
        samples: n, at least 1.
        epsilon: ε, between 0 and 1.
        horizon: m, at least 1; infinity for the population alone.
        most_gained: b is not larger. 0 leaves gains out of account: the loss is then what is lost alone.
    """

    def __init__(self, samples: int, epsilon: float, horizon: float, most_gained: float = 0.0) -> None:
        self.samples, self.epsilon, self.horizon, self.most_gained = samples, epsilon, horizon, most_gained
        self._levels = _levels(samples, epsilon, horizon, most_gained)

    def p_value(self, lost: int, gained: int) -> float:
        """The chance, under either null, of a result that speaks as much against it."""
        slack = self.epsilon * self.samples
        gained = gained if self.most_gained else 0
        statistic = (slack - lost + gained) / math.sqrt(slack + 2 * gained)
        position = int(np.searchsorted(_STATISTICS, statistic + _TINY, side="right")) - 1
        return 1.0 if position < 0 else float(self._levels[position])


@lru_cache(maxsize=8)
def _levels(samples: int, epsilon: float, horizon: float, most_gained: float) -> NDArray[np.float64]:
    """The p-value of each of `_STATISTICS`."""
    population = np.zeros(len(_STATISTICS))
    over_times = np.zeros((len(_TIMES), len(_STATISTICS)))
    expected = _GAINED[samples * most_gained > _GAINED] / samples
    for gained in np.append(expected, most_gained).tolist():
        at_limit = np.asarray([min(1.0, epsilon + gained)])
        population = np.maximum(population, _accepted(samples, epsilon, at_limit, gained)[0])
        if math.isfinite(horizon):
            accepted = _accepted_over_times(samples, epsilon, int(horizon), gained)
            over_times = np.maximum(over_times, accepted)
    lengths = np.diff(np.append(_TIMES, 1.0))
    first = _TIMES[0] if math.isfinite(horizon) else 0.0
    levels = np.maximum(population, first + lengths @ over_times) * (_BETWEEN if most_gained else 1.0)
    return np.asarray(np.minimum(1.0, levels))


def _accepted_over_times(samples: int, epsilon: float, horizon: int, gained: float) -> NDArray[np.float64]:
    """P(T ≥ c) at the least a with g(a, b) ≥ t, (times, statistics)."""
    spread = math.sqrt((2 * gained + epsilon) / horizon)
    first = max(0.0, epsilon + gained - 7 * spread)
    last = min(1.0 - gained, epsilon + gained + 5 * spread + 12 / horizon)
    lost = np.linspace(first, max(first, last), _LOST_POINTS)
    broken = np.maximum.accumulate(_broken(horizon, epsilon, lost, gained))
    least = np.interp(_TIMES, broken, lost)
    accepted = _accepted(samples, epsilon, least, gained)
    accepted[broken[0] > _TIMES] = 1.0
    return accepted


def _accepted(samples: int, epsilon: float, lost: NDArray[np.float64], gained: float) -> NDArray[np.float64]:
    """P(T ≥ c) for chances `lost`, rising, and `gained`: (lost, statistics)."""
    slack = epsilon * samples
    rows = []
    for part in _chunks(samples, epsilon, lost, gained):
        losses = window(samples, part[0], part[-1])
        # T ≥ c where u = √(slack + 2 G) is at least the larger root of u² − 2 c u + slack − 2 L = 0.
        inside = _STATISTICS**2 - slack + 2 * losses[:, None]
        root = _STATISTICS + np.sqrt(np.maximum(inside, 0.0))
        need = np.where(inside < 0, 0.0, np.ceil((root**2 - slack) / 2 - _TINY)).astype(np.int64)
        enough = _at_least(samples - losses, gained / max(1.0 - part.mean(), _TINY), need)
        rows.append(binomial_mass(np.asarray([samples]), part[:, None], losses) @ enough)
    return np.concatenate(rows)


def _broken(horizon: int, epsilon: float, lost: NDArray[np.float64], gained: float) -> NDArray[np.float64]:
    """P(L − G > ε m) for chances `lost`, rising, and `gained`."""
    most = math.floor(epsilon * horizon + _TINY)
    rows = []
    for part in _chunks(horizon, epsilon, lost, gained):
        losses = window(horizon, part[0], part[-1])
        too_many = _at_least(horizon - losses, gained / max(1.0 - part.mean(), _TINY), (losses - most)[:, None])[:, 0]
        fails = np.where(losses > most, 1.0 - too_many, 0.0)
        rows.append(binomial_mass(np.asarray([horizon]), part[:, None], losses) @ fails)
    return np.concatenate(rows)


def _at_least(trials: NDArray[np.int64], chance: float, need: NDArray[np.int64]) -> NDArray[np.float64]:
    """P(Bin(trials, chance) ≥ need), for trials (i,) and need (i, j)."""
    chance = min(chance, 1.0)
    counts = window(int(trials.max()), chance, chance)
    mass = binomial_mass(trials[:, None], np.asarray(chance), counts)
    below = np.concatenate([np.zeros((len(trials), 1)), np.cumsum(mass, axis=1)], axis=1)
    place = np.clip(need - counts[0], 0, len(counts))
    return np.asarray(1.0 - np.take_along_axis(below, place, axis=1))


def _chunks(samples: int, epsilon: float, lost: NDArray[np.float64], gained: float) -> list[NDArray[np.float64]]:
    """Parts of `lost` within which the chance of a gain among the samples not lost hardly differs."""
    if gained == 0 or len(lost) == 1:
        return [lost]
    width = _DRIFT * math.sqrt((2 * gained + epsilon) / samples) / gained
    count = min(math.ceil(float(lost[-1] - lost[0]) / width), len(lost))
    return [part for part in np.array_split(lost, max(1, count)) if len(part)]
