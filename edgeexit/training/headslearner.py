"""Heads that learn side by side, each as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import UsageError
from edgeexit.training.activations import ActivationBatch, ActivationFeed, cause, check_batch
from edgeexit.training.loop.hosting import heads_in_bf16
from edgeexit.training.loop.optimisers import (
    build_optimiser,
    load_optimiser,
    optimiser_tensors,
    parameter_groups,
    set_rates,
)
from edgeexit.training.loop.randomness import derived_seed, seed_generators
from edgeexit.training.loop.weights import architecture, copied, live, put, under
from edgeexit.training.losses import distillation
from edgeexit.training.outcomes import ExitOutcome, Tally
from edgeexit.training.settings import FROZEN_MODES, TrainSettings, rate_share

__all__ = ["HeadsLearner"]

_TOKENS_RANK = 3
_NUMBERS = ("failed", "problem", "waited", "best_loss", "best_accuracy", "best_epoch", "learnt", "losses")


@dataclass
class _Track:
    """One head on its way."""

    name: str
    head: nn.Module
    optimiser: torch.optim.Optimizer
    best: dict[str, Tensor]
    failed: bool = False
    problem: str = ""
    waited: int = 0
    best_loss: float = math.inf
    best_accuracy: float = 0.0
    best_epoch: int = 0
    learnt: bool = False
    losses: list[float] = field(default_factory=list)


class HeadsLearner:
    """Heads side by side, as a `Learner`. `conclude` puts the best weights in place.

    They are trained with bfloat16 where the settings' precision says so, and judged in float32, as they will run.
    """

    def __init__(
        self,
        heads: Sequence[nn.Module],
        names: Sequence[str],
        held: ActivationFeed,
        settings: TrainSettings,
        device: torch.device,
        steps: int,
    ) -> None:
        if settings.mode not in FROZEN_MODES:
            raise UsageError("heads alone are not trained jointly", got=settings.mode, expected=", ".join(FROZEN_MODES))
        if len(names) != len(heads) or len(set(names)) != len(names) or not heads:
            raise UsageError("each head needs a name of its own", got=f"{len(heads)} heads, names {list(names)}")
        self.settings, self.held, self.device = settings, held, device
        self.halved = heads_in_bf16(settings, device)
        self.steps, self.total = steps, settings.epochs * steps
        self.against = "labels" if settings.needs_labels else "model"
        self.whole: dict[str, Any] = {"accuracy": 0.0, "loss": math.inf, "learnt": False}
        plain = TrainSettings(rate=settings.rate)  # AdamW, whatever a joint run would use
        self.tracks = [
            _Track(
                name,
                head,
                build_optimiser(parameter_groups(head.parameters(), settings.rate, settings.weight_decay), plain),
                copied(head),
            )
            for name, head in zip(names, heads, strict=True)
        ]

    @property
    def done(self) -> bool:
        """Whether each head has failed or waited long enough."""
        return not any(map(self._active, self.tracks))

    def begin(self, epoch: int) -> None:
        """Put heads in training mode."""
        for track in self.tracks:
            track.head.train()

    def step(self, batch: ActivationBatch, position: int) -> None:
        """Bring each head one step on; one that goes wrong stays behind.

        Raises:
            UsageError: There is not one activation for each head.
            DataError: Labels are not there or no classes, or the whole model's answers are not finite.
        """
        where = f"epoch {position // self.steps + 1}, step {position % self.steps + 1} of {self.steps}"
        check_batch(batch, len(self.tracks), self.settings, where)
        share = rate_share(self.settings, position, self.total)
        moved = self._moved(batch)
        for track, value in zip(self.tracks, moved.values, strict=True):
            if not self._active(track):
                continue
            seed_generators(derived_seed(self.settings.seed, "head", track.name, position), others=False)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.halved):
                logits = _answers(track.head, value, moved.mask)
            loss = self._loss(logits, moved)
            if not math.isfinite(number := loss.item()):
                track.failed, track.problem = True, cause(f"loss was {number}", value, where)
                continue
            track.losses.append(number)
            track.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            norm = nn.utils.clip_grad_norm_(track.head.parameters(), self.settings.clip or math.inf)
            if not bool(norm.isfinite()):
                track.failed, track.problem = True, cause(f"gradient was of norm {norm.item()}", value, where)
                continue
            set_rates(track.optimiser, share)
            track.optimiser.step()

    def finish(self, epoch: int, check: Callable[[], None]) -> Mapping[str, Any]:
        """See how far each head has got, and keep its weights where they are its best."""
        active = [index for index, track in enumerate(self.tracks) if self._active(track)]
        tally, problems = self._judge(active, check, f"after epoch {epoch + 1}")
        tally.check(against_model=self.against == "model")
        *losses, whole_loss = tally.loss
        *accuracies, whole_accuracy = tally.accuracy
        self.whole = {
            "accuracy": whole_accuracy,
            "loss": whole_loss,
            "learnt": tally.learnt(len(active)),
        }
        report = {}
        for turn, (index, loss, accuracy) in enumerate(zip(active, losses, accuracies, strict=True)):
            track = self.tracks[index]
            trained = sum(track.losses) / len(track.losses) if track.losses else math.nan
            report[track.name] = {"train_loss": trained, "loss": loss, "accuracy": accuracy}
            track.losses.clear()
            track.problem = problems.get(index, "")
            self._remember(track, epoch, loss, accuracy, tally.learnt(turn))
        return {"exits": report}

    def conclude(self) -> list[ExitOutcome]:
        """Put each head's best weights in place and say what they can do."""
        for track in self.tracks:
            put(track.head, track.best)
        return [
            ExitOutcome(
                name=track.name,
                accuracy=track.best_accuracy,
                loss=track.best_loss if math.isfinite(track.best_loss) else None,
                converged=track.learnt and not track.failed,
                epoch=track.best_epoch,
                against=self.against,
                problem=None if track.learnt and not track.failed else track.problem or None,
            )
            for track in self.tracks
        ]

    def keep(self) -> None:
        """Nothing: a head's best weights are kept, and what fails is left out."""

    def go_back(self) -> None:
        """Nothing, as `keep`."""

    def about(self, more: Mapping[str, str]) -> dict[str, str]:
        """What has to be the same when this is taken up again."""
        shapes = "; ".join(f"{track.name}: {architecture(track.head)}" for track in self.tracks)
        precision = {"precision of the heads": "bf16"} if self.halved else {}
        return {**more, **precision, "architecture": shapes, "number of steps": str(self.total)}

    def tensors(self) -> dict[str, Tensor]:
        """Present and best weights, and the optimisers' state."""
        found: dict[str, Tensor] = {}
        for index, track in enumerate(self.tracks):
            found |= {f"{index}/now/{name}": value for name, value in live(track.head).items()}
            found |= {f"{index}/best/{name}": value for name, value in track.best.items()}
            found |= optimiser_tensors(track.optimiser, f"{index}/optimiser")
        return found

    def numbers(self) -> dict[str, Any]:
        """Where each head stands."""
        tracks = [{name: getattr(track, name) for name in _NUMBERS} for track in self.tracks]
        return {"tracks": [_encoded(track) for track in tracks], "whole": _encoded(self.whole)}

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go to where a checkpoint was taken."""
        for index, (track, stored) in enumerate(zip(self.tracks, numbers["tracks"], strict=True)):
            put(track.head, under(tensors, f"{index}/now/"))
            track.best = {name: value.to(self.device) for name, value in under(tensors, f"{index}/best/").items()}
            load_optimiser(track.optimiser, tensors, f"{index}/optimiser")
            for name, value in _decoded(stored).items():
                setattr(track, name, value)
        self.whole = _decoded(numbers["whole"])

    def _active(self, track: _Track) -> bool:
        return not track.failed and not (self.settings.patience and track.waited >= self.settings.patience)

    def _moved(self, batch: ActivationBatch) -> ActivationBatch:
        here = self.device
        return ActivationBatch(
            [value.to(here, torch.float32) for value in batch.values],
            batch.teacher.to(here, torch.float32),
            batch.labels.to(here) if batch.labels is not None and self.settings.needs_labels else None,
            None if batch.mask is None else batch.mask.to(here),
        )

    def _loss(self, logits: Tensor, batch: ActivationBatch) -> Tensor:
        """The loss of one exit: labels, the whole model's answers (SelfXit, section 3.2.2), or both."""
        settings = self.settings
        if settings.mode == "distilled":
            return distillation(logits, batch.teacher, settings.temperature)
        assert batch.labels is not None
        labels = functional.cross_entropy(logits.float(), batch.labels)
        if settings.mode == "layerwise":
            return labels
        answers = distillation(logits, batch.teacher, settings.temperature)
        return settings.label_share * labels + (1 - settings.label_share) * answers

    @torch.no_grad()
    def _judge(self, active: Sequence[int], check: Callable[[], None], when: str) -> tuple[Tally, dict[int, str]]:
        """Held-out losses and answers of the active heads and the whole model behind them; what was not finite."""
        tally, problems = Tally(len(active) + 1), dict[int, str]()
        for index in active:
            self.tracks[index].head.eval()
        for number, batch in enumerate(self.held.epoch(0), 1):
            check()
            where = f"held-out batch {number} {when}"
            check_batch(batch, len(self.tracks), self.settings, where)
            moved = self._moved(batch)
            logits = [_answers(self.tracks[index].head, moved.values[index], moved.mask) for index in active]
            logits.append(moved.teacher)
            targets = moved.teacher.argmax(dim=1) if moved.labels is None else moved.labels
            losses = [self._loss(values, moved) for values in logits]
            for index, loss in zip(active, losses[:-1], strict=True):
                if not bool(loss.isfinite()):
                    problems.setdefault(index, cause(f"loss was {loss.item()}", moved.values[index], where))
            tally.add(logits, losses, targets)
        return tally, problems

    def _remember(self, track: _Track, epoch: int, loss: float, accuracy: float, learnt: bool) -> None:
        before, now = (track.best_accuracy, -track.best_loss), (accuracy, -loss)
        better = {"loss": loss < track.best_loss, "accuracy": now > before, "last": True}[self.settings.keep]
        better = better and math.isfinite(loss)
        track.waited = 0 if better else track.waited + 1
        if better:
            track.best = copied(track.head)
            track.best_loss, track.best_accuracy = loss, accuracy
            track.best_epoch, track.learnt = epoch + 1, learnt


def _answers(head: nn.Module, value: Tensor, mask: Tensor | None) -> Tensor:
    """A head's logits (n, C); the mask goes with activations of as many tokens."""
    fits = mask is not None and value.ndim == _TOKENS_RANK and mask.shape[1] == value.shape[1]
    logits: Tensor = head(value, mask if fits else None)
    return logits


def _encoded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """With null for infinity, which JSON has not."""
    return {name: None if value == math.inf else value for name, value in numbers.items()}


def _decoded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.inf if value is None else value for name, value in numbers.items()}
