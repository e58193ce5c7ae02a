"""ONNX operators as torch functions, by operator type.

Each function takes the node and one argument per input: a tensor, a stand-in that records what is done to it
(`torch.fx.Proxy`), or None for an input that is left out. It gives the output, or a tuple of outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx
from torch.nn import functional

from edgeexit.errors import ModelError

__all__ = ["OPERATORS", "Node", "Operator", "untranslatable"]

_MAP_RANK = 4
_FAR = 2**62
"""Beyond this, a place in a slice stands for its first or last."""


@dataclass(frozen=True)
class Node:
    """A node of a graph, with example values of its inputs."""

    type: str
    attributes: dict[str, Any]
    examples: tuple[Tensor | None, ...]
    outputs: int

    def rank(self, index: int = 0) -> int:
        """Number of axes of an input."""
        example = self.examples[index]
        assert example is not None
        return example.dim()

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from 0."""
        axis = int(self.get("axis", default))
        return axis + (self.rank() if rank is None else rank) if axis < 0 else axis

    def numbers(self, index: int, argument: Any) -> list[Any]:
        """The values of an input that is known beforehand."""
        if isinstance(argument, fx.Proxy):
            raise untranslatable(f"{self.type} with a computed input {index}")
        return list(argument.reshape(-1).tolist())

    def axes(self, arguments: Sequence[Any], index: int = 1) -> list[int] | None:
        """The axes of an input, or of the attribute that older operators have; None where neither is given."""
        if len(arguments) > index and arguments[index] is not None:
            return [int(axis) for axis in self.numbers(index, arguments[index])]
        axes: list[int] | None = self.get("axes", None)
        return axes


Operator = Callable[..., Any]


def untranslatable(what: str) -> ModelError:
    """The error for what torch has no equivalent of here."""
    return ModelError(f"no torch equivalent of {what}")


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call, or record the call as one step, for what cannot be recorded piece by piece."""
    proxy = next((argument for argument in arguments if isinstance(argument, fx.Proxy)), None)
    if proxy is None:
        return function(*arguments)
    return proxy.tracer.create_proxy("call_function", function, arguments, {})


def shape_of(x: Tensor, start: int, end: int | None) -> Tensor:
    """ONNX's Shape."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def reshaped(x: Tensor, shape: Tensor) -> Tensor:
    """ONNX's Reshape; 0 copies a length."""
    lengths = shape.tolist()
    return x.reshape([x.shape[i] if length == 0 else length for i, length in enumerate(lengths)])


def expanded(x: Tensor, shape: Tensor) -> Tensor:
    """ONNX's Expand."""
    lengths = shape.tolist()
    own = [1] * (len(lengths) - x.dim()) + list(x.shape)
    wanted = [1] * (x.dim() - len(lengths)) + lengths
    return x.expand([max(pair) for pair in zip(own, wanted, strict=True)])


def sliced(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None, steps: Tensor | None) -> Tensor:
    """ONNX's Slice with computed places and steps of 1."""
    if steps is not None and bool((steps != 1).any()):
        raise untranslatable("Slice with computed places and steps")
    places = range(len(starts)) if axes is None else axes.tolist()
    for axis, start, end in zip(places, starts.tolist(), ends.tolist(), strict=True):
        length = x.shape[axis]
        x = x.narrow(axis, *_from_to(start, end, length))
    return x


def _from_to(start: int, end: int, length: int) -> tuple[int, int]:
    first, last, _ = slice(start, end).indices(length)
    return first, max(last - first, 0)


def filled(shape: Tensor, value: Tensor) -> Tensor:
    """ONNX's ConstantOfShape."""
    return value.reshape(()).expand(shape.tolist()).clone()


