"""Outcomes: what each exit can do after training, and whether it learnt anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor

from edgeexit.errors import DataError

__all__ = ["ExitOutcome", "Tally", "TrainingResult"]

_SURE = 3.0
"""Standard errors by which an exit must do better than the commonest answer to have learnt something."""


class ExitOutcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One exit on held-out samples, with the weights that were kept.

    Attributes:
        name: The exit's place, or "whole model".
        accuracy: Share of right answers; what is right, `against` says.
        loss: Mean loss in nats; None where it never was a number.
        converged: False where the exit is not better than always giving the commonest answer, by three standard
            errors of the difference on the same samples, or its loss was not finite: it should be left out.
        epoch: After how many epochs the kept weights were got.
        against: "labels", or "model" where exits learnt the whole model's answers.
        problem: Where it did not converge as something was not finite: what, when, and what may help; else None.
    """

    name: str
    accuracy: float
    loss: float | None
    converged: bool
    epoch: int = 0
    against: str = "labels"
    problem: str | None = None


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What training came to.

    Attributes:
        exits: One outcome for each exit, the whole model last.
        epochs: Epochs that were run.
        best_epoch: The one whose weights were kept; with a frozen backbone each head keeps its own, and this is the
            latest of them.
        seconds: Spent, interruptions left out.
    """

    exits: tuple[ExitOutcome, ...]
    epochs: int
    best_epoch: int
    seconds: float

    @property
    def useless(self) -> tuple[str, ...]:
        """Names of the early exits that did not converge, for `MultiExit.without`."""
        return tuple(exit.name for exit in self.exits[:-1] if not exit.converged)


@dataclass
class Tally:
    """Losses and right answers, class by class, of some exits, batch after batch."""

    exits: int
    samples: int = 0
    losses: list[float] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        """Start from nothing."""
        self.losses = [0.0] * self.exits

    def add(self, logits: Sequence[Tensor], losses: Sequence[Tensor], targets: Tensor) -> None:
        """Count a batch.

        Args:
            logits: (n, C) of each exit.
            losses: The mean loss of each over the batch.
            targets: (n,) int64, the right answers.
        """
        count, classes = logits[0].shape
        self.samples += count
        seen = torch.bincount(targets, minlength=classes).cpu()
        self.right = self.right or [torch.zeros_like(seen)] * self.exits
        self.targets = seen if self.targets is None else self.targets + seen
        for index, (values, loss) in enumerate(zip(logits, losses, strict=True)):
            self.losses[index] += float(loss) * count
            right = torch.bincount(targets[values.argmax(dim=1) == targets], minlength=classes).cpu()
            self.right[index] = self.right[index] + right

    @property
    def loss(self) -> list[float]:
        """The mean loss of each exit; infinite where it is not a number."""
        means = [loss / self.samples for loss in self.losses]
        return [mean if math.isfinite(mean) else math.inf for mean in means]

    @property
    def accuracy(self) -> list[float]:
        """The share of right answers of each exit."""
        return [int(right.sum()) / self.samples for right in self.right]

    def learnt(self, index: int) -> bool:
        """Whether an exit does better than the commonest answer, by three standard errors.

        The two are compared on the same n samples, of which b are those that the exit alone gets right, c those that
        the commonest answer alone does, and p its share: b − c > 3·√min(b + c, n·p·(1 − p)), the smaller of the
        paired variance (McNemar) and that of the share. An exit without a mistake always does better.
        """
        assert self.targets is not None
        commonest = int(self.targets.argmax())
        most = int(self.targets[commonest])
        right, of_commonest = int(self.right[index].sum()), int(self.right[index][commonest])
        gained, lost = right - of_commonest, most - of_commonest
        ahead = gained - lost
        variance = min(gained + lost, most * (self.samples - most) / self.samples)
        better = ahead > _SURE * math.sqrt(variance) or right == self.samples
        return math.isfinite(self.loss[index]) and better

    def check(self, *, against_model: bool) -> None:
        """Refuse held-out samples on which nothing can be told.

        Raises:
            DataError: There are none, or all have the same right answer.
        """
        if self.targets is None:
            raise DataError("there are no held-out samples", expected="some, to see when training is done")
        if int((self.targets > 0).sum()) < 2:
            found = int(self.targets.argmax())
            raise DataError(
                "the model gives all held-out samples one answer"
                if against_model
                else "the held-out samples are of one class only",
                got=f"class {found}",
                expected="at least two classes",
                remedy="check that the data are scaled as the model expects (mean and std)" if against_model else None,
            )
