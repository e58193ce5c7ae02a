"""The course of a run: epochs and steps, checkpoints, metrics and interruptions, whatever is being learnt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from edgeexit.console import progress, say
from edgeexit.errors import ModelError, UsageError
from edgeexit.training.loop.checkpoints import CHECKPOINT_FILE, Checkpoint, load_checkpoint, save_checkpoint
from edgeexit.training.loop.metrics import Metrics
from edgeexit.training.loop.stopping import Stop, deferred_signals
from edgeexit.training.settings import TrainSettings

__all__ = ["Course", "Diverged", "Epochs", "Learner"]

BatchT = TypeVar("BatchT")
Batch_contra = TypeVar("Batch_contra", contravariant=True)
Batch_co = TypeVar("Batch_co", covariant=True)


class Diverged(Exception):  # noqa: N818 it is caught here and told as a ModelError
    """A loss, a gradient or a weight is not finite."""


class _Stopped(Exception):  # noqa: N818 it never leaves this module
    """Somebody asked to stop, and a checkpoint was written."""


class Epochs(Protocol[Batch_co]):
    """Where batches come from."""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch_co]:
        """The batches of an epoch from step `start` on; the same for the same numbers."""


class Learner(Protocol[Batch_contra]):
    """What learns. All that a step does follows from the weights, the batch and the step's number."""

    @property
    def done(self) -> bool:
        """Whether there is no use in going on."""

    def begin(self, epoch: int) -> None:
        """Get ready for an epoch, or for the rest of one."""

    def step(self, batch: Batch_contra, position: int) -> None:
        """Learn from a batch; `position` counts the steps of the whole run, from 0.

        Raises:
            Diverged: Nothing can be learnt any more; the weights may be spoilt, those that were kept are not.
        """

    def finish(self, epoch: int, check: Callable[[], None]) -> Mapping[str, Any]:
        """Look at held-out samples, remember the best weights, and say what there is to report.

        Args:
            epoch: Which is over, from 0.
            check: To be called between batches; it may raise, and then nothing must have changed.
        """

    def keep(self) -> None:
        """Remember the present weights as good.

        Raises:
            Diverged: They are not.
        """

    def go_back(self) -> None:
        """Return to the weights that were last kept."""

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint needs, as tensors."""

    def numbers(self) -> dict[str, Any]:
        """All else that it needs, as JSON."""

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go to where a checkpoint was taken."""


@dataclass
class Course(Generic[BatchT]):
    """One run. `run` takes it to its end, or raises; what was reached is in `epoch` and `seconds`.

    Args:
        learner: What learns.
        feed: What from.
        settings: Of the run.
        about: What else has to be the same when the run is taken up again.
        folder: Where checkpoints and metrics go; None keeps nothing.
        quiet: No progress bar.
        what: What is trained, for the progress bar.
        clock: Seconds.
    """

    learner: Learner[BatchT]
    feed: Epochs[BatchT]
    settings: TrainSettings
    about: Mapping[str, str]
    folder: Path | None = None
    quiet: bool = False
    what: str = "training"
    clock: Callable[[], float] = time.monotonic
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    _judging: bool = False
    _since: float = 0.0
    _saved: float = 0.0

    def run(self, *, resume: bool = False) -> None:
        """Train to the end.

        Args:
            resume: Go on from the folder's checkpoint; if there is none, say so and begin.

        Raises:
            ModelError: Training diverged; the learner has gone back to the last good weights.
            UsageError: The folder has a checkpoint that is not to be taken up, or of another run.
            DataError: The checkpoint is damaged, or data cannot be read.
            KeyboardInterrupt: After a checkpoint was written.
        """
        self._take_up(resume)
        self._since = self._saved = self.clock()
        with deferred_signals() as stop:
            try:
                self._go(stop)
            except _Stopped:
                stop.deliver()
            except Diverged as error:
                self.learner.go_back()
                raise self._diverged(error) from error
        self.seconds = self._spent()

    def _go(self, stop: Stop) -> None:
        steps, epochs = self.feed.steps, self.settings.epochs
        position = self.epoch * steps + self.step
        self.learner.keep()
        with (
            Metrics(self.folder, after=self.epoch * steps, quiet=self.quiet) as metrics,
            progress(self.what, epochs * steps, quiet=self.quiet) as advance,
        ):
            advance(position)
            while self.epoch < epochs and not self.learner.done:
                self.learner.begin(self.epoch)
                for batch in self.feed.epoch(self.epoch, self.step):
                    self.learner.step(batch, self.epoch * steps + self.step)
                    self.step += 1
                    advance()
                    self._pause_if_asked(stop)
                    if self._due():
                        self._save()
                self._judging = True
                report = self.learner.finish(self.epoch, lambda: self._pause_if_asked(stop))
                self._judging = False
                self.epoch, self.step = self.epoch + 1, 0
                record = {"kind": "epoch", "epoch": self.epoch, "step": self.epoch * steps, **report}
                metrics.write({**record, "seconds": round(self._spent(), 3)})
                self._save()

    def _take_up(self, resume: bool) -> None:
        if self.folder is None:
            if resume:
                say("There is nothing to resume, as the run has no folder: it begins.")
            return
        path = self.folder / CHECKPOINT_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be a folder of a run", got=error.strerror) from error
        if not path.exists():
            if resume:
                say(f"There is nothing to resume in {self.folder}: the run begins.")
            return
        if not resume:
            raise UsageError(
                f"{self.folder} holds a run already",
                got=path.name,
                remedy="resume it, choose another folder, or remove that file",
            )
        checkpoint = load_checkpoint(path)
        checkpoint.check_same(self.settings, self.about, path)
        self.learner.load(checkpoint.tensors, checkpoint.numbers)
        self.epoch, self.step, self.seconds = checkpoint.epoch, checkpoint.step, checkpoint.seconds

    def _spent(self) -> float:
        return self.seconds + self.clock() - self._since

    def _due(self) -> bool:
        every, seconds = self.settings.checkpoint_every, self.settings.checkpoint_seconds
        late = bool(seconds) and self.folder is not None and self.clock() - self._saved >= seconds
        return late or bool(every and self.step % every == 0)

    def _save(self) -> None:
        self.learner.keep()
        if self.folder is not None:
            checkpoint = Checkpoint(
                self.settings,
                self.about,
                self.epoch,
                self.step,
                self._spent(),
                self.learner.numbers(),
                self.learner.tensors(),
            )
            save_checkpoint(self.folder / CHECKPOINT_FILE, checkpoint)
            self._saved = self.clock()

    def _pause_if_asked(self, stop: Stop) -> None:
        if stop.asked is not None:
            self._save()
            raise _Stopped

    def _diverged(self, error: Diverged) -> ModelError:
        kept = self.folder is not None and (self.folder / CHECKPOINT_FILE).exists()
        steps = self.feed.steps
        where = f"in epoch {self.epoch + 1}, step {min(self.step + 1, steps)} of {steps}"
        if self._judging:
            where = f"after epoch {self.epoch + 1}, on the held-out samples"
        return ModelError(
            f"training diverged {where}",
            got=str(error),
            expected="finite numbers; the network holds the last good weights"
            + (f", and so does {self.folder}" if kept else ""),
            remedy="check the data for values that are not finite"
            + (", the held-out samples above all" if self._judging else "")
            + "; else train anew with a lower rate, a longer warm-up or a smaller clip",
        )