def counted(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """ONNX's Range."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def tiled(x: Tensor, repeats: Tensor) -> Tensor:
    """ONNX's Tile."""
    return x.repeat(repeats.tolist())


def picked(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """ONNX's Gather; negative places count from the end."""
    flat = indices.reshape(-1)
    rows = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return rows.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _same(function: Callable[..., Any]) -> Operator:
    """An operator that is a function of its inputs, whatever the node says."""
    return lambda node, *arguments: function(*arguments)


def _binary(function: Callable[..., Any]) -> Operator:
    """An operator of two inputs; a constant number is handed over as a number."""

    def run(node: Node, *arguments: Any) -> Any:
        first, second = (_number(node, i, argument) for i, argument in enumerate(arguments))
        return function(first, second)

    return run


def _number(node: Node, index: int, argument: Any) -> Any:
    other = node.examples[1 - index]
    small = isinstance(argument, Tensor) and argument.numel() == 1
    if not small or other is None or other.dim() < argument.dim() or not other.dim() or not other.is_floating_point():
        return argument
    return argument.item()


def _divide(node: Node, x: Any, y: Any) -> Any:
    first = node.examples[0]
    if first is not None and not first.is_floating_point():
        return torch.div(x, y, rounding_mode="trunc")
    return _binary(torch.div)(node, x, y)


def _fold(function: Callable[[Any, Any], Any]) -> Operator:
    def run(node: Node, *arguments: Any) -> Any:
        result = arguments[0]
        for argument in arguments[1:]:
            result = function(result, argument)
        return result

    return run


def _reduce(function: Callable[..., Any]) -> Operator:
    def run(node: Node, *arguments: Any) -> Any:
        axes = node.axes(arguments)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return arguments[0]
            axes = list(range(node.rank()))
        return function(arguments[0], dim=tuple(axes), keepdim=bool(node.get("keepdims", 1)))

    return run


def _convolve(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    spatial = node.rank() - 2
    function = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}.get(spatial)
    if function is None:
        raise untranslatable(f"Conv over {spatial} axes")
    x, padding = _padded(node, x, 0.0)
    stride, dilation = (tuple(node.get(name, [1] * spatial)) for name in ("strides", "dilations"))
    return function(x, weight, bias, stride, padding, dilation, node.get("group", 1))


def _padded(node: Node, x: Any, value: float, largest: Sequence[int] | None = None) -> tuple[Any, tuple[int, ...]]:
    """What torch pads by itself; what it cannot is put around x here."""
    if node.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise untranslatable(f"{node.type} with automatic padding")
    spatial = node.rank() - 2
    pads = node.get("pads", [0] * 2 * spatial)
    before, after = pads[:spatial], pads[spatial:]
    if before == after and (largest is None or all(p <= m for p, m in zip(before, largest, strict=True))):
        return x, tuple(before)
    around = [pad for pair in zip(before[::-1], after[::-1], strict=True) for pad in pair]
    return functional.pad(x, around, value=value), (0,) * spatial


def _max_pool(node: Node, x: Any) -> Any:
    if node.outputs > 1:
        raise untranslatable("MaxPool with indices")
    kernel = node.attributes["kernel_shape"]
    function = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[len(kernel)]
    x, padding = _padded(node, x, float("-inf"), [length // 2 for length in kernel])
    ones = [1] * len(kernel)
    stride, dilation = node.get("strides", ones), node.get("dilations", ones)
    return function(x, kernel, stride, padding, dilation, bool(node.get("ceil_mode", 0)))


def _average_pool(node: Node, x: Any) -> Any:
    kernel = node.attributes["kernel_shape"]
    if any(length != 1 for length in node.get("dilations", [])):
        raise untranslatable("AveragePool with dilations")
    function = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(kernel)]
    x, padding = _padded(node, x, 0.0, [length // 2 for length in kernel])
    included = bool(node.get("count_include_pad", 0))
    if any(node.get("pads", [])) and not any(padding) and not included:
        raise untranslatable("AveragePool with uneven padding")
    return function(
        x, kernel, node.get("strides", [1] * len(kernel)), padding, bool(node.get("ceil_mode", 0)), included
    )


def _global_average(node: Node, x: Any) -> Any:
    if node.rank() == _MAP_RANK:
        return functional.adaptive_avg_pool2d(x, 1)
    return torch.mean(x, dim=tuple(range(2, node.rank())), keepdim=True)


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    a = torch.t(a) if node.get("transA", 0) else a
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    bias = node.examples[2] if len(node.examples) > len("ab") else None
    if alpha == 1 and beta == 1 and (bias is None or bias.dim() == 1):
        weight = b if node.get("transB", 0) else torch.t(b)
        return functional.linear(a, weight.contiguous() if isinstance(weight, Tensor) else weight, c)
    result = alpha * torch.matmul(a, torch.t(b) if node.get("transB", 0) else b)
    return result if c is None else result + beta * c


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    bounds = [None if bound is None else node.numbers(1, bound)[0] for bound in (low, high)]
    if bounds == [0, 6]:
        return functional.relu6(x)
    return x if bounds == [None, None] else torch.clamp(x, *bounds)


def _hard_sigmoid(node: Node, x: Any) -> Any:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 1 / 2:
        return functional.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


def _batch_norm(node: Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any) -> Any:
    return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    if node.outputs > 1:
        raise untranslatable("LayerNormalization with its statistics")
    example = node.examples[0]
    assert example is not None
    return functional.layer_norm(x, tuple(example.shape[node.axis(-1) :]), weight, bias, node.get("epsilon", 1e-5))


def _reshape(node: Node, x: Any, shape: Any) -> Any:
    if isinstance(shape, fx.Proxy):
        return _called(reshaped, x, shape)
    lengths = shape.tolist()
    if node.get("allowzero", 0) or 0 not in lengths:
        return x.reshape(lengths)
    if lengths == [0, -1]:
        return torch.flatten(x, 1)
    return x.reshape([x.shape[i] if length == 0 else length for i, length in enumerate(lengths)])


def _flatten(node: Node, x: Any) -> Any:
    axis = node.axis(1)
    if axis == 1:
        return torch.flatten(x, 1)
    example = node.examples[0]
    assert example is not None
    if axis == 0:
        return torch.reshape(x, (1, -1))
    return torch.reshape(x, (-1, prod(example.shape[axis:])))


def _squeeze(node: Node, *arguments: Any) -> Any:
    axes = node.axes(arguments)
    return torch.squeeze(arguments[0]) if axes is None else torch.squeeze(arguments[0], tuple(axes))


def _unsqueeze(node: Node, *arguments: Any) -> Any:
    x, axes = arguments[0], node.axes(arguments) or []
    rank = node.rank() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = torch.unsqueeze(x, axis)
    return x


def _slice(node: Node, x: Any, *bounds: Any) -> Any:
    if any(isinstance(bound, fx.Proxy) for bound in bounds):
        starts, ends, axes, steps = (*bounds, None, None)[:4]
        return _called(sliced, x, starts, ends, axes, steps)
    starts, ends = (node.numbers(i + 1, bounds[i]) for i in range(2))
    axes = node.axes((None, *bounds), 3) or range(len(starts))
    steps = node.numbers(4, bounds[3]) if len(bounds) > 3 and bounds[3] is not None else [1] * len(starts)
    places = [slice(None)] * node.rank()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise untranslatable("Slice backwards")
        first, last = (None if abs(place) > _FAR else int(place) for place in (start, end))
        places[axis] = slice(first, last, step)
    return x[tuple(places)]


def _split(node: Node, x: Any, lengths: Any = None) -> Any:
    axis = node.axis(0)
    example = node.examples[0]
    assert example is not None
    if lengths is None:
        return torch.split(x, -(-example.shape[axis] // node.outputs), axis)
    return torch.split(x, node.numbers(1, lengths), axis)


def _gather(node: Node, x: Any, indices: Any) -> Any:
    axis = node.axis(0)
    if isinstance(indices, Tensor) and indices.dim() == 0:
        return x.select(axis, int(indices))
    return _called(picked, x, indices, axis)


def _pad(node: Node, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    mode = node.get("mode", b"constant").decode()
    rank = node.rank()
    amounts = [int(pad) for pad in node.numbers(1, pads)]
    padded = [axis % rank for axis in (range(rank) if axes is None else node.numbers(3, axes))]
    pairs = {axis: (amounts[i], amounts[i + len(padded)]) for i, axis in enumerate(padded)}
    first = min((axis for axis, pair in pairs.items() if any(pair)), default=rank)
    around = [pad for axis in reversed(range(first, rank)) for pad in pairs.get(axis, (0, 0))]
    if mode == "constant":
        return functional.pad(x, around, value=0.0 if value is None else node.numbers(2, value)[0])
    if mode in ("reflect", "edge") and first >= 2:
        return functional.pad(x, around, mode={"reflect": "reflect", "edge": "replicate"}[mode])
    raise untranslatable(f"Pad with mode {mode}")


def _cast(node: Node, x: Any) -> Any:
    return x.to(_dtype(node.attributes["to"]))


def _dtype(kind: int) -> torch.dtype:
    name = helper.tensor_dtype_to_np_dtype(kind).name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise untranslatable(f"numbers of type {name}")
    return dtype


def _constant(node: Node) -> Any:
    values = {name: value for name, value in node.attributes.items() if name.startswith("value")}
    ((_, value),) = values.items()
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(numpy_helper.to_array(value).copy())
    return torch.tensor(value, dtype=torch.float32 if isinstance(value, float) else None)


def _constant_of_shape(node: Node, shape: Any) -> Any:
    value = node.get("value", None)
    number = torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value).copy())
    return _called(filled, shape, number)


def _gelu(node: Node, x: Any) -> Any:
    return functional.gelu(x, approximate=node.get("approximate", b"none").decode())


OPERATORS: dict[str, Operator] = {
    "Abs": _same(torch.abs),
    "Add": _binary(torch.add),
    "And": _same(torch.logical_and),
    "ArgMax": lambda node, x: torch.argmax(x, node.axis(0), bool(node.get("keepdims", 1))),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _same(torch.ceil),
    "Clip": _clip,
    "Concat": lambda node, *parts: torch.cat(parts, node.axis(0)),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _convolve,
    "Cos": _same(torch.cos),
    "Div": _divide,
    "Dropout": lambda node, x, *settings: x,
    "Elu": lambda node, x: functional.elu(x, node.get("alpha", 1.0)),
    "Equal": _same(torch.eq),
    "Erf": _same(torch.erf),
    "Exp": _same(torch.exp),
    "Expand": lambda node, x, shape: _called(expanded, x, shape),
    "Flatten": _flatten,
    "Floor": _same(torch.floor),
    "Gather": _gather,
    "GatherElements": lambda node, x, indices: torch.gather(x, node.axis(0), indices),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": lambda node, x: torch.amax(x, dim=tuple(range(2, node.rank())), keepdim=True),
    "Greater": _same(torch.gt),
    "GreaterOrEqual": _same(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _same(functional.hardswish),
    "Identity": _same(lambda x: x),
    "IsNaN": _same(torch.isnan),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, x: functional.leaky_relu(x, node.get("alpha", 0.01)),
    "Less": _same(torch.lt),
    "LessOrEqual": _same(torch.le),
    "Log": _same(torch.log),
    "LogSoftmax": lambda node, x: torch.log_softmax(x, node.axis(-1)),
    "MatMul": _same(torch.matmul),
    "Max": _fold(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _fold(torch.minimum),
    "Mish": _same(functional.mish),
    "Mul": _binary(torch.mul),
    "Neg": _same(torch.neg),
    "Not": _same(torch.logical_not),
    "Or": _same(torch.logical_or),
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "Range": lambda node, start, limit, delta: _called(counted, start, limit, delta),
    "Reciprocal": _same(torch.reciprocal),
    "ReduceL2": _reduce(torch.linalg.vector_norm),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _same(torch.relu),
    "Reshape": _reshape,
    "Shape": lambda node, x: _called(shape_of, x, node.get("start", 0), node.get("end", None)),
    "Sigmoid": _same(torch.sigmoid),
    "Sin": _same(torch.sin),
    "Slice": _slice,
    "Softmax": lambda node, x: torch.softmax(x, node.axis(-1)),
    "Softplus": _same(functional.softplus),
    "Split": _split,
    "Sqrt": _same(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _same(torch.tanh),
    "Tile": lambda node, x, repeats: _called(tiled, x, repeats),
    "Transpose": lambda node, x: torch.permute(x, tuple(node.get("perm", range(node.rank())[::-1]))),
    "Unsqueeze": _unsqueeze,
    "Where": _same(torch.where),
}
"""The operators that can be translated."""
