"""Load a source model: an ONNX file, or a torch module named `module:function`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeexit.console import hushed, say
from edgeexit.errors import MissingPartError, ModelError, UsageError
from edgeexit_exporters.attached import Attached, attached_exits, close_network, open_network, output_names
from edgeexit_exporters.normalise import BATCH, OPSETS, normalise
from edgeexit_exporters.origins import search_here
from edgeexit_exporters.renaming import name_outputs

if TYPE_CHECKING:
    import torch

    from edgeexit.training.settings import TrainSettings

__all__ = [
    "Source",
    "build_module",
    "example_tensors",
    "export_module",
    "input_names",
    "is_torch_source",
    "load_onnx",
    "load_torch",
    "source_of",
]

_TRACED_BATCH = 2


@dataclass(frozen=True)
class Source:
    """A loaded model, normalised.

    Attributes:
        name: The file's name without its folder, or `module:function`.
        model: See `edgeexit_exporters.normalise`.
        sha256: Of the file; None for a torch module.
        attached: Exits that it brings as heads of their own, cheapest first.
        class_names: If it knows them.
        training: How its exits were trained, if `edgeexit train` did it.
        held_out: Whether that held out a part of its data; None if nobody said.
    """

    name: str
    model: onnx.ModelProto
    sha256: str | None
    attached: tuple[Attached, ...] = ()
    class_names: tuple[str, ...] | None = None
    training: TrainSettings | None = None
    held_out: bool | None = None


def is_torch_source(source: str) -> bool:
    """Whether `source` names a Python function rather than a file."""
    return ":" in source and not Path(source).exists() and not source.endswith(".onnx")


def load_onnx(path: str | Path) -> Source:
    """Load and normalise an ONNX file; weights in files beside it are read too.

    Raises:
        ModelError: There is no such file, or it is not a valid ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            f"{path} is not a model file" if path.exists() else f"the model file {path} does not exist",
            got="a folder" if path.is_dir() else None,
            expected="an .onnx file, module:function for a torch model, or a folder of edgeexit train",
        )
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, ValueError, ValidationError, OSError: one answer for all
        raise ModelError(
            f"{path} is not a valid ONNX model",
            got=str(error).strip().split("\n")[0][:300],
            expected="a file written by an ONNX exporter",
            remedy="give a torch model as module:function, a function that returns it with its weights loaded",
        ) from error
    return Source(path.name, normalise(model), hashlib.sha256(path.read_bytes()).hexdigest())


def load_torch(source: str, feeds: Mapping[str, NDArray[Any]] | NDArray[Any]) -> Source:
    """Call `module:function` and export the module it returns, in eval mode, with a free batch axis.

    Of an `edgeexit.training.MultiExit` the backbone is exported, and its heads come along as they are. The outputs
    of another module with several of them are called what its `exit_names` say, if it has such an attribute.

    Args:
        source: `module:function`; the current folder is searched for the module too.
        feeds: Example inputs, axis 0 the batch (at least 2 rows): one array for a module with one
            input, or arrays by the names of `forward`'s parameters.

    Raises:
        MissingPartError: torch is not installed.
        UsageError: The function is not there or does not return a torch module.
        ModelError: The module cannot be exported.
    """
    return source_of(source, build_module(source).eval().requires_grad_(False), feeds)


def source_of(source: str, module: torch.nn.Module, feeds: Mapping[str, NDArray[Any]] | NDArray[Any]) -> Source:
    """Export a module in eval mode; see `load_torch`."""
    import torch

    names, examples = example_tensors(source, module, feeds)
    exits = attached_exits(module)
    opened: Any = open_network(module) if exits else module  # type: ignore[arg-type]  # it is a MultiExit then
    proto = export_module(source, opened, examples, names, torch, output_names=output_names(exits))
    model = normalise(proto)
    if exits:
        close_network(source, model, exits)
    else:
        name_outputs(model, getattr(module, "exit_names", None))
    return Source(source, model, None, exits)


