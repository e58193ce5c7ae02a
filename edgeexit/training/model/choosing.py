"""Choosing: what was asked for as places and heads, as names of modules and specifications."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

from torch import nn

from edgeexit.errors import UsageError
from edgeexit.training.heads import HeadSpec
from edgeexit.training.model.calls import Call, Example, evaluating, logits_of, refuse_own_exits
from edgeexit.training.model.layout import has_channels_first
from edgeexit.training.places import Cost, Place, chosen_places

__all__ = ["At", "HeadChoice", "choose_names", "choose_specs", "count_classes"]

At = Sequence[str] | Sequence[float] | Literal["auto", "selfxit"]
HeadChoice = HeadSpec | str | Sequence[HeadSpec | str]


def count_classes(model: nn.Module, call: Call) -> int:
    """The number of classes of a model that gives one answer.

    Raises:
        UsageError: The model has exits of its own.
        ModelError: It fails on the example, or gives no logits.
    """
    with evaluating(model):
        output = call.run(model)
    refuse_own_exits(output)
    return logits_of(output).shape[1]


def choose_names(at: At, model: nn.Module, example: Example, head: HeadChoice, classes: int, cost: Cost) -> list[str]:
    """Names of modules for exits.

    Args:
        at: As for `MultiExit.attach`.
        model: A torch module.
        example: At least 2 rows of its inputs.
        head: What the heads are to be; places that they cannot read are no candidates.
        classes: Number of classes.
        cost: What shares are of.

    Raises:
        UsageError: This asks for nothing, for one module twice, or for what no head can read.
        ModelError: The model has no place for an exit.
    """
    if cost not in ("macs", "ms"):
        raise UsageError("this cost is unknown", got=cost, expected="macs or ms")
    readable = partial(_can_read, model, _each(head), classes)
    if isinstance(at, str):
        if at not in ("auto", "selfxit"):
            raise UsageError("exits need places", got=at, expected='a list of module names, "auto" or "selfxit"')
        if at == "selfxit":
            _refuse_time(cost, at)
        return chosen_places(model, example, cast(Literal["auto", "selfxit"], at), cost=cost, readable=readable)
    given = list(at)
    if not given:
        raise UsageError("exits need places", got="an empty list", expected="names of modules")
    if all(isinstance(share, float) for share in given):
        shares = tuple(cast("list[float]", given))
        return chosen_places(model, example, shares, cost=cost, readable=readable)
    _refuse_time(cost, "names")
    strange = [name for name in given if not isinstance(name, str)]
    if strange:
        raise UsageError("exits need places", got=strange[0], expected="names of modules, or shares of the cost alone")
    names = cast("list[str]", given)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("a module carries one exit", got=f"{twice[0]} twice", expected="each name once")
    return names


def choose_specs(head: HeadChoice, number: int) -> list[HeadSpec]:
    """One specification for each of so many exits.

    Raises:
        UsageError: There are more or fewer, or one cannot be read.
    """
    each = _each(head)
    if isinstance(head, str | HeadSpec):
        each = each * number
    if len(each) != number:
        raise UsageError(
            "the heads do not match the exits", got=f"{len(each)} heads for {number} exits", expected="one for each"
        )
    return each


def _can_read(model: nn.Module, specs: Sequence[HeadSpec], classes: int, place: Place) -> bool:
    """Whether heads of all these kinds can read a place."""
    first = has_channels_first(model, place.name, place.shape)
    try:
        for spec in specs:
            spec.sized(place.shape, classes, channels_first=first)
    except UsageError:
        return False
    return True


def _refuse_time(cost: Cost, got: str) -> None:
    if cost != "macs":
        raise UsageError(
            "a cost places exits at shares of it alone", got=f"at={got}, cost={cost}", expected='at="auto", or shares'
        )


def _each(head: HeadChoice) -> list[HeadSpec]:
    """All heads that are asked for."""
    given = [head] if isinstance(head, str | HeadSpec) else list(head)
    return [HeadSpec.parse(one) if isinstance(one, str) else one for one in given]
