"""The trainer: one call that trains a multi-exit network in any mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from edgeexit.errors import DataError, UsageError
from edgeexit.training.activations import ActivationBatch
from edgeexit.training.attach import WHOLE_MODEL, Activations, MultiExit
from edgeexit.training.feeding import Feed, TrainBatch
from edgeexit.training.frozen import report_failures
from edgeexit.training.heads import Head
from edgeexit.training.headslearner import HeadsLearner
from edgeexit.training.joint import JointLearner
from edgeexit.training.loop.calling import called, check_fit, exits_logits, moved
from edgeexit.training.loop.course import Course
from edgeexit.training.loop.hosting import choose_device, choose_precision, hosted, torch_threads
from edgeexit.training.loop.randomness import preserved_generators
from edgeexit.training.loop.weights import architecture, state_digest
from edgeexit.training.losses import exit_weights
from edgeexit.training.outcomes import ExitOutcome, TrainingResult
from edgeexit.training.settings import TrainSettings

__all__ = ["train"]


@contextmanager
def _frozen_or_not(network: nn.Module, frozen: bool) -> Iterator[None]:
    """Within this a network's backbone is frozen, or learns; afterwards it is as it was."""
    if not isinstance(network, MultiExit):
        yield
        return
    before = network.frozen
    try:
        _ = network.freeze() if frozen else network.unfreeze()
        yield
    finally:
        _ = network.freeze() if before else network.unfreeze()


def train(
    network: nn.Module,
    data: Feed,
    held: Feed,
    settings: TrainSettings,
    *,
    folder: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    about: Mapping[str, str] | None = None,
) -> TrainingResult:
    """Train a network's exits; at the end it holds the best weights, on the device and in the layout that it had.

    Args:
        network: A `MultiExit`; for mode "joint" any module that gives a tuple of logits (n, C), cheapest exit first.
        data: What to learn from.
        held: What to judge by; not augmented.
        settings: How; batch, seed and augmentation of the feeds are set by it.
        folder: Where checkpoints and metrics go; None keeps nothing.
        resume: Go on from the folder's checkpoint; if there is none, say so and begin.
        quiet: No progress bar.
        about: What else has to be the same when the run is taken up again, by name, such as the model's source.

    Returns:
        What came of it. Exits that learnt nothing are reported; `network.without(result.useless)` leaves them out.

    Raises:
        DataError: The data do not fit the network; labels are needed and not there; there is one class only; answers
            of a frozen backbone are not finite; or the checkpoint is damaged.
        ModelError: Training diverged. The network holds the last good weights, and so does the last checkpoint.
        UsageError: Settings, network and checkpoint do not fit.
        KeyboardInterrupt: After a checkpoint was written.
    """
    data, held = data.under(settings), held.under(settings)
    if settings.needs_labels:
        data.check_labels("training samples")
        held.check_labels("held-out samples")
    if settings.mode != "joint" and not isinstance(network, MultiExit):
        raise UsageError(
            f"mode {settings.mode} trains the heads of a MultiExit",
            got=type(network).__name__,
            remedy="MultiExit.attach(model, at=…), or mode joint",
        )
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    if settings.precision == "auto" and settings.mode != "joint":
        precision = None
    with preserved_generators(), torch_threads(settings.threads):
        exits = _check_data(network, data, held, device, precision)
        if settings.mode == "joint":
            exit_weights(settings.loss_weights, exits)
        channels_last = data.preparation.pictures and _takes_channels_last(network, data, device)
        joint = settings.mode == "joint"
        with hosted(network, device, channels_last=channels_last), _frozen_or_not(network, not joint):
            how = _joint if joint else _frozen
            sides = _Sides(data, held, settings, device, precision, channels_last, dict(about or {}))
            result = how(network, sides, folder, resume, quiet)
    report_failures(result.exits[:-1], whole=result.exits[-1])
    return result


@dataclass(frozen=True)
class _Sides:
    """What a run stands on."""

    data: Feed
    held: Feed
    settings: TrainSettings
    device: torch.device
    precision: torch.dtype | None
    channels_last: bool
    about: Mapping[str, str]


