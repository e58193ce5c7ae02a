"""Exits attached to a torch model (`edgeexit.training.MultiExit`): the backbone and what the heads read of it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from edgeexit.errors import ModelError, UsageError
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.cuts import Cut, cut_after, evenly_spread
from edgeexit_exporters.normalise import keep_outputs

if TYPE_CHECKING:
    import torch

    from edgeexit.training.attach import MultiExit
    from edgeexit.training.heads import Head as TorchHead

__all__ = ["Attached", "attached_cuts", "attached_exits", "close_network", "open_network", "output_names"]

_LOGITS = "logits"


@dataclass(frozen=True)
class Attached:
    """An exit that a source brings as a head of its own.

    Attributes:
        name: Of the module whose output the head reads.
        tensor: That output in the graph.
        head: The torch head.
    """

    name: str
    tensor: str
    head: TorchHead


def attached_exits(module: torch.nn.Module) -> tuple[Attached, ...]:
    """The exits attached to a module; none if it is not a `MultiExit`."""
    attach = sys.modules.get("edgeexit.training.attach")  # whoever made a MultiExit has imported it
    if attach is None or not isinstance(module, attach.MultiExit):
        return ()
    return tuple(Attached(name, f"at.{name}", head) for name, head in zip(module.at, module.heads, strict=True))


def open_network(network: MultiExit) -> torch.nn.Module:
    """The backbone as a module that gives the activations at the exits, and the logits last."""
    from torch import nn

    class Opened(nn.Module):
        """What is exported in the network's place."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *inputs: Any, **named: Any) -> tuple[Any, ...]:
            """Activations, cheapest exit first, then logits."""
            found = self.network.activations(*inputs, **named)
            return (*found.values, found.logits)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.signature(network.forward)
    Opened.forward.__signature__ = signature.replace(  # type: ignore[attr-defined]  # torch.export reads it
        parameters=[own, *signature.parameters.values()]
    )
    return Opened().eval()


def output_names(exits: Sequence[Attached]) -> list[str] | None:
    """Names for the outputs of an opened network; None without exits: the exporter's own."""
    return [*(entry.tensor for entry in exits), _LOGITS] if exits else None


def close_network(source: str, model: onnx.ModelProto, exits: Sequence[Attached]) -> None:
    """Keep the logits as the only output of a normalised model; the exits' tensors stay inside.

    Raises:
        ModelError: The logits do not depend on one of them.
    """
    keep_outputs(model, [_LOGITS])
    made = {name for node in model.graph.node for name in node.output}
    for entry in exits:
        if entry.tensor not in made:
            raise ModelError(
                f"the exit at {entry.name} of {source} cannot be cut out of the graph",
                got="an output of the module that the model's answer does not depend on",
                remedy="attach the exit to another module",
            )


def attached_cuts(analysis: Analysis, exits: Sequence[Attached], wanted: str) -> tuple[Cut, ...]:
    """The cuts at attached exits: all of them for "auto", else a number of them or names.

    Raises:
        UsageError: There is no such exit, or the graph cannot be cut there.
    """
    tensors = {entry.name: entry.tensor for entry in exits} | {entry.tensor: entry.tensor for entry in exits}
    chosen = [entry.tensor for entry in exits]
    if wanted != "auto" and not wanted.isdigit():
        names = list(dict.fromkeys(name.strip() for name in wanted.split(",") if name.strip()))
        unknown = next((name for name in names if name not in tensors), None)
        if unknown is not None or not names:
            raise UsageError(
                "the model has no such exit attached", got=unknown or wanted, expected=", ".join(e.name for e in exits)
            )
        chosen = [tensors[name] for name in names]
    found = [cut_after(analysis.graph, analysis.infos, analysis.macs, tensor) for tensor in chosen]
    found.sort(key=lambda cut: cut.macs_before)
    if wanted.isdigit():
        return tuple(evenly_spread(found, int(wanted), sum(analysis.macs)))
    return tuple(found)
