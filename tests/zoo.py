"""The zoo: small real graphs that nobody tuned for, with an example batch of four for each.

`ZOO` lists them by name; `specimen(name)` builds one. Weights are random with fixed seeds. Those
that need torch are written by both of its exporters, "/dynamo" and "/script"; tests skip them with
`needs(name)` where a package is missing.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

import zoo_onnx as drawn
from zoo_onnx import EXAMPLES, Specimen

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CUTTABLE", "ZOO", "Entry", "Specimen", "export", "needs", "resnet18", "specimen"]

Exporter = Literal["dynamo", "script"]


@dataclass(frozen=True)
class Entry:
    """One animal.

    Attributes:
        build: Makes the model and its example inputs.
        needs: Packages to import beside onnx.
        cuttable: Whether there is a place where samples can leave.
        any_batch: Whether it runs with a batch other than 1.
        independent: Whether a sample's answer depends on the sample alone.
        exits: How many outputs with logits it has.
    """

    build: Callable[[], Specimen]
    needs: tuple[str, ...] = ()
    cuttable: bool = True
    any_batch: bool = True
    independent: bool = True
    exits: int = 1


def export(
    module: nn.Module, inputs: dict[str, NDArray[Any]], exporter: Exporter = "dynamo", opset: int = 18
) -> onnx.ModelProto:
    """Write a torch module as ONNX with a free batch axis; `inputs` in the order of `forward`."""
    import torch

    arguments = tuple(torch.from_numpy(array) for array in inputs.values())
    buffer = io.BytesIO()
    with _silence(), torch.no_grad():
        if exporter == "dynamo":
            batch = torch.export.Dim("batch", min=1, max=1024)
            program = torch.onnx.export(
                module, arguments, dynamo=True, external_data=False, opset_version=opset, input_names=list(inputs),
                dynamic_shapes=tuple({0: batch} for _ in inputs), verbose=False,
            )  # fmt: skip
            return program.model_proto
        torch.onnx.export(
            module, arguments, buffer, dynamo=False, opset_version=opset, input_names=list(inputs),
            dynamic_axes={name: {0: "batch"} for name in inputs},
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def needs(name: str) -> tuple[str, ...]:
    """The packages that an entry needs beside onnx."""
    return ZOO[name].needs


def specimen(name: str) -> Specimen:
    """Build an entry; the model is a fresh copy that may be changed."""
    built = _build(name)
    model = onnx.ModelProto()
    model.CopyFrom(built.model)
    return Specimen(model, {key: array.copy() for key, array in built.inputs.items()}, built.classes)


def resnet18(size: int = 224) -> Specimen:
    """ResNet-18 with random weights at `size` x `size`. Needs torch and onnxscript."""
    import zoo_torch

    image = np.random.default_rng(0).normal(size=(EXAMPLES, 3, size, size)).astype(np.float32)
    return Specimen(export(zoo_torch.resnet18(), {"image": image}), {"image": image}, 1000)


@cache
def _build(name: str) -> Specimen:
    return ZOO[name].build()


def _exported(factory: str, exporter: Exporter) -> Specimen:
    import zoo_torch

    module: nn.Module = getattr(zoo_torch, factory)()
    random = np.random.default_rng(0)
    if len(module.example_shapes) == 1:
        inputs = {"image": random.normal(size=(EXAMPLES, *module.example_shapes[0])).astype(np.float32)}
    else:
        lengths = np.array([12, 5, 1, 9])
        ids = random.integers(1, 50, (EXAMPLES, 12))
        mask = (np.arange(12) < lengths[:, None]).astype(np.int64)
        inputs = {"input_ids": ids * mask, "attention_mask": mask}
    return Specimen(export(module, inputs, exporter), inputs, zoo_torch.CLASSES)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' progress, warnings and deprecation notes out of the tests' output."""
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _both(name: str, factory: str, needs: tuple[str, ...] = ("torch",), exits: int = 1) -> dict[str, Entry]:
    exporters: tuple[Exporter, ...] = ("dynamo", "script")
    packages = {"dynamo": (*needs, "onnxscript"), "script": needs}
    return {f"{name}/{way}": Entry(partial(_exported, factory, way), packages[way], exits=exits) for way in exporters}


ZOO: dict[str, Entry] = {
    "residual": Entry(drawn.residual),
    "squeeze-excite": Entry(drawn.squeeze_excite),
    "densely-connected": Entry(drawn.densely_connected),
    "branches": Entry(drawn.branches),
    "grouped": Entry(drawn.grouped),
    "shared-weights": Entry(drawn.shared_weights),
    "shared-constants": Entry(drawn.shared_constants),
    "shape-of-input": Entry(drawn.shape_of_input),
    "shape-of-activation": Entry(drawn.shape_of_activation),
    "expanded-by-shape": Entry(drawn.expanded_by_shape),
    "two-inputs": Entry(drawn.two_inputs),
    "three-exits": Entry(drawn.three_exits, exits=3),
    "recurrent": Entry(drawn.recurrent),
    "windows": Entry(drawn.windows),
    "control-flow": Entry(drawn.control_flow),
    "loose-ends": Entry(drawn.loose_ends),
    "opset-13": Entry(drawn.opset_13),
    "opset-17": Entry(drawn.opset_17),
    "old-file": Entry(drawn.old_file),
    "functions": Entry(drawn.functions),
    "float16": Entry(drawn.float16),
    "float16-throughout": Entry(drawn.float16_throughout),
    "quantised": Entry(drawn.quantised),
    "fixed-batch": Entry(drawn.fixed_batch),
    "baked-batch": Entry(drawn.baked_batch, cuttable=False, any_batch=False),
    "mixed-samples": Entry(drawn.mixed_samples, cuttable=False, independent=False),
    "sequence-first": Entry(drawn.sequence_first, cuttable=False),
    "one-node": Entry(drawn.one_node, cuttable=False),
    **_both("resnet", "small_resnet"),
    **_both("mobilenet", "squeeze_excite"),
    **_both("densenet", "densely_connected"),
    **_both("inception", "inception"),
    **_both("vit", "vision_transformer"),
    **_both("text-encoder", "text_encoder"),
    **_both("bert", "bert", needs=("torch", "transformers")),
    **_both("multi-exit", "three_logits", exits=3),
}

CUTTABLE = tuple(name for name, entry in ZOO.items() if entry.cuttable)
