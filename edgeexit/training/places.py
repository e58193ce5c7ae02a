"""Where exits may stand in a torch model, and which of these places to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from edgeexit.errors import ModelError, UsageError
from edgeexit.training.model.calls import Call, Example, checked_model
from edgeexit.training.model.dataflow import Position
from edgeexit.training.model.timing import milliseconds
from edgeexit.training.model.tracing import trace

__all__ = [
    "SDN_SHARES",
    "Cost",
    "Place",
    "Survey",
    "candidate_places",
    "chosen_places",
    "placed",
    "selfxit_filter",
    "survey",
]

SDN_SHARES = (0.15, 0.30, 0.45, 0.60, 0.75, 0.90)
"""Shares of the cost at which Shallow-Deep Networks and E2CM (section IV-A) put their exits."""

Cost = Literal["macs", "ms"]

_PART = 0.1
_LEAST_LEFT = 0.02
_LAST_LAYERS = 2
_AT_REST = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.Identity)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Place:
    """A module whose output an exit can read.

    Attributes:
        name: Of the outermost module that gives this tensor.
        macs_before: MACs of one sample spent until it is there.
        ms_before: Milliseconds of one sample until then, the median of some runs on this machine; None where nobody
            measured.
        shape: Of one sample's activation.
        crossing: Tensors alive there, the model's inputs and what follows from masks alone not counted.
        layers_after: Convolutions and matrix products still to come.
        modules: All modules that give this tensor, `name` first.
    """

    name: str
    macs_before: int
    ms_before: float | None
    shape: tuple[int, ...]
    crossing: int
    layers_after: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """The places of a model, in the order in which it reaches them, and what the whole model costs a sample."""

    places: tuple[Place, ...]
    macs: int
    ms: float | None


def survey(model: nn.Module, example: Example, *, timed: bool = False) -> Survey:
    """Find and measure the places of a model.

    Places are outputs that are, or start with, one floating tensor with the batch as axis 0, where the same
    holds for every tensor alive there, and where some of the work, not all, has been done.

    Args:
        model: Any module that gives logits; it is run in eval mode.
        example: At least 2 rows of its inputs.
        timed: Whether to take the time as well, for which the model runs a few times more.

    Raises:
        UsageError: The model is no torch module, or the example none of inputs.
        ModelError: torch.export cannot trace the model, or it has no such place.
    """
    call = Call.of(example).beside(checked_model(model)).first(2)
    flow = trace(model, call)
    inside = [position for position in flow.positions if 0 < position.macs_before < flow.macs]
    usable = [position for position in inside if position.separable]
    if not usable:
        raise _no_place(flow.macs, inside)
    names = [position.modules[0] for position in usable]
    untimed: list[float | None] = [None] * (len(names) + 1)
    *before, whole = milliseconds(model, call.first(1), names) if timed else untimed
    places = [
        Place(
            position.modules[0],
            position.macs_before,
            ms,
            position.shape,
            position.crossing,
            position.layers_after,
            position.modules,
        )
        for position, ms in zip(usable, before, strict=True)
    ]
    return Survey(tuple(places), flow.macs, whole)


def candidate_places(model: nn.Module, example: Example, *, timed: bool = False) -> list[Place]:
    """The places of `survey`."""
    return list(survey(model, example, timed=timed).places)


def chosen_places(
    model: nn.Module,
    example: Example,
    how: Literal["auto", "selfxit"] | Sequence[float],
    *,
    cost: Cost = "macs",
    readable: Callable[[Place], bool] = lambda place: True,
) -> list[str]:
    """Names of places: "auto" for SDN's shares, "selfxit" for SelfXit's filter, or at shares of the cost.

    Args:
        model: As for `survey`.
        example: As for `survey`.
        how: Which.
        cost: What shares are of: "macs", or "ms" for the time on this machine.
        readable: Whether a head can read a place; others are no candidates.

    Raises:
        UsageError: A share is not between 0 and 1, or heads can read no place.
        ModelError: There is no such place.
    """
    found = survey(model, example, timed=cost == "ms")
    places = [place for place in found.places if readable(place)]
    if not places:
        shapes = ", ".join(dict.fromkeys(str(place.shape) for place in found.places))
        raise UsageError(
            "the heads asked for can read no place of the model",
            got=f"activations of shapes {shapes[:200]}",
            remedy='head="auto"',
        )
    if how == "selfxit":
        return [place.name for place in selfxit_filter(places, model)]
    total = found.macs if cost == "macs" else found.ms
    assert total is not None
    return [place.name for place in placed(places, total, SDN_SHARES if isinstance(how, str) else tuple(how), cost)]


def placed(
    places: Sequence[Place], total: float, shares: Sequence[float] = SDN_SHARES, cost: Cost = "macs"
) -> list[Place]:
    """The places nearest to shares of the whole cost, each once, cheapest first.

    Of places with the same MACs before them the one where fewest tensors cross, then the last, is taken.
    A place where several tensors cross shows a part of the model's state: it counts as a tenth of the model
    further away than it is. Places with less than a fiftieth of the cost behind them are left out if there
    are others. There are fewer places than shares where one is the nearest to several.

    Args:
        places: Candidates.
        total: The whole model's cost, in the unit of `cost`.
        shares: Between 0 and 1.
        cost: "macs" or "ms".

    Raises:
        UsageError: A share is not between 0 and 1, or times are asked for and were not taken.
    """
    for share in shares:
        if not 0 < share < 1:
            raise UsageError("an exit stands inside the model", got=f"share {share}", expected="0 < share < 1")

    def cost_of(place: Place) -> float:
        if cost == "macs":
            return place.macs_before
        if place.ms_before is None:
            raise UsageError("the times of the places were not taken", got=place.name, remedy="survey(…, timed=True)")
        return place.ms_before

    worth = _best_of_equal(places)
    worth = [place for place in worth if cost_of(place) <= (1 - _LEAST_LEFT) * total] or worth

    def distance(share: float, place: Place) -> float:
        return abs(cost_of(place) / total - share) + (_PART if place.crossing > 1 else 0.0)

    nearest = [min(worth, key=partial(distance, share)) for share in shares if worth]
    return sorted(dict.fromkeys(nearest), key=lambda place: place.macs_before)


def selfxit_filter(places: Sequence[Place], model: nn.Module) -> list[Place]:
    """The candidate layers of SelfXit, section 3.1.

    1. No layers that are at rest when a model answers, such as dropout and batch normalisation.
    2. None with two layers or fewer behind it: stopping there saves little.
    3. Only outputs of components. These are the model's first-level modules, containers opened; where none
       of them is a candidate (a model wrapped in another), those one level further down.
    4. Only layers on which alone the output depends: one tensor crosses.

    Of layers with the same MACs before them the last is taken.

    Raises:
        ModelError: No layer is left.
    """
    modules = dict(model.named_modules())
    single = [
        place
        for place in places
        if place.crossing == 1
        and place.layers_after > _LAST_LAYERS
        and not all(isinstance(modules[name], _AT_REST) for name in place.modules)
    ]
    level = list(_opened("", model))
    while level:
        names = set(level)
        found = [place for place in single if names & set(place.modules)]
        if found:
            return _best_of_equal(found)
        level = [inner for name in level for inner in _opened(name, modules[name])]
    raise ModelError(
        "SelfXit's filter leaves no layer for an exit",
        got=f"{len(places)} places, {len(single)} of them with one tensor crossing and more than two layers behind",
        remedy='at="auto", or names of modules',
    )


def _opened(prefix: str, module: nn.Module) -> Iterator[str]:
    """Names of a module's children; containers give theirs instead."""
    for name, child in module.named_children():
        full = f"{prefix}.{name}" if prefix else name
        if isinstance(child, _CONTAINERS):
            yield from _opened(full, child)
        else:
            yield full


def _best_of_equal(places: Sequence[Place]) -> list[Place]:
    """One place for each amount of work done: where fewest tensors cross, then the last."""
    best: dict[int, Place] = {}
    for place in places:
        rival = best.get(place.macs_before)
        if rival is None or place.crossing <= rival.crossing:
            best[place.macs_before] = place
    return sorted(best.values(), key=lambda place: place.macs_before)


def _no_place(macs: int, inside: Sequence[Position]) -> ModelError:
    if macs == 0:
        reason = "the model does no multiply-accumulate that could be saved"
    elif not inside:
        reason = "no module gives a floating tensor after some of the work and before the rest"
    else:
        reason = f"beside the output of {inside[0].modules[0]} a tensor is alive that has no batch axis"
    return ModelError(
        "the model has no place for an exit",
        got=reason,
        expected="a module inside whose output, and all that is alive beside it, has the batch as axis 0",
        remedy="split the model into modules that give batch-first tensors",
    )
