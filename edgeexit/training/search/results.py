"""What a search is asked for, and what it finds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from edgeexit.errors import UsageError
from edgeexit.training.heads import HeadSpec

__all__ = ["SearchPlace", "SearchResult", "SearchSettings", "SearchTrial", "pareto"]


class SearchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long and for what to search.

    Attributes:
        trials: Different heads to try for each exit, the first one included.
        epochs: Epochs that each is trained; 0 for as many as the training has. With fewer, heads that merely learn
            fast look best.
        max_drop: Loss of accuracy that all exits together may cause, a fraction of the samples. One exit alone gets
            half of it, as the first exit does in SelfXit (section 3.3).
        first: The head that is tried first: what training would take without a search.
        seed: Of the search itself; the heads are trained with the seed of the training.
        storage: The SQLite file; "" for `search.sqlite` in the folder of the run, or none where there is no folder.
        timeout_s: Seconds for all exits together; 0 for as long as it takes. A head being trained is finished,
            and every exit tries its first head.
        record_bytes: Room for the recorded activations. What does not fit is kept as float16, then left out.
        record_folder: Where to keep them in a file that is mapped into memory and vanishes with the process;
            "" for memory itself.
    """

    trials: int = 20
    epochs: int = 0
    max_drop: float = 0.01
    first: HeadSpec = HeadSpec()
    seed: int = 0
    storage: str = ""
    timeout_s: float = 0.0
    record_bytes: int = 2**30
    record_folder: str = ""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: One is out of its range.
        """
        least = {"trials": 1, "epochs": 0, "max_drop": 0.0, "seed": 0, "timeout_s": 0.0, "record_bytes": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= bound):
                raise UsageError(f"a search cannot have {name} = {value}", expected=f"at least {bound}")


class SearchPlace(NamedTuple):
    """Where a head reads.

    Attributes:
        name: Of the exit, and of its study.
        shape: Of one sample's activation, without the batch.
        channels_first: Whether the channels are the first of these axes, where there are several.
        macs_before: MACs of the backbone up to here, for one sample.
    """

    name: str
    shape: tuple[int, ...]
    channels_first: bool
    macs_before: float


class SearchTrial(NamedTuple):
    """A head that was tried.

    Attributes:
        spec: The head, its sizes filled in.
        accuracy: On the samples held out: with the labels, or with the whole model's answers if there are none.
        macs: Of the head, for one sample.
        saving: What the exit alone saves on average at the tolerated loss, as a fraction of the whole model's MACs.
            Below 0 where it costs more than it saves.
        hit_rate: The part of the samples that leaves there.
        worth: By which heads are compared; see `edgeexit.training.search.objective`.
        epochs: How long it was trained; 0 for a head that could not have become the best.
        finished: Whether it was trained to the end.
        converged: Whether it learned anything.
    """

    spec: HeadSpec
    accuracy: float
    macs: float
    saving: float
    hit_rate: float
    worth: float
    epochs: int
    finished: bool
    converged: bool


class SearchResult(NamedTuple):
    """What was found for one exit.

    Attributes:
        name: Of the exit.
        spec: The head that is worth most, its sizes filled in; the first one where none learned anything.
        accuracy: Its accuracy on the samples held out.
        macs: Its MACs, for one sample.
        saving: What it saves after so little training.
        worth: What it is worth.
        converged: Whether it learned anything.
        trials: All heads tried, the first one first, each once.
    """

    name: str
    spec: HeadSpec
    accuracy: float
    macs: float
    saving: float
    worth: float
    converged: bool
    trials: tuple[SearchTrial, ...]

    @property
    def front(self) -> tuple[SearchTrial, ...]:
        """The heads than which none is both cheaper and better; see `pareto`."""
        return pareto(self.trials)


def pareto(trials: Iterable[SearchTrial]) -> tuple[SearchTrial, ...]:
    """The finished heads than which no other is as cheap and more accurate, or cheaper and as accurate.

    Returns:
        By rising MACs, so that the accuracy rises too; of equal heads the first.
    """
    front: list[SearchTrial] = []
    for trial in sorted((trial for trial in trials if trial.finished), key=lambda trial: (trial.macs, -trial.accuracy)):
        if not front or trial.accuracy > front[-1].accuracy:
            front.append(trial)
    return tuple(front)
