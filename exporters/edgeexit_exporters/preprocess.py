"""Put the preprocessing in front of a model: pictures in, as bytes, and the arithmetic in the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeexit.data import Survey
from edgeexit.errors import DataError, ModelError, UsageError
from edgeexit.manifest import Preprocessing, TensorSpec
from edgeexit_exporters.normalise import BATCH

__all__ = ["bake", "image_layout", "input_specs", "plan_preprocessing"]

_CHANNELS = (1, 3)
_BYTE_RANGE = 255.0


def input_specs(model: onnx.ModelProto) -> list[tuple[str, str, tuple[int | None, ...]]]:
    """Name, dtype and shape (without the batch; None where free) of each input."""
    specs = []
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value or None for dim in kind.shape.dim[1:])
        specs.append((value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape))
    return specs


def image_layout(shape: tuple[int | None, ...]) -> tuple[bool, int, tuple[int | None, int | None]] | None:
    """Whether channels come first, how many, and (height, width); None if it is no picture's shape."""
    if len(shape) != 3:
        return None
    if shape[0] in _CHANNELS:
        return True, int(shape[0] or 0), (shape[1], shape[2])
    if shape[2] in _CHANNELS:
        return False, int(shape[2] or 0), (shape[0], shape[1])
    return None


def plan_preprocessing(
    model: onnx.ModelProto,
    data: Survey,
    path: str | Path,
    *,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: str,
    size: tuple[int, int] | None,
) -> tuple[Preprocessing, tuple[TensorSpec, ...]]:
    """How samples become inputs, and what the bundle's inputs are.

    Pictures become uint8 (height, width, channels). Arrays keep the dtype and shape of the model's
    input; with `mean` and `std`, byte arrays are scaled by 1/255 first.

    Raises:
        DataError, UsageError: Data and model do not fit.
    """
    specs = input_specs(model)
    if data.kind == "image":
        return _plan_pictures(specs, data, path, mean, std, resize, size)
    preprocessing = Preprocessing(kind="array", mean=mean, std=std)
    inputs = []
    for name, dtype, shape in specs:
        key = name if name in data.arrays else "x"
        if key not in data.arrays or (len(specs) > 1 and key == "x"):
            raise DataError(
                f"{path} has no array for the model's input {name}",
                got=", ".join(data.arrays),
                expected="x, or one array for each input, by name"
                if len(specs) == 1
                else ", ".join(s[0] for s in specs),
            )
        kind, whole = data.arrays[key]
        given = whole[1:]
        if len(given) != len(shape) or any(want not in (None, have) for have, want in zip(given, shape, strict=False)):
            raise DataError(
                f"{path}: the array {key} does not fit the model's input {name}",
                got=f"shape {whole}",
                expected=f"(samples, {', '.join('any' if want is None else str(want) for want in shape)})",
            )
        dtype = "uint8" if kind == "uint8" and mean is not None else dtype
        inputs.append(TensorSpec(name=name, dtype=dtype, shape=given))
    if mean is not None and len(inputs) != 1:
        raise UsageError("--mean and --std are for models with one input", got=f"{len(inputs)} inputs")
    return preprocessing, tuple(inputs)


def _plan_pictures(
    specs: list[tuple[str, str, tuple[int | None, ...]]],
    data: Survey,
    path: str | Path,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: str,
    size: tuple[int, int] | None,
) -> tuple[Preprocessing, tuple[TensorSpec, ...]]:
    layout = image_layout(specs[0][2]) if len(specs) == 1 else None
    if layout is None or data.size is None:
        raise DataError(
            f"{path} holds pictures, but the model does not take pictures",
            got="; ".join(f"input {name} of shape (batch, {', '.join(map(str, shape))})" for name, _, shape in specs),
            expected="one input of shape (batch, channels, height, width) with 1 or 3 channels",
            remedy="give the data as an .npz with one array for each input",
        )
    _, channels, (height, width) = layout
    wanted = size or data.size
    final = (height or wanted[0], width or wanted[1])
    if size is not None and final != size:
        raise UsageError("--size is not the size that the model takes", got=size, expected=final)
    if data.size != final and resize == "exact":
        raise DataError(
            f"the pictures in {path} have another size than the model takes",
            got=f"{data.size[0]} × {data.size[1]} (height × width)",
            expected=f"{final[0]} × {final[1]}",
            remedy="add --resize crop to scale the shorter side and crop the centre",
        )
    preprocessing = Preprocessing(
        kind="image",
        mode="RGB" if channels == 3 else "L",
        size=final,
        resize="crop" if resize == "crop" else "exact",
        mean=mean,
        std=std,
    )
    return preprocessing, (TensorSpec(name=specs[0][0], dtype="uint8", shape=(*final, channels)),)


