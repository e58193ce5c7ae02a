"""What criteria on temperature-scaled logits have in common: thresholds, temperatures, and how they are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature
from edgeexit.manifest import PolicyEntry
from edgeexit.policies.base import PLAIN, Decision, Setting, State, Verdict
from edgeexit.policies.single import first_row
from edgeexit.policies.stored import positive_tensor

__all__ = ["TEMPERATURES", "Opinion", "Scored", "fit_temperatures", "load_temperatures"]

TEMPERATURES = "policy.temperatures"

ScoredT = TypeVar("ScoredT", bound="Scored")


class Opinion(NamedTuple):
    """What an exit makes of n samples, before the threshold."""

    score: NDArray[np.float32]  # (n,)
    probability: NDArray[np.float32]  # (n,) of the label, in [0, 1]
    label: NDArray[np.int64]  # (n,) class index


@dataclass(frozen=True, eq=False)
class Scored(ABC):
    """A policy that is a score per exit, on logits divided by a temperature per exit.

    A criterion says what the score is (`opinion`); a sample leaves when score ≥ threshold, compared
    in float32, and at the last exit in any case.

    Args:
        temperatures: One positive value per exit; logits are divided by it.
        thresholds: One value per exit, in the criterion's units; infinity where nobody leaves.
    """

    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]

    name: ClassVar[str]
    criterion: ClassVar[str]

    @abstractmethod
    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """Score logits of shape (n, classes); returns the new state too. Row i depends on row i alone."""

    def start(self, samples: int, classes: int) -> State:
        """No state."""
        return ()

    def decide(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Decision, State]:
        """See `Policy.decide`."""
        (score, probability, label), state = self.opinion(exit_index, logits, state)
        leave = score >= np.float32(self.thresholds[exit_index])
        if self.is_last(exit_index):
            leave = np.ones(len(logits), dtype=bool)
        return Decision(score, probability, label, leave), state

    def decide_one(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        """See `Policy.decide_one`."""
        decision, state = self.decide(exit_index, logits, state)
        return first_row(decision), state

    def is_last(self, exit_index: int) -> bool:
        """Whether this exit takes everybody."""
        return exit_index == len(self.thresholds) - 1

    def scaled(self, exit_index: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits less their largest, over the temperature, (n, classes): at most 0."""
        below: NDArray[np.float32] = logits - logits.max(axis=1, keepdims=True)
        below *= np.float32(1.0 / self.temperatures[exit_index])
        return below

    def confidence(self, exit_index: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The calibrated probability of the exit's own label, (n,)."""
        largest: NDArray[np.float32] = 1.0 / np.exp(self.scaled(exit_index, logits)).sum(axis=1)
        return largest

    def with_thresholds(self: ScoredT, thresholds: tuple[float, ...]) -> ScoredT:
        """See `Policy.with_thresholds`."""
        return replace(self, thresholds=thresholds)

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """The temperatures, shape (exits,)."""
        return {TEMPERATURES: np.asarray(self.temperatures, dtype=np.float32)}

    def entry(self) -> PolicyEntry:
        """See `Policy.entry`."""
        return PolicyEntry(name=self.name, tensors=tuple(self.tensors()))

    @classmethod
    def fit(
        cls: type[ScoredT], logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN
    ) -> ScoredT:
        """Fit the temperatures on cached logits, E arrays of shape (n, C), with labels (n,); nobody leaves yet."""
        return cls(fit_temperatures(logits, labels), (float("inf"),) * len(logits))

    @classmethod
    def load(cls: type[ScoredT], thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> ScoredT:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: A temperature is missing, not finite or not positive.
        """
        return cls(load_temperatures(tensors, TEMPERATURES, len(thresholds)), tuple(thresholds))


def fit_temperatures(logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """A temperature per array of shape (n, C), rounded to float32 as it is stored."""
    return tuple(float(np.float32(fit_temperature(values, labels))) for values in logits)


def load_temperatures(tensors: Mapping[str, NDArray[np.float32]], name: str, count: int) -> tuple[float, ...]:
    """The temperatures of a tensor of shape (count,).

    Raises:
        BundleError: It is missing, or a value is not finite or not positive.
    """
    return tuple(map(float, positive_tensor(tensors, name, (count,))))
