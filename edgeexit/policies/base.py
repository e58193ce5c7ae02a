"""What every policy is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import PolicyEntry

__all__ = ["PLAIN", "Decision", "Policy", "PolicyKind", "Refittable", "Setting", "State", "Verdict"]

State = tuple[NDArray[np.float32], ...]
"""Arrays whose axis 0 is the sample. Rows of samples that left are dropped by the caller."""


class Decision(NamedTuple):
    """A policy's word on n samples at one exit."""

    score: NDArray[np.float32]  # (n,) in the criterion's units; leaves when ≥ the exit's threshold
    probability: NDArray[np.float32]  # (n,) of the label, in [0, 1]
    label: NDArray[np.int64]  # (n,) class index
    leave: NDArray[np.bool_]  # (n,)

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Decision:
        """The rows of a decision, given one by one."""
        score, probability, label, leave = zip(*verdicts, strict=True)
        return cls(
            np.array(score, np.float32), np.array(probability, np.float32), np.array(label), np.array(leave, np.bool_)
        )


class Verdict(NamedTuple):
    """One row of a `Decision`, in Python's numbers."""

    score: float
    probability: float
    label: int
    leave: bool


class Policy(Protocol):
    """Pure: equal arguments give equal answers, and row i of an answer depends on row i alone.

    `thresholds` has one value per exit; infinity means that nobody leaves there. At the last exit
    everybody leaves, whatever the threshold. A policy may have a number `few_rows`: as many rows are judged
    quicker one by one, with `decide_one`, than together.
    """

    @property
    def name(self) -> str:
        """The name under which `edgeexit.policies.table` knows the policy."""

    @property
    def criterion(self) -> str:
        """What the score is."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One value per exit, in the criterion's units."""

    def start(self, samples: int, classes: int) -> State:
        """The state before exit 0."""

    def decide(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Decision, State]:
        """Judge logits of shape (n, classes) at exit `exit_index`; returns the new state too."""

    def decide_one(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        """`decide` for logits of shape (1, classes): equal within rounding, and quicker for few classes."""

    def with_thresholds(self, thresholds: tuple[float, ...]) -> Policy:
        """The same policy with other thresholds."""

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """What has to be stored in `exits.safetensors`."""

    def entry(self) -> PolicyEntry:
        """How the manifest names this policy."""


@dataclass(frozen=True)
class Setting:
    """What a policy may take into account, besides logits and labels, when it is fitted.

    Most policies need none of it; a learned scheduler needs all.

    Attributes:
        costs: (E,) everything spent until each exit answers, any unit; None where it is not known.
        budget: The mean cost that is asked for, in the same unit; None where accuracy is the goal.
        seed: For whatever chance enters the fit.
    """

    costs: NDArray[np.float64] | None = None
    budget: float | None = None
    seed: int = 0


@runtime_checkable
class Refittable(Protocol):
    """A policy with so many parameters that its scores flatter the samples it was fitted on.

    Thresholds are then fitted on what the same fit, made without a sample, says about it.
    """

    def refit(self, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> Policy:
        """The same fit on other samples: E arrays of shape (n, C) with labels (n,)."""


PLAIN = Setting()
"""Nothing but logits and labels."""


class PolicyKind(Protocol):
    """A class of policies: fitted on cached logits, rebuilt from a bundle."""

    def fit(self, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN) -> Policy:
        """Fit on E arrays of shape (n, C) with labels (n,); nobody leaves yet."""

    def load(self, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> Policy:
        """Rebuild from a bundle's tensors.

        Raises:
            BundleError: A tensor is missing or unusable.
        """
