"""One head of a search: built, trained on recorded activations, and measured on those held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeexit.training.frozen import HeadsLearner
from edgeexit.training.heads import Head, HeadSpec, build_head, head_macs
from edgeexit.training.loop.course import Course
from edgeexit.training.loop.hosting import choose_device, hosted, torch_threads
from edgeexit.training.loop.randomness import preserved_generators
from edgeexit.training.search.objective import Quality, hopeless, quality
from edgeexit.training.search.recording import Recording
from edgeexit.training.search.results import SearchPlace, SearchTrial
from edgeexit.training.settings import TrainSettings

__all__ = ["Measuring", "answers"]

StopsAt = Callable[[int, float], bool]
"""Given how many epochs a head was trained and what it is worth now, says whether to give it up."""


@dataclass(frozen=True)
class Measuring:
    """What the heads of one exit are trained on and measured with.

    Attributes:
        place: Where they read.
        seen: Activations of this exit alone to train on.
        unseen: Those to measure on.
        whole: MACs of the whole model.
        classes: C.
        max_drop: See `quality`.
        training: How heads are trained.
    """

    place: SearchPlace
    seen: Recording
    unseen: Recording
    whole: float
    classes: int
    max_drop: float
    training: TrainSettings

    def trial(self, spec: HeadSpec, best: float | None, stops_at: StopsAt) -> SearchTrial:
        """Try a head. All heads start from the same seed and see the same batches.

        Args:
            spec: The head, its sizes filled in.
            best: The worth of the best head so far, None where there is none; a head that is hopeless beside it is
                not trained.
            stops_at: Asked after each epoch but the last.
        """
        place = self.place
        head = build_head(spec, place.shape, self.classes, channels_first=place.channels_first, seed=self.training.seed)
        macs = float(head_macs(head, place.shape))
        if hopeless(best, before=place.macs_before, head=macs, whole=self.whole):
            return _entry(spec, macs, Quality.none(0.0, head=macs, whole=self.whole), epochs=0)
        device = choose_device(self.training.device)
        with preserved_generators(), torch_threads(self.training.threads), hosted(head, device):
            learner = _Watched([head], [place.name], self.unseen, self.training, device, self.seen.steps)
            learner.look = partial(self._look, head, macs, stops_at)
            try:
                Course(learner, self.seen, self.training, {}, quiet=True).run()
            except _GivenUp as given_up:
                return _entry(spec, macs, given_up.quality, epochs=given_up.epochs)
            [outcome] = learner.conclude()
            final = self.quality(head, macs)
        if not outcome.converged:  # what it seems to be worth is chance
            final = Quality.none(final.accuracy, head=macs, whole=self.whole)
        return _entry(spec, macs, final, epochs=self.training.epochs, finished=True, converged=outcome.converged)

    def _look(self, head: Head, macs: float, stops_at: StopsAt, epochs: int) -> None:
        if epochs < self.training.epochs:
            now = self.quality(head, macs)
            if stops_at(epochs, now.worth):
                raise _GivenUp(now, epochs)

    def quality(self, head: Head, macs: float) -> Quality:
        """How good a head is on the samples held out."""
        return quality(
            answers(head, self.unseen), self.unseen.teacher, self.unseen.labels,
            before=self.place.macs_before, head=macs, whole=self.whole, max_drop=self.max_drop,
        )  # fmt: skip


def answers(head: Head, feed: Recording) -> NDArray[np.float32]:
    """(N, C) logits of a head for the first exit of a recording, in the order of its epoch 0."""
    device = head.classifier.weight.device
    was_training = head.training
    head.eval()
    with torch.no_grad():
        logits = [
            head(batch.values[0].to(device), None if batch.mask is None else batch.mask.to(device)).cpu()
            for batch in feed.epoch(0)
        ]
    head.train(was_training)
    return np.asarray(torch.cat(logits).numpy())


class _GivenUp(Exception):  # noqa: N818 nothing went wrong
    """A head is not worth more epochs."""

    def __init__(self, quality: Quality, epochs: int) -> None:
        super().__init__()
        self.quality, self.epochs = quality, epochs


class _Watched(HeadsLearner):
    """Learns as ever, and is looked at after each epoch."""

    look: Callable[[int], None]

    def finish(self, epoch: int, check: Callable[[], None]) -> Mapping[str, Any]:
        """See `HeadsLearner.finish`."""
        report = super().finish(epoch, check)
        self.look(epoch + 1)
        return report


def _entry(
    spec: HeadSpec, macs: float, quality: Quality, *, epochs: int, finished: bool = False, converged: bool = False
) -> SearchTrial:
    return SearchTrial(
        spec=spec,
        accuracy=quality.accuracy,
        macs=macs,
        saving=quality.saving,
        hit_rate=quality.hit_rate,
        worth=quality.worth,
        epochs=epochs,
        finished=finished,
        converged=converged,
    )
