"""Training the gates, from the last to the first, as weighted binary classification (BWDS).

A sample that leaves at exit k is charged loss_k + μ cost_k: 1 or 0 for a wrong or a right answer, and
what was spent, the whole model's being 1. At each exit, the later gates being as they are, the gate is
to let a sample go where that charge is at most the charge of keeping it, and a mistake weighs as much as
the two charges differ. The text charges the whole model's cost and λ = 1/μ times the loss, which is the
same up to a factor; it counts a loss only where the whole model has none, where ours may also be gained.

With a budget, μ is searched so that the gates meet it on these samples at probability ½. It only
has to be near: thresholds are fitted to the scores afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies.base import Setting
from edgeexit.policies.gate import FEATURES, features
from edgeexit.policies.scored import fit_temperatures

__all__ = ["fit_gates", "weighted_logistic"]

PRICE = 0.1
"""μ without a budget: the whole model's cost is worth a tenth of an answer."""

CHEAPEST, DEAREST = 1e-2, 1e4
"""What μ is searched between. Near 0 a gate would learn only from the few samples whose loss the exits differ in."""

RIDGE = 1e-3
MAX_ROWS = 20_000

_BISECTIONS = 14
_STEPS, _HALVINGS = 30, 20
_DONE = 1e-8


def fit_gates(
    logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting
) -> tuple[tuple[float, ...], NDArray[np.float32]]:
    """Temperatures and gates from E arrays of logits, shape (N, C), and labels (N,).

    An even selection of `MAX_ROWS` samples is used at most.

    Returns:
        (E,), and (E, `FEATURES` + 1) as `LearnedGate` keeps them.
    """
    step = -(-len(labels) // MAX_ROWS)
    logits, labels = [values[::step] for values in logits], labels[::step]
    temperatures = fit_temperatures(logits, labels)
    gates = _Gates(logits, labels, temperatures, _cost_shares(setting, len(logits)))
    if setting.costs is None or setting.budget is None:
        found = gates.train(PRICE)
    else:
        found = gates.within(setting.budget / float(setting.costs[-1]))
    return temperatures, gates.unscaled(found).astype(np.float32)


def weighted_logistic(
    inputs: NDArray[np.float64], wanted: NDArray[np.bool_], weights: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coefficients with the least weighted mean of log(1 + e^∓odds), plus a ridge, by damped Newton steps.

    Args:
        inputs: (N, D), of unit spread; the last column is 1, and its coefficient is all but free.
        wanted: (N,) the class.
        weights: (N,) at least 0.
        start: (D,) where to begin.
    """
    weights = weights / (weights.mean() or 1.0)
    ridge = np.full(inputs.shape[1], RIDGE)
    ridge[-1] = 1e-6
    sign = np.where(wanted, -1.0, 1.0)

    def loss(trial: NDArray[np.float64]) -> float:
        return float((weights * np.logaddexp(0, sign * (inputs @ trial))).mean() + ridge @ trial**2 / 2)

    best, now = start, loss(start)
    for _ in range(_STEPS):
        leave = 0.5 * (1.0 + np.tanh(0.5 * (inputs @ best)))
        slope = inputs.T @ (weights * (leave - wanted)) / len(inputs) + ridge * best
        curve = (inputs.T * (weights * leave * (1 - leave))) @ inputs / len(inputs) + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        trials = ((trial, loss(trial)) for trial in (best - step * 0.5**halving for halving in range(_HALVINGS)))
        better = next((pair for pair in trials if pair[1] < now), None)
        if better is None:
            break
        gained = now - better[1]
        best, now = better
        if gained < _DONE:
            break
    return best


class _Gates:
    """The samples' features, to unit spread, and what each exit would cost them."""

    def __init__(
        self,
        logits: Sequence[NDArray[np.float32]],
        labels: NDArray[np.int64],
        temperatures: Sequence[float],
        costs: NDArray[np.float64],
    ) -> None:
        self.costs = costs
        self.loss = np.stack([values.argmax(axis=1) != labels for values in logits]).astype(np.float64)
        self.inputs = np.ones((len(logits) - 1, len(labels), FEATURES + 1))
        for k, own in enumerate(self.inputs):
            scaled = logits[k] - logits[k].max(axis=1, keepdims=True)
            own[:, :-1] = features(scaled * np.float32(1.0 / temperatures[k]))
        self.mean = self.inputs[:, :, :-1].mean(axis=1)
        self.spread = self.inputs[:, :, :-1].std(axis=1)
        self.spread[self.spread < 1e-9] = 1.0
        self.inputs[:, :, :-1] -= self.mean[:, None]
        self.inputs[:, :, :-1] /= self.spread[:, None]

    def train(self, price: float, start: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The gates, (E−1, `FEATURES` + 1), at μ = `price`."""
        found = np.zeros((len(self.inputs), FEATURES + 1)) if start is None else start.copy()
        later = self.loss[-1] + price * self.costs[-1]
        for k in reversed(range(len(found))):
            here = self.loss[k] + price * self.costs[k]
            found[k] = weighted_logistic(self.inputs[k], here <= later, np.abs(here - later), found[k])
            later = np.where(self.inputs[k] @ found[k] >= 0, here, later)
        return found

    def within(self, budget: float) -> NDArray[np.float64]:
        """The gates at the lowest μ whose mean cost at ½ is at most the budget, in whole models."""
        low, high = np.log(CHEAPEST), np.log(DEAREST)
        found = self.train(DEAREST)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            trial = self.train(float(np.exp(middle)), found)
            if self.mean_cost(trial) <= budget:
                found, high = trial, middle
            else:
                low = middle
        return found

    def mean_cost(self, gates: NDArray[np.float64]) -> float:
        """Of the samples, where each leaves at its first gate that says so."""
        leaves = np.ones(self.loss.shape, dtype=bool)
        leaves[:-1] = (self.inputs @ gates[:, :, None])[:, :, 0] >= 0
        return float(self.costs[leaves.argmax(axis=0)].mean())

    def unscaled(self, gates: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same gates for features as they come, and none for the last exit."""
        found = np.zeros((len(self.loss), FEATURES + 1))
        found[:-1, :-1] = gates[:, :-1] / self.spread
        found[:-1, -1] = gates[:, -1] - (found[:-1, :-1] * self.mean).sum(axis=1)
        return found


def _cost_shares(setting: Setting, exits: int) -> NDArray[np.float64]:
    """(E,) costs as parts of the whole model's; even steps where they are not known."""
    if setting.costs is None:
        return np.arange(1, exits + 1) / exits
    return np.asarray(setting.costs / setting.costs[-1], dtype=np.float64)