def _joint(network: nn.Module, sides: _Sides, folder: Path | None, resume: bool, quiet: bool) -> TrainingResult:
    settings = sides.settings
    learner = JointLearner(
        network,
        sides.held,
        settings,
        sides.device,
        sides.precision,
        channels_last=sides.channels_last,
        steps=sides.data.steps,
    )
    about = {**_about(network, sides), "architecture": architecture(network)}
    course: Course[TrainBatch] = Course(learner, sides.data, settings, about, folder, quiet, "training")
    course.run(resume=resume)
    outcomes = learner.conclude()
    return TrainingResult(
        exits=tuple(outcomes), epochs=course.epoch, best_epoch=learner.best_epoch, seconds=course.seconds
    )


def _frozen(network: nn.Module, sides: _Sides, folder: Path | None, resume: bool, quiet: bool) -> TrainingResult:
    network = cast(MultiExit, network)
    settings = sides.settings
    feed = _BackboneFeed(network, sides.data, sides, sides.data.epoch)
    held = _BackboneFeed(network, sides.held, sides, lambda number, start: sides.held.in_order())
    learner = HeadsLearner(list(network.heads), network.at, held, settings, sides.device, feed.steps)
    about = learner.about({**_about(network, sides), "backbone": state_digest(network.backbone)})
    what = f"exit heads ({settings.mode})"
    course: Course[ActivationBatch] = Course(learner, feed, settings, about, folder, quiet, what)
    course.run(resume=resume)
    outcomes = learner.conclude()
    whole = ExitOutcome(
        name=WHOLE_MODEL,
        accuracy=learner.whole["accuracy"],
        loss=learner.whole["loss"] if math.isfinite(learner.whole["loss"]) else None,
        converged=learner.whole["learnt"],
        against=learner.against,
    )
    latest = max(outcome.epoch for outcome in outcomes)
    return TrainingResult(exits=(*outcomes, whole), epochs=course.epoch, best_epoch=latest, seconds=course.seconds)


@dataclass(frozen=True)
class _BackboneFeed:
    """Activations from one pass of a frozen backbone over the batches of a feed, as an `ActivationFeed`."""

    network: MultiExit
    feed: Feed
    sides: _Sides
    batches: Callable[[int, int], Iterator[TrainBatch]]

    @property
    def steps(self) -> int:
        return self.feed.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
        for batch in self.batches(number, start):
            yield self._activations(batch)

    @torch.no_grad()
    def _activations(self, batch: TrainBatch) -> ActivationBatch:
        inputs = moved(batch.inputs, self.sides.device, self.sides.channels_last)
        precision = self.sides.precision
        with torch.autocast(self.sides.device.type, precision, enabled=precision is not None):
            found: Activations = called(self.network, self.feed.names, inputs, self.network.activations)
        return ActivationBatch(found.values, found.logits, batch.labels, found.mask)


def _about(network: nn.Module, sides: _Sides) -> dict[str, str]:
    """What has to be the same when a run is taken up again, that of which a user knows first."""
    own = {}
    if isinstance(network, MultiExit):
        specs = (str(cast(Head, head).spec) for head in network.heads)
        own = {"choice of places": ", ".join(network.at), "choice of heads": "; ".join(specs)}
    return {
        **sides.about,
        **own,
        "preprocessing": sides.data.preparation.described(),
        "preprocessing of held-out data": sides.held.preparation.described(),
        "training data": sides.data.fingerprint(),
        "held-out data": sides.held.fingerprint(),
    }


def _check_data(network: nn.Module, data: Feed, held: Feed, device: torch.device, precision: torch.dtype | None) -> int:
    """Try the first two samples of each on the network, before anything is trained; says how many exits answer."""
    if data.names != held.names and len(data.names) + len(held.names) > 2:
        raise DataError(
            "the held-out samples have other inputs than the training samples",
            got=", ".join(held.names),
            expected=", ".join(data.names),
            remedy="give both by the same names in the same order",
        )
    with hosted(network, device), torch.autocast(device.type, precision, enabled=precision is not None):
        network.eval()
        for feed, what in ((data, "training samples"), (held, "held-out samples")):
            output = check_fit(network, feed.names, moved(feed.example(), device, channels_last=False), what)
    return len(exits_logits(output, 2))


def _takes_channels_last(network: nn.Module, data: Feed, device: torch.device) -> bool:
    """Whether the network runs on pictures laid out with channels last; one that uses `Tensor.view` may not."""
    with hosted(network, device, channels_last=True), torch.no_grad():
        network.eval()
        inputs = moved(data.example(), device, channels_last=True)
        try:
            called(network, data.names, inputs)
        except RuntimeError:  # as torch says it; anything else the run itself will show
            return False
    return True