def example_tensors(
    source: str, module: torch.nn.Module, feeds: Mapping[str, NDArray[Any]] | NDArray[Any]
) -> tuple[list[str], tuple[torch.Tensor, ...]]:
    """Names of the inputs of `forward` that there are data for, and two rows of each.

    Raises:
        UsageError: An input that it needs is not there.
    """
    import torch

    names = input_names(source, module, feeds)
    arrays = [feeds[name] for name in names] if isinstance(feeds, Mapping) else [feeds]
    return names, tuple(torch.from_numpy(np.ascontiguousarray(array[:_TRACED_BATCH])) for array in arrays)


def build_module(source: str, *, outside: Path | None = None) -> torch.nn.Module:
    """The torch module that `module:function` names, as it comes.

    Args:
        source: `module:function`; the current folder is searched for the module too.
        outside: A folder that is not searched, even if it is the current one.

    Raises:
        MissingPartError: torch is not installed.
        UsageError: The function is not there or does not return a torch module.
        ModelError: It fails.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPartError.package("exporting a torch model", "edgeexit-exporters[torch]") from error
    module_name, _, function_name = source.partition(":")
    search_here(outside=outside)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise UsageError(
            "the module of a torch source cannot be imported",
            got=f"{source}: {type(error).__name__}: {error}",
            expected="module:function, the module importable from the current folder",
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        raise UsageError("the module has no such function", got=source, expected="module:function")
    try:
        model: Any = function if isinstance(function, torch.nn.Module) else function()
    except Exception as error:
        raise ModelError(f"{source} failed", got=f"{type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(
            f"{source} does not return a torch module", got=type(model).__name__, expected="torch.nn.Module"
        )
    return model


def input_names(source: str, module: torch.nn.Module, feeds: Mapping[str, Any] | NDArray[Any]) -> list[str]:
    """Names of the inputs of `forward`, in its order: those that `feeds` has, or the first for a lone array.

    Raises:
        UsageError: One that it needs is not there.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not isinstance(feeds, Mapping):
        return plain[:1] or ["input"]
    if not plain and len(feeds) == 1:  # forward(*inputs), which has no names of its own
        return list(feeds)
    names = [name for name in plain if name in feeds]
    required = [p.name for p in parameters if p.default is p.empty and p.name in plain]
    if not names or not set(required) <= set(names):
        raise UsageError(
            f"the data have no array for an input of {source}",
            got=", ".join(feeds),
            expected=", ".join(required),
            remedy="name the arrays in the .npz as the parameters of forward",
        )
    return names


def export_module(
    source: str,
    module: torch.nn.Module,
    examples: tuple[Any, ...],
    names: list[str],
    torch: Any,
    *,
    output_names: list[str] | None = None,
) -> onnx.ModelProto:
    """Export a torch module to ONNX with a free batch axis: torch's new exporter first, then its old one.

    Args:
        source: What to call it in errors.
        module: In eval mode.
        examples: One tensor for each input, at least 2 rows.
        names: Names of the inputs.
        torch: The torch package.
        output_names: Names of the outputs; the exporter's own if None.

    Raises:
        ModelError: Neither exporter can.
    """
    batch = torch.export.Dim(BATCH, min=1, max=4096)
    errors = []
    for dynamo in (True, False):
        buffer = io.BytesIO()
        axes: dict[str, Any] = (
            {"dynamic_shapes": tuple({0: batch} for _ in examples), "external_data": False}
            if dynamo
            else {"dynamic_axes": {name: {0: BATCH} for name in names}}
        )
        try:
            with hushed(), torch.no_grad():
                program = torch.onnx.export(
                    module,
                    examples,
                    None if dynamo else buffer,
                    input_names=names,
                    output_names=output_names,
                    opset_version=OPSETS.start,
                    dynamo=dynamo,
                    **axes,
                )
            if not dynamo:
                say(f"note: {source} was traced on example inputs; a branch that depends on values is fixed as it was")
            return program.model_proto if dynamo else onnx.load_from_string(buffer.getvalue())
        except ImportError as error:
            raise MissingPartError.package("exporting a torch model", "edgeexit-exporters[torch]") from error
        except Exception as error:  # the exporters raise whatever the model's code raises
            errors.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error) else ''}")
    raise ModelError(
        f"torch cannot export {source} to ONNX",
        got="; then without dynamo: ".join(errors),
        remedy="export the model yourself and give the .onnx file",
    )