def bake(model: onnx.ModelProto, preprocessing: Preprocessing, inputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    """A copy of `model` that takes `inputs`, with the arithmetic of `preprocessing` in front.

    Raises:
        UsageError: `mean` or `std` do not have one value a channel.
    """
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    for value, spec in zip(baked.graph.input, inputs, strict=True):
        name, dtype, _ = input_specs(baked)[list(baked.graph.input).index(value)]
        if preprocessing.kind == "image" or preprocessing.mean is not None:
            _bake_input(baked, name, dtype, preprocessing, spec)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
        value.CopyFrom(helper.make_tensor_value_info(name, kind, [BATCH, *spec.shape]))
    return baked


def _bake_input(model: onnx.ModelProto, name: str, dtype: str, preprocessing: Preprocessing, spec: TensorSpec) -> None:
    graph = model.graph
    pictures = preprocessing.kind == "image"
    layout = image_layout(input_specs(model)[0][2])
    channels_first = layout is None or layout[0]
    channels = spec.shape[-1] if pictures else spec.shape[0 if channels_first else -1]
    scale, offset = _arithmetic(preprocessing, channels, scaled=spec.dtype == "uint8")
    broadcast = (channels,) if not channels_first or len(spec.shape) == 1 else (channels, *(1,) * (len(spec.shape) - 1))
    ready, nodes, source = f"{name}.prepared", [], name
    if spec.dtype != "float32":
        nodes.append(helper.make_node("Cast", [source], [f"{name}.float"], to=TensorProto.FLOAT))
        source = f"{name}.float"
    if pictures and channels_first:
        nodes.append(helper.make_node("Transpose", [source], [f"{name}.planes"], perm=[0, 3, 1, 2]))
        source = f"{name}.planes"
    constants = [(f"{name}.scale", scale), (f"{name}.offset", offset)]
    nodes.append(helper.make_node("Mul", [source, constants[0][0]], [f"{name}.scaled"]))
    shifted = ready if dtype == "float32" else f"{name}.shifted"
    nodes.append(helper.make_node("Add", [f"{name}.scaled", constants[1][0]], [shifted]))
    if dtype != "float32":
        target = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes.append(helper.make_node("Cast", [shifted], [ready], to=target))
    rewire(graph, name, ready)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    graph.initializer.extend(numpy_helper.from_array(array.reshape(broadcast), word) for word, array in constants)


def rewire(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let every reader of `old`, subgraphs included, read `new`."""
    for node in graph.node:
        names = [new if name == old else name for name in node.input]
        del node.input[:]
        node.input.extend(names)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.ByteSize():
                    rewire(inner, old, new)
    for value in graph.output:
        if value.name == old:
            raise ModelError("an output of the model is its input", got=old)


def _arithmetic(preprocessing: Preprocessing, channels: int, *, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Factor and term, float32 of shape (channels,): (x · unit − mean) / std."""
    values = {}
    for word, given, default in (("mean", preprocessing.mean, 0.0), ("std", preprocessing.std, 1.0)):
        numbers = given if given is not None else (default,)
        if len(numbers) not in (1, channels):
            raise UsageError(
                f"--{word} needs one value a channel", got=len(numbers), expected=f"1 or {channels} values"
            )
        values[word] = np.broadcast_to(np.asarray(numbers, dtype=np.float64), channels)
    if not (np.isfinite(values["mean"]).all() and np.isfinite(values["std"]).all() and (values["std"] > 0).all()):
        raise UsageError(
            "--mean and --std must be finite, and --std above 0", got=f"{preprocessing.mean}, {preprocessing.std}"
        )
    unit = 1 / _BYTE_RANGE if scaled else 1.0
    scale = unit / values["std"]
    offset = -values["mean"] / values["std"]
    return scale.astype(np.float32), offset.astype(np.float32)
