"""Joint: the whole network learns at once, each exit on labels, later exits teaching earlier ones if asked to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeexit.errors import DataError, UsageError
from edgeexit.training.attach import MultiExit
from edgeexit.training.feeding import Feed, TrainBatch
from edgeexit.training.loop.calling import called, exits_logits, moved
from edgeexit.training.loop.course import Diverged
from edgeexit.training.loop.optimisers import (
    build_optimiser,
    load_optimiser,
    optimiser_tensors,
    parameter_groups,
    set_rates,
)
from edgeexit.training.loop.randomness import derived_seed, seed_generators
from edgeexit.training.loop.weights import all_finite, copied, live, put, under
from edgeexit.training.losses import exit_weights, late_to_early, weighted_cross_entropy
from edgeexit.training.outcomes import ExitOutcome, Tally
from edgeexit.training.settings import TrainSettings, rate_share

__all__ = ["JointLearner"]


class JointLearner:
    """A network that gives a tuple of logits, as a `Learner`. `conclude` puts the best weights in place.

    Args:
        network: On its device; a `MultiExit`, or any module that returns a tuple of E logits (n, C).
        held: What to judge by.
        settings: With mode "joint".
        device: Where the network is.
        precision: What autocast computes in; None is float32.
        channels_last: Whether pictures are laid out with channels last.
        steps: Of an epoch.

    Raises:
        UsageError: Nothing can be learnt, or heads are to go first and the network has none apart.
    """

    def __init__(
        self,
        network: nn.Module,
        held: Feed,
        settings: TrainSettings,
        device: torch.device,
        precision: torch.dtype | None,
        *,
        channels_last: bool,
        steps: int,
    ) -> None:
        if settings.heads_first and not isinstance(network, MultiExit):
            raise UsageError("heads cannot go first", got=type(network).__name__, expected="a MultiExit")
        self.network, self.held, self.settings = network, held, settings
        self.device, self.precision, self.channels_last = device, precision, channels_last
        self.total, self.late = settings.epochs * steps, settings.heads_first * steps
        groups = _groups(network, settings)
        if not groups:
            raise UsageError("nothing of the network can be learnt", got="requires_grad is False everywhere")
        self.optimiser = build_optimiser(groups, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        self.names: tuple[str, ...] = ()
        self.best: dict[str, Tensor] = {}
        self.outcomes: list[dict[str, Any]] = []
        self.score = math.inf
        self.waited = 0
        self.best_epoch = 0
        self.losses: list[float] = []
        self._good = copied(network)

    @property
    def done(self) -> bool:
        """Whether held-out samples have got no better for long enough."""
        return bool(self.settings.patience) and self.waited >= self.settings.patience

    def begin(self, epoch: int) -> None:
        """Freeze the backbone while the heads go first, and let it go afterwards."""
        if isinstance(self.network, MultiExit) and self.settings.heads_first:
            first = epoch < self.settings.heads_first
            if first != self.network.frozen:
                _ = self.network.freeze() if first else self.network.unfreeze()
        self.network.train()

    def step(self, batch: TrainBatch, position: int) -> None:
        """One step of the optimiser on the weighted loss of all exits (EENet, section 3.1)."""
        seed_generators(derived_seed(self.settings.seed, "step", position))
        loss = self._loss(self.answers(batch), batch)
        if not math.isfinite(number := loss.item()):
            raise Diverged(f"a loss of {number}")
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip or math.inf)
        if not self.scaler.is_enabled() and not bool(norm.isfinite()):  # the scaler leaves such a step out
            raise Diverged(f"gradients of norm {norm.item()}")
        set_rates(self.optimiser, rate_share(self.settings, position, self.total))
        self._delay_backbone(position)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.losses.append(number)

    def finish(self, epoch: int, check: Callable[[], None]) -> Mapping[str, Any]:
        """See how far the exits have got, and keep the weights where they are the best."""
        tally = self._judge(check)
        tally.check(against_model=False)
        losses, accuracies = tally.loss, tally.accuracy
        if not all(map(math.isfinite, losses)):
            wrong = [name for name, loss in zip(self.names, losses, strict=True) if not math.isfinite(loss)]
            raise Diverged(f"losses that are not finite, of {', '.join(wrong)}")
        weights = exit_weights(self.settings.loss_weights, len(losses))
        held = math.fsum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        score = {"loss": held, "accuracy": -math.fsum(accuracies), "last": -float(epoch)}[self.settings.keep]
        self.waited = 0 if score < self.score else self.waited + 1
        trained = math.fsum(self.losses) / len(self.losses) if self.losses else math.nan
        self.losses = []
        each = [
            {"name": name, "loss": loss, "accuracy": accuracy, "converged": tally.learnt(index)}
            for index, (name, loss, accuracy) in enumerate(zip(self.names, losses, accuracies, strict=True))
        ]
        if score < self.score:
            self.score, self.best_epoch = score, epoch + 1
            self.best, self.outcomes = copied(self.network), each
        exits = {one["name"]: {"loss": one["loss"], "accuracy": one["accuracy"]} for one in each}
        return {"train_loss": trained, "loss": held, "exits": exits}

    def conclude(self) -> list[ExitOutcome]:
        """Put the best weights in place and say what the exits can do."""
        put(self.network, self.best)
        return [ExitOutcome(**one, epoch=self.best_epoch) for one in self.outcomes]

    def keep(self) -> None:
        """Remember the present weights as good, if all are finite."""
        if not all_finite(self.network):
            raise Diverged("weights that are not finite")
        self._good = copied(self.network)

    def go_back(self) -> None:
        """Return to the weights that were last kept."""
        put(self.network, self._good)

    def tensors(self) -> dict[str, Tensor]:
        """Present and best weights, and the optimiser's state."""
        now = {f"now/{name}": value for name, value in live(self.network).items()}
        best = {f"best/{name}": value for name, value in self.best.items()}
        return {**now, **best, **optimiser_tensors(self.optimiser, "optimiser")}

    def numbers(self) -> dict[str, Any]:
        """Where the run stands."""
        return {
            "names": list(self.names),
            "outcomes": self.outcomes,
            "score": self.score if self.best else None,
            "waited": self.waited,
            "best_epoch": self.best_epoch,
            "losses": self.losses,
            "scaler": self.scaler.state_dict(),
        }

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go to where a checkpoint was taken."""
        put(self.network, under(tensors, "now/"))
        self.best = {name: value.to(self.device) for name, value in under(tensors, "best/").items()}
        load_optimiser(self.optimiser, tensors, "optimiser")
        self.names, self.outcomes = tuple(numbers["names"]), list(numbers["outcomes"])
        self.score = math.inf if numbers["score"] is None else numbers["score"]
        self.waited, self.best_epoch = numbers["waited"], numbers["best_epoch"]
        self.losses = list(numbers["losses"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(numbers["scaler"])

    def answers(self, batch: TrainBatch) -> tuple[Tensor, ...]:
        """Float32 logits (n, C) of every exit.

        Raises:
            ModelError: The network gives something else.
            DataError: A label is no class of it.
        """
        inputs = moved(batch.inputs, self.device, self.channels_last)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            output = called(self.network, self.held.names, inputs)
        logits = exits_logits(output, len(batch))
        if batch.labels is not None and int(batch.labels.max()) >= logits[0].shape[1]:
            classes = logits[0].shape[1]
            raise DataError(
                "a label is no class of the network", got=int(batch.labels.max()), expected=f"0 to {classes - 1}"
            )
        if not self.names:
            own = self.network.exit_names if isinstance(self.network, MultiExit) else None
            self.names = own or tuple(f"exit {number}" for number in range(1, len(logits) + 1))
        return logits

    def _loss(self, logits: tuple[Tensor, ...], batch: TrainBatch) -> Tensor:
        assert batch.labels is not None
        weights = exit_weights(self.settings.loss_weights, len(logits))
        loss = weighted_cross_entropy(logits, batch.labels.to(self.device), weights)
        if self.settings.self_distillation:
            loss = loss + self.settings.self_distillation * late_to_early(logits, self.settings.temperature)
        return loss

    def _delay_backbone(self, position: int) -> None:
        """The backbone's warm-up begins when it begins to learn."""
        if self.late and position >= self.late:
            share = rate_share(self.settings, position - self.late, self.total - self.late)
            for group in self.optimiser.param_groups:
                if group.get("backbone"):
                    group["lr"] = group["peak"] * share

    @torch.no_grad()
    def _judge(self, check: Callable[[], None]) -> Tally:
        self.network.eval()
        tally: Tally | None = None
        for batch in self.held.in_order():
            check()
            logits = self.answers(batch)
            assert batch.labels is not None
            labels = batch.labels.to(self.device)
            tally = tally or Tally(len(logits))
            tally.add(logits, [functional.cross_entropy(values, labels) for values in logits], labels)
        return tally or Tally(len(self.names))


def _groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Heads at the full rate, the backbone at its share; a network that has none apart at the full rate."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not isinstance(network, MultiExit):
        return parameter_groups(learning, settings.rate, settings.weight_decay)
    of_heads = {id(parameter) for parameter in network.heads.parameters()}
    heads = [parameter for parameter in learning if id(parameter) in of_heads]
    backbone = [parameter for parameter in learning if id(parameter) not in of_heads]
    slower = parameter_groups(backbone, settings.rate * settings.backbone_rate, settings.weight_decay)
    return [
        *parameter_groups(heads, settings.rate, settings.weight_decay),
        *({**group, "backbone": True} for group in slower),
    ]
