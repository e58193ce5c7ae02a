"""From a boundary tensor to a short feature vector: pooling, as ONNX nodes.

The vector's layout follows the tensor's rank: maps (C, H, W) are pooled over a grid, by average and
by maximum; token sequences (T, D) give their first token and the average of all, attention masks
respected; vectors stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeexit_exporters.probe import TensorInfo

__all__ = ["Features", "grid_features", "numbers", "pooled_block_features"]

_GRIDS = (8, 4, 2, 1)


@dataclass(frozen=True)
class Features:
    """How features are computed from a tensor.

    Attributes:
        tensor: The boundary tensor they are read from.
        reads: All activations read (the tensor, and a mask where there is one).
        nodes: ONNX nodes; the names they make begin with `{prefix}`, filled in by `build`.
        initializers: Their constants.
        length: Number of features D.
    """

    tensor: str
    reads: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    initializers: tuple[onnx.TensorProto, ...]
    length: int
    output: str


class _Builder:
    """Collects nodes that turn one tensor into a float32 matrix.

    `tensor` is `source` itself, or, where that holds rounded integers, the numbers they stand for.
    """

    def __init__(self, source: str, info: TensorInfo, prefix: str) -> None:
        self.source = source
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.tensor, self.dtype = source, info.dtype
        if info.rounding is not None:
            scale = self._scalar("scale", np.asarray(info.rounding.scale, dtype=np.float32))
            zero_point = self._scalar("zero_point", np.asarray(info.rounding.zero_point, dtype=info.dtype))
            self.tensor = self.node("DequantizeLinear", [source, scale, zero_point], "dequantised")
            self.dtype = "float32"

    def node(self, operator: str, inputs: list[str], word: str, **attributes: Any) -> str:
        output = f"{self.prefix}{word}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def ints(self, word: str, values: list[int]) -> str:
        name = f"{self.prefix}{word}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype=np.int64), name))
        return name

    def _scalar(self, word: str, value: np.ndarray) -> str:
        name = f"{self.prefix}{word}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def finish(self, parts: list[str], length: int, *also_read: str) -> Features:
        output = parts[0] if len(parts) == 1 else self.node("Concat", parts, "joined", axis=1)
        if self.dtype != "float32":
            output = self.node("Cast", [output], "float32", to=TensorProto.FLOAT)
        reads = (self.source, *also_read)
        return Features(self.source, reads, tuple(self.nodes), tuple(self.initializers), length, output)


def numbers(tensor: str, info: TensorInfo, prefix: str) -> Features:
    """The tensor itself as float32, its shape kept: rounded integers become the numbers they stand for.

    Args:
        tensor: Name of the tensor.
        info: Its dtype and shape.
        prefix: What new names begin with.
    """
    build = _Builder(tensor, info, prefix)
    return build.finish([build.tensor], prod(info.shape))


def grid_features(
    tensor: str, info: TensorInfo, prefix: str, *, limit: int, channels_first: bool = True, mask: str | None = None
) -> Features:
    """Average and maximum pooling over grids as fine as `limit` features allow.

    Args:
        tensor: Name of the tensor.
        info: Its dtype and shape.
        prefix: What new names begin with.
        limit: Most features.
        channels_first: For tensors of rank 3, whether they are (C, L) rather than (T, D).
        mask: Name of an input of shape (T,), nonzero where a token counts.
    """
    build = _Builder(tensor, info, prefix)
    shape = info.shape
    source = build.tensor
    if prod(shape) <= min(limit, 1024) and mask is None:
        return build.finish([_flat(build, source, "flat")], prod(shape))
    if len(shape) == 2 and not channels_first:
        return _token_features(build, info, limit, mask)
    if len(shape) == 1:
        return _vector_features(build, info, limit)
    if len(shape) == 2:  # (C, L) becomes (C, 1, L)
        source = build.node("Unsqueeze", [source, build.ints("axis", [2])], "map")
        shape = (shape[0], 1, shape[1])
    if len(shape) == 4:  # (C, T, H, W) becomes (C, T·H, W)
        source = build.node("Reshape", [source, build.ints("shape", [0, shape[0], -1, shape[3]])], "map")
        shape = (shape[0], shape[1] * shape[2], shape[3])
    return _map_features(build, source, shape, limit)


def _map_features(build: _Builder, source: str, shape: tuple[int, ...], limit: int) -> Features:
    channels, height, width = shape
    fine, coarse = (2 * limit) // 3, limit // 3
    pooled: list[str] = []
    grids: list[tuple[int, int]] = []
    for operator, room in (("AveragePool", fine), ("MaxPool", coarse)):
        if channels > room and pooled:
            continue
        grid = next((g for g in _GRIDS if channels * min(g, height) * min(g, width) <= room), 1)
        rows, columns = min(grid, height), min(grid, width)
        strides = [height // rows, width // columns]
        kernel = [height - (rows - 1) * strides[0], width - (columns - 1) * strides[1]]
        if kernel == [1, 1]:
            pooled.append(source)
        else:
            pooled.append(build.node(operator, [source], operator.lower(), kernel_shape=kernel, strides=strides))
        grids.append((rows, columns))
        if kernel == [1, 1]:
            break
    if len(set(grids)) == 1 and len(pooled) > 1:  # joined as maps they leave the blocked layout once, not twice
        pooled = [build.node("Concat", pooled, "maps", axis=1)]
    parts = [_flat(build, name, f"flat{i}") for i, name in enumerate(pooled)]
    return build.finish(parts, sum(channels * rows * columns for rows, columns in grids))


def _token_features(build: _Builder, info: TensorInfo, limit: int, mask: str | None) -> Features:
    width = info.shape[1]
    parts = []
    if 2 * width <= limit:
        zero = build.ints("first", [0])
        first = build.node("Gather", [build.tensor, zero], "token", axis=1)
        parts.append(_flat(build, first, "token.flat"))
    if mask is None:
        parts.append(build.node("ReduceMean", [build.tensor, build.ints("tokens", [1])], "mean", keepdims=0))
        return build.finish(parts, len(parts) * width)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(build.dtype))
    weights = build.node("Cast", [mask], "mask", to=kind)
    column = build.node("Unsqueeze", [weights, build.ints("last", [2])], "mask.column")
    weighted = build.node("Mul", [build.tensor, column], "weighted")
    axis = build.ints("tokens", [1])
    total = build.node("ReduceSum", [weighted, axis], "sum", keepdims=0)
    count = build.node("ReduceSum", [weights, axis], "count", keepdims=1)
    one = f"{build.prefix}one"
    build.initializers.append(numpy_helper.from_array(np.ones(1, dtype=build.dtype), one))
    parts.append(build.node("Div", [total, build.node("Max", [count, one], "count.positive")], "mean"))
    return build.finish(parts, len(parts) * width, mask)


def _vector_features(build: _Builder, info: TensorInfo, limit: int) -> Features:
    (length,) = info.shape
    group = -(-length // limit)
    row = build.node("Unsqueeze", [build.tensor, build.ints("axis", [1])], "row")
    pooled = build.node("AveragePool", [row], "pooled", kernel_shape=[group], strides=[group], ceil_mode=1)
    return build.finish([_flat(build, pooled, "flat")], -(-length // group))


def pooled_block_features(tensor: str, info: TensorInfo, prefix: str, *, limit: int) -> Features:
    """E2CM's features: the tensor max-pooled over blocks, channels too, until it is short enough.

    The longest axis is halved first, axes of equal length from the last to the first, which takes
    (80, 14, 14) to (10, 7, 7) as in the paper.
    """
    build = _Builder(tensor, info, prefix)
    factors = [1] * len(info.shape)

    def pooled() -> list[int]:
        return [-(-size // factor) for size, factor in zip(info.shape, factors, strict=True)]

    while prod(pooled()) > limit and max(pooled()) > 1:
        lengths = pooled()
        longest = max(range(len(lengths)), key=lambda i: (lengths[i], i))
        factors[longest] *= 2
    source = build.tensor
    if max(factors) > 1:
        shape = info.shape
        if len(shape) > 3:  # ONNX pools over three axes at most: the two last are already small
            shape = (*shape[:2], prod(shape[2:]))
            factors = [*factors[:2], prod(factors[2:])]
        volume = build.node("Unsqueeze", [source, build.ints("axis", [1])], "volume")
        if len(info.shape) > 3:
            volume = build.node("Reshape", [source, build.ints("shape", [0, 1, *shape[:2], -1])], "volume3")
        source = build.node("MaxPool", [volume], "pooled", kernel_shape=factors, strides=factors, ceil_mode=1)
        length = prod(-(-size // factor) for size, factor in zip(shape, factors, strict=True))
    else:
        length = prod(info.shape)
    return build.finish([_flat(build, source, "flat")], length)


def _flat(build: _Builder, source: str, word: str) -> str:
    return build.node("Flatten", [source], word, axis=1)
