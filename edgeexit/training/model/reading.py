"""How exits read a backbone: which modules' outputs, which of them at once, and which input is a mask."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from edgeexit.training.heads import Head
from edgeexit.training.model.calls import Call
from edgeexit.training.model.layout import mask_among
from edgeexit.training.model.recording import Observed

__all__ = ["Reading", "arguments_by_name"]


@dataclass(frozen=True)
class Reading:
    """What `MultiExit` knows of its places.

    Attributes:
        at: Names of the modules, cheapest first.
        shapes: Of one sample's activation at each.
        overwritten: Places whose activation must be copied at once, as a later operation writes into it.
        mask: Name of the input that is a mask, if one is.
        masked: For each place, whether its head is given the mask.
    """

    at: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    overwritten: frozenset[str]
    mask: str | None
    masked: tuple[bool, ...]

    @classmethod
    def of(cls, model: nn.Module, call: Call, observed: Sequence[Observed], heads: Sequence[Head]) -> Reading:
        """For heads on places in this order."""
        means = [head.spec.kind == "token" and head.spec.tokens == "mean" for head in heads]
        lengths = [place.shape[0] for place, mean in zip(observed, means, strict=True) if mean]
        arguments = arguments_by_name(inspect.signature(model.forward), call.args, call.kwargs)
        mask = mask_among(arguments, call.rows, lengths)
        length = arguments[mask].shape[1] if mask else 0
        return cls(
            at=tuple(place.name for place in observed),
            shapes=tuple(place.shape for place in observed),
            overwritten=frozenset(place.name for place in observed if place.overwritten),
            mask=mask,
            masked=tuple(mean and place.shape[0] == length for place, mean in zip(observed, means, strict=True)),
        )

    def kept(self, indices: Sequence[int]) -> Reading:
        """For some of the places alone."""
        return Reading(
            at=tuple(self.at[i] for i in indices),
            shapes=tuple(self.shapes[i] for i in indices),
            overwritten=self.overwritten,
            mask=self.mask,
            masked=tuple(self.masked[i] for i in indices),
        )


def arguments_by_name(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, those that `**kwargs` collects included."""
    bound = signature.bind(*args, **kwargs).arguments
    extra = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD and p.name in bound]
    return {**bound, **{name: value for each in extra for name, value in bound[each].items()}}
