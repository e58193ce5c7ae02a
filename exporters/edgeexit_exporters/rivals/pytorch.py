"""A bundle's multi-exit model in PyTorch, eager and under `torch.compile`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgeexit.bundle import Bundle
from edgeexit.errors import ModelError
from edgeexit_exporters.rivals.translation import translate

__all__ = ["Stage", "TorchRival", "compiled", "eager", "stages"]

CHECKED_SAMPLES = 4
TOLERANCE = 1e-2
"""Of the largest logit: more than rounding explains, half precision included."""


@dataclass(frozen=True)
class Stage:
    """A segment in torch.

    Attributes:
        run: From the inputs' tensors to those of `outputs`, the highest probability (n,) and the label (n,).
        inputs: What it takes, by name.
        outputs: What it hands on, by name.
        needed: The tensors that later stages take, of those known after it.
    """

    run: Callable[..., Sequence[Tensor]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    needed: frozenset[str]


class TorchRival:
    """The model as one writes it in PyTorch: run a stage, look how sure it is, leave or go on.

    Each exit's logits become probabilities whose largest is read, as such code does; but a sample leaves where
    it is told to, so that any policy's decisions can be replayed. In a batch the samples that stay are picked by
    a mask.

    Args:
        name: See `edgeexit.rivals`.
        stages: The segments, in order.
        largest_batch: The most samples it takes; any number if None.
    """

    largest_batch: int | None = None

    def __init__(self, name: str, stages: Sequence[Stage]) -> None:
        self.name = name
        self._stages = tuple(stages)

    def __call__(self, batch: Mapping[str, NDArray[Any]], exits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Answer n samples, each leaving at its exit of `exits` (n,). Gives the labels (n,)."""
        arrays = {name: array if array.flags.writeable else array.copy() for name, array in batch.items()}
        known = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with torch.inference_mode():
            if len(exits) == 1:
                return self._one(known, int(exits[0]))
            return self._several(known, torch.from_numpy(exits)).numpy()

    def _one(self, known: dict[str, Tensor], exit_index: int) -> NDArray[np.int64]:
        for k, stage in enumerate(self._stages):
            *outputs, probability, label = stage.run(*[known[name] for name in stage.inputs])
            probability.item()
            if k >= exit_index:
                break
            known.update(zip(stage.outputs, outputs, strict=True))
        return np.array([label.item()])

    def _several(self, known: dict[str, Tensor], exits: Tensor) -> Tensor:
        labels = torch.empty_like(exits)
        rows = torch.arange(len(exits))
        for k, stage in enumerate(self._stages):
            *outputs, _, label = stage.run(*[known[name] for name in stage.inputs])
            leaves = exits <= k
            labels[rows[leaves]] = label[leaves]
            stays = ~leaves
            if not stays.any():
                break
            known.update(zip(stage.outputs, outputs, strict=True))
            known = {name: tensor[stays] for name, tensor in known.items() if name in stage.needed}
            rows, exits = rows[stays], exits[stays]
        return labels


def eager(bundle: Bundle, threads: int) -> TorchRival:
    """The bundle in PyTorch as it is.

    Args:
        bundle: The bundle.
        threads: Of torch, for the whole process.

    Raises:
        ModelError: An operator has no equivalent in torch, or the values differ.
    """
    torch.set_num_threads(threads)
    return TorchRival("eager", stages(bundle))


def compiled(bundle: Bundle, threads: int) -> TorchRival:
    """The bundle in PyTorch, every segment compiled by `torch.compile` with its own settings; slow to make.

    One compiled segment serves single samples, and one any number of samples above that.

    Raises:
        ModelError: As `eager`; also when torch cannot compile, without a C++ compiler for example.
    """
    torch.set_num_threads(threads)
    rival = TorchRival("compiled", [_compiled(stage) for stage in stages(bundle)])
    last = len(bundle.manifest.segments) - 1
    try:
        for n in (1, 2, 3):
            golden = {name: np.ascontiguousarray(array[:n]) for name, array in _golden(bundle, n).items()}
            rival(golden, np.full(n, last, np.int64))
    except Exception as error:  # whatever torch, inductor and the compiler raise
        raise ModelError("torch.compile failed", got=_first_line(error)) from error
    return rival


def stages(bundle: Bundle) -> list[Stage]:
    """The segments in torch, their logits held against the bundle's golden ones.

    Raises:
        ModelError: An operator has no equivalent in torch, or the values differ.
    """
    known = {name: torch.from_numpy(array.copy()) for name, array in _golden(bundle, CHECKED_SAMPLES).items()}
    entries = bundle.manifest.segments
    made = []
    for k, entry in enumerate(entries):
        inputs, outputs = (tuple(spec.name for spec in specs) for specs in (entry.inputs, entry.outputs))
        constants = {spec.name: torch.from_numpy(bundle.exits[spec.name].copy()) for spec in entry.policy_inputs}
        module = translate(
            onnx.load_model_from_string(bundle.segment(k)),
            {name: known[name] for name in inputs},
            [*outputs, entry.logits],
            constants,
        )
        with torch.inference_mode():
            *values, logits = module(*[known[name] for name in inputs])
        _check(logits.numpy(), bundle.check[f"logits.{k}"], entry.file.path)
        known |= zip(outputs, (value.clone() for value in values), strict=True)
        needed = frozenset(spec.name for later in entries[k + 1 :] for spec in later.inputs)
        made.append(Stage(_judged(module), inputs, outputs, needed))
    return made


def _golden(bundle: Bundle, samples: int) -> dict[str, NDArray[Any]]:
    """The first golden samples, repeated where there are fewer."""
    names = [spec.name for spec in bundle.manifest.inputs]
    arrays = {name: bundle.check[f"input.{name}"] for name in names}
    rows = np.arange(samples) % len(next(iter(arrays.values())))
    return {name: array[rows] for name, array in arrays.items()}


def _check(found: NDArray[Any], golden: NDArray[Any], name: str) -> None:
    expected = golden[np.arange(len(found)) % len(golden)]
    difference = float(np.abs(found - expected).max())
    scale = max(1.0, float(np.abs(expected).max()))
    if not difference <= TOLERANCE * scale:
        raise ModelError(
            f"{name} has other logits in torch", got=f"{difference:.2g} apart", expected="the bundle's golden logits"
        )


def _judged(module: fx.GraphModule) -> fx.GraphModule:
    """The module with the highest probability and the label in place of the logits."""
    graph = module.graph
    end = graph.output_node()
    *kept, logits = cast("tuple[fx.Node, ...]", end.args[0])
    with graph.inserting_before(end):
        probabilities = graph.call_function(torch.softmax, (logits, 1))
        best = graph.call_function(torch.max, (probabilities, 1))
        parts = [graph.call_function(operator.getitem, (best, i)) for i in range(2)]
    end.args = ((*kept, *parts),)
    module.recompile()
    return module


def _compiled(stage: Stage) -> Stage:
    run = torch.compile(stage.run)

    def marked(*inputs: Tensor) -> Sequence[Tensor]:
        for tensor in inputs:
            if tensor.shape[0] > 1:
                torch._dynamo.mark_dynamic(tensor, 0)
        outputs: Sequence[Tensor] = run(*inputs)
        return outputs

    return Stage(marked, stage.inputs, stage.outputs, stage.needed)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
