"""Exits attached to any torch model: the model itself stays as it is, and is looked into while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError, UsageError
from edgeexit.training.heads import Head, build_head, head_macs
from edgeexit.training.model.calls import Call, Example, checked_model, first_tensor, logits_of
from edgeexit.training.model.choosing import At, HeadChoice, choose_names, choose_specs, count_classes
from edgeexit.training.model.layout import has_channels_first
from edgeexit.training.model.reading import Reading, arguments_by_name
from edgeexit.training.model.recording import macs_spent, observe, watched
from edgeexit.training.places import Cost

__all__ = ["WHOLE_MODEL", "Activations", "MultiExit"]

WHOLE_MODEL = "whole model"
"""Name of the last exit, the backbone's own answer."""


class Activations(NamedTuple):
    """What one pass of the backbone gives.

    Attributes:
        values: One activation (n, …) for each exit but the last.
        logits: (n, C) float32, the backbone's.
        mask: (n, T), not 0 where a token counts; None where no input is one.
    """

    values: list[Tensor]
    logits: Tensor
    mask: Tensor | None


class MultiExit(nn.Module):
    """A backbone with exits inside; made by `MultiExit.attach`.

    Attributes:
        backbone: The user's model, unchanged. It gets hooks for the length of a call only.
        heads: One for each place.
        at: Names of the modules whose outputs the heads read, cheapest first.
        shapes: Of one sample's activation at each of them.
        classes: Number of classes C.
        frozen: Whether the backbone is; see `freeze`.
    """

    def __init__(self, backbone: nn.Module, heads: Iterable[Head], reading: Reading, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.classes = classes
        self.frozen = False
        self._reading = reading
        self._signature = inspect.signature(backbone.forward)
        self._learning: list[nn.Parameter] = []

    @classmethod
    def attach(
        cls,
        model: nn.Module,
        at: At = "auto",
        head: HeadChoice = "auto",
        *,
        example: Example,
        seed: int | None = 0,
        cost: Cost = "macs",
    ) -> MultiExit:
        """Attach exits to a model.

        Args:
            model: Any module that gives logits (n, C), alone, first in a tuple, or as `.logits`.
            at: Names of modules, as in `model.named_modules()`; or shares of the whole model's cost, such as
                0.15, which take the nearest places that the heads can read; "auto": SDN's six shares, 15 to 90 %;
                "selfxit": SelfXit's filter of candidate layers (section 3.1).
            head: What all heads are to be, or one for each name.
            example: At least 2 rows of the model's inputs: a tensor, a tuple, or a dict by name.
            seed: The heads' weights follow from it; None: from torch's random state.
            cost: What shares are of: "macs", or "ms" for the time that one sample takes on this machine.

        Raises:
            UsageError: A name is not there, or its module cannot carry an exit; a head cannot read it; the model is
                no torch module, or has exits of its own; or the example is none of inputs.
            ModelError: The model fails on the example, gives no logits, or has no place for an exit.
        """
        call = Call.of(example).beside(checked_model(model)).first(2)
        classes = count_classes(model, call)
        names = choose_names(at, model, example, head, classes, cost)
        specs = choose_specs(head, len(names))
        observed, spent = observe(model, call, names), macs_spent(model, call, names)
        order = sorted(range(len(names)), key=lambda i: (spent.before[i], observed[i].turn))
        observed = [observed[i] for i in order]
        heads = []
        for i, place in zip(order, observed, strict=True):
            first = has_channels_first(model, place.name, place.shape)
            own_seed = None if seed is None else seed + i
            heads.append(build_head(specs[i], place.shape, classes, channels_first=first, seed=own_seed))
        network = _with_signature(cls, model)(model, heads, Reading.of(model, call, observed, heads), classes)
        weight = next(model.parameters(), None)
        if weight is not None:
            network.heads.to(weight.device)
        return network.train(model.training)

    @property
    def at(self) -> tuple[str, ...]:
        """Names of the modules whose outputs the heads read, cheapest first."""
        return self._reading.at

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of one sample's activation at each of them."""
        return self._reading.shapes

    @property
    def exit_names(self) -> tuple[str, ...]:
        """The places, then "whole model"."""
        return (*self.at, WHOLE_MODEL)

    def activations(self, *inputs: Any, **named: Any) -> Activations:
        """One pass of the backbone; arguments are those of its `forward`. Threads may call it at once."""
        seen: dict[str, Tensor] = {}

        def keep(name: str, output: object) -> None:
            tensor = cast(Tensor, first_tensor(output))
            copied = name in self._reading.overwritten or self.backbone.training  # as in-place dropout overwrites too
            seen[name] = tensor.clone() if copied else tensor

        with watched(self.backbone, self.at, keep):
            output = self.backbone(*inputs, **named)
        missing = [name for name in self.at if name not in seen]
        if missing:
            raise ModelError(
                f"the module {missing[0]} did not run",
                expected="a model that takes the same way for every input",
                remedy="leave the exit out: network.without([name])",
            )
        logits = logits_of(output)
        logits = logits if logits.dtype == torch.float32 else logits.float()
        return Activations([seen[name] for name in self.at], logits, self._mask(inputs, named))

    def _answers(self, *inputs: Any, **named: Any) -> tuple[Tensor, ...]:
        """Logits (n, C) float32 of every exit, cheapest first, the backbone's last."""
        values, logits, mask = self.activations(*inputs, **named)
        answers = (
            head(value, mask if masked else None)
            for head, value, masked in zip(self.heads, values, self._reading.masked, strict=True)
        )
        return (*answers, logits)

    def forward(self, *inputs: Any, **named: Any) -> tuple[Tensor, ...]:
        """Logits (n, C) float32 of every exit, cheapest first, the backbone's last.

        Arguments are those of the backbone's `forward`, and so is the signature.
        """
        return self._answers(*inputs, **named)

    def freeze(self) -> MultiExit:
        """Let nothing of the backbone change.

        Its weights get no gradients, and it stays in eval mode even under `train()`: batch normalisation does
        not drift, and dropout is off.
        """
        if not self.frozen:
            self._learning = [weight for weight in self.backbone.parameters() if weight.requires_grad]
            self.backbone.requires_grad_(False)
            self.frozen = True
        return self.train(self.training)

    def unfreeze(self) -> MultiExit:
        """Let the backbone's weights that learned before `freeze` learn again."""
        for weight in self._learning:
            weight.requires_grad_(True)
        self._learning, self.frozen = [], False
        return self.train(self.training)

    def train(self, mode: bool = True) -> MultiExit:
        """Set training mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def costs(self, example: Example) -> tuple[int, ...]:
        """MACs of one sample until each exit answers: the backbone up to it and all heads up to it.

        Args:
            example: At least 2 rows of the model's inputs.
        """
        spent = macs_spent(self.backbone, Call.of(example).beside(self.backbone).first(2), self.at)
        own = [head_macs(cast(Head, head), shape) for head, shape in zip(self.heads, self.shapes, strict=True)]
        backbone = (*spent.before, spent.total)
        return tuple(cost + sum(own[: i + 1]) for i, cost in enumerate(backbone))

    def without(self, names: Iterable[str]) -> MultiExit:
        """The same backbone and heads with some exits left out.

        Raises:
            UsageError: There is no such exit, or it is the whole model.
        """
        left_out = set(names)
        unknown = left_out - set(self.at)
        if unknown:
            raise UsageError(
                "there is no such exit to leave out", got=", ".join(sorted(unknown)), expected=", ".join(self.at)
            )
        kept = [i for i, name in enumerate(self.at) if name not in left_out]
        heads = [cast(Head, self.heads[i]) for i in kept]
        network = type(self)(self.backbone, heads, self._reading.kept(kept), self.classes)
        network.frozen, network._learning = self.frozen, list(self._learning)
        network.training = self.training
        return network

    def __reduce__(self) -> tuple[Any, ...]:
        """What a pickle or a copy is made from: the class of its own, with the signature, is made anew."""
        state = {name: value for name, value in self.__dict__.items() if name != "_signature"}
        return _blank, (getattr(type(self), "_plain", type(self)), self.backbone), state

    def _mask(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
        if self._reading.mask is None:
            return None
        value = arguments_by_name(self._signature, inputs, named).get(self._reading.mask)
        return value if isinstance(value, Tensor) else None


def _with_signature(cls: type[MultiExit], backbone: nn.Module) -> type[MultiExit]:
    """A subclass whose `forward` has the backbone's parameters, for `inspect.signature` and torch.export."""

    def forward(self: MultiExit, *inputs: Any, **named: Any) -> tuple[Tensor, ...]:
        return self._answers(*inputs, **named)

    signature = inspect.signature(backbone.forward)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [own, *signature.parameters.values()]
    forward.__doc__ = MultiExit.forward.__doc__
    forward.__signature__ = signature.replace(parameters=parameters, return_annotation=tuple)  # type: ignore[attr-defined]  # read by inspect
    own_words = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {"forward": forward, "_plain": cls, **own_words})


def _blank(cls: type[MultiExit], backbone: nn.Module) -> MultiExit:
    """A network of that class that still lacks all but the signature."""
    kind = _with_signature(cls, backbone)
    network = kind.__new__(kind)
    network.__dict__["_signature"] = inspect.signature(backbone.forward)
    return network
