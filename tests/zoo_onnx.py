"""Small graphs drawn by hand with onnx alone. Weights are random; seeds are fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5
EXAMPLES = 4

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Specimen:
    """A model, an example batch of four for its inputs, and how many classes it tells apart."""

    model: onnx.ModelProto
    inputs: dict[str, NDArray[Any]]
    classes: int

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.model.graph.output]


class Sketch:
    """Collects the nodes and weights of a graph; calling it adds a node and gives its output's name."""

    def __init__(self, seed: int = 0, opset: int = 18) -> None:
        self.random = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.functions: list[onnx.FunctionProto] = []

    def __call__(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"/{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"node{name}", **attributes))
        return name

    def several(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        names = [f"/{operator.lower()}_{len(self.nodes)}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"node{names[0]}", **attributes))
        return names

    def weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        return self.store(self.random.normal(size=shape, scale=np.sqrt(2 / fan_in)).astype(np.float32))

    def store(self, values: Any) -> str:
        name = f"weight.{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def ints(self, *values: int) -> str:
        return self.store(np.array(values, dtype=np.int64))

    def conv(self, x: str, channels: tuple[int, int], kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        weight = self.weight(channels[1], channels[0] // group, kernel, kernel)
        bias = self.store(self.random.normal(size=channels[1], scale=0.1).astype(np.float32))
        return self(
            "Conv",
            x,
            weight,
            bias,
            kernel_shape=[kernel] * 2,
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
            group=group,
        )

    def norm(self, x: str, channels: int) -> str:
        draws = [self.random.uniform(0.5, 1.5, channels), *self.random.normal(size=(2, channels), scale=0.2)]
        draws.append(self.random.uniform(0.5, 1.5, channels))
        return self("BatchNormalization", x, *(self.store(values.astype(np.float32)) for values in draws))

    def dense(self, x: str, features: tuple[int, int], output: str | None = None) -> str:
        bias = self.store(self.random.normal(size=features[1], scale=0.1).astype(np.float32))
        return self("Gemm", x, self.weight(*features), bias, output=output)

    def classify(self, x: str, channels: int, output: str = "logits") -> str:
        """From a feature map to logits."""
        return self.dense(self("Flatten", self("GlobalAveragePool", x)), (channels, CLASSES), output)

    def model(
        self,
        inputs: Mapping[str, tuple[Any, Shape]],
        outputs: Sequence[str] = ("logits",),
        *,
        dtype: Any = np.float32,
        batch: int | str = "batch",
        ir_version: int = 10,
        weights_are_inputs: bool = False,
    ) -> onnx.ModelProto:
        def value(name: str, of: Any, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(of)), shape)

        values = [value(name, of, (batch, *shape)) for name, (of, shape) in inputs.items()]
        if weights_are_inputs:
            values += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in self.weights]
        results = [value(name, dtype, (batch, CLASSES)) for name in outputs]
        graph = helper.make_graph(self.nodes, "zoo", values, results, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted({f.domain for f in self.functions})]
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=ir_version)
        onnx.checker.check_model(model)
        return model

    def specimen(
        self, shapes: Mapping[str, tuple[int, ...]], outputs: Sequence[str] = ("logits",), **how: Any
    ) -> Specimen:
        """A specimen whose inputs are all float32."""
        examples = {
            name: self.random.normal(size=(EXAMPLES, *shape)).astype(np.float32) for name, shape in shapes.items()
        }
        return Specimen(
            self.model({name: (np.float32, shape) for name, shape in shapes.items()}, outputs, **how), examples, CLASSES
        )


IMAGE = {"image": (3, 8, 8)}


def residual(opset: int = 17) -> Specimen:
    """Convolutions with batch norm, an identity shortcut and a strided projection shortcut."""
    g = Sketch(1, opset)
    x = g("Relu", g.norm(g.conv("image", (3, 8)), 8))
    for channels, stride in (((8, 8), 1), ((8, 12), 2), ((12, 12), 1)):
        shortcut = x if stride == 1 else g.norm(g.conv(x, channels, kernel=1, stride=stride), channels[1])
        y = g("Relu", g.norm(g.conv(x, channels, stride=stride), channels[1]))
        y = g.norm(g.conv(y, (channels[1], channels[1])), channels[1])
        x = g("Relu", g("Add", y, shortcut))
    g.classify(x, 12)
    return g.specimen(IMAGE)


def squeeze_excite() -> Specimen:
    """Inverted residuals with squeeze-and-excite, hard-swish, and a Clip whose lower bound is left out."""
    g = Sketch(2)
    x = g("HardSwish", g.conv("image", (3, 8)))
    for _ in range(2):
        y = g("HardSwish", g.conv(x, (8, 16), kernel=1))
        y = g("HardSwish", g.conv(y, (16, 16), group=16))
        s = g("Clip", g.conv(g("GlobalAveragePool", y), (16, 4), kernel=1), g.store(np.float32(0)))
        s = g("Clip", s, "", g.store(np.float32(6)))
        s = g("HardSigmoid", g.conv(s, (4, 16), kernel=1), alpha=1 / 6, beta=0.5)
        x = g("Add", x, g.conv(g("Mul", y, s), (16, 8), kernel=1))
    g.classify(x, 8)
    return g.specimen(IMAGE)


def densely_connected() -> Specimen:
    """Every layer reads the outputs of all earlier ones."""
    g = Sketch(3)
    features = [g.conv("image", (3, 6))]
    for _ in range(4):
        joined = features[0] if len(features) == 1 else g("Concat", *features, axis=1)
        width = 6 + 4 * (len(features) - 1)
        features.append(g.conv(g("Relu", g.norm(joined, width)), (width, 4)))
    g.classify(g("Concat", *features, axis=1), 22)
    return g.specimen(IMAGE)


def branches() -> Specimen:
    """Inception-style: parallel convolutions and a pooled branch, joined by channel; one Split."""
    g = Sketch(4)
    x = g("Relu", g.conv("image", (3, 8)))
    for _ in range(2):
        wide = g("Relu", g.conv(g.conv(x, (8, 2), kernel=1), (2, 3), kernel=5))
        pooled = g("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
        parts = [g.conv(x, (8, 2), kernel=1), g("Relu", g.conv(x, (8, 3))), wide, g.conv(pooled, (8, 2), kernel=1)]
        left, right = g.several("Split", 2, g("Concat", *parts, axis=1), g.ints(5, 5), axis=1)
        x = g("Relu", g.conv(g("Concat", right, left, axis=1), (10, 8), kernel=1))
    g.classify(x, 8)
    return g.specimen(IMAGE)


def grouped() -> Specimen:
    """Depthwise and grouped convolutions with a channel shuffle between them."""
    g = Sketch(5)
    x = g("Relu", g.conv("image", (3, 8)))
    for _ in range(2):
        x = g("Relu", g.conv(x, (8, 8), group=2))
        x = g("Reshape", x, g.ints(0, 2, 4, 8, 8))
        x = g("Reshape", g("Transpose", x, perm=[0, 2, 1, 3, 4]), g.ints(0, 8, 8, 8))
        x = g.conv(g.conv(x, (8, 8), group=8), (8, 8), kernel=1)
    g.classify(x, 8)
    return g.specimen(IMAGE)


def shared_weights() -> Specimen:
    """One matrix in three layers, one of them transposed, and one bias everywhere."""
    g = Sketch(6)
    matrix, bias = g.weight(16, 16), g.store(np.full(16, 0.1, dtype=np.float32))
    x = "features"
    for transposed in (0, 1, 0):
        x = g("Tanh", g("Gemm", x, matrix, bias, transB=transposed))
    g.dense(x, (16, CLASSES), "logits")
    return g.specimen({"features": (16,)})


def shared_constants() -> Specimen:
    """Constants made by nodes and used early and late: a scale, and position ids that pick embeddings."""
    g = Sketch(7)
    scale = g("Constant", value=numpy_helper.from_array(np.float32(0.5)))
    start = g("Constant", value=numpy_helper.from_array(np.int64(0)))
    stop = g("Constant", value=numpy_helper.from_array(np.int64(6)))
    positions = g("Gather", g.weight(10, 8), g("Range", start, stop, g("Cast", g("Ceil", scale), to=TensorProto.INT64)))
    x = "tokens"
    for _ in range(3):
        x = g("Add", g("Mul", x, scale), g("Unsqueeze", positions, g.ints(0)))
        x = g("Relu", g("MatMul", x, g.weight(8, 8)))
    g.dense(g("Mul", g("ReduceMean", x, g.ints(1), keepdims=0), scale), (8, CLASSES), "logits")
    return g.specimen({"tokens": (6, 8)})


def shape_of_input() -> Specimen:
    """The batch size is read from the input at the start and used by the last Reshape."""
    g = Sketch(8)
    batch = g("Gather", g("Shape", "image"), g.store(np.int64(0)), axis=0)
    target = g("Concat", g("Unsqueeze", batch, g.ints(0)), g.ints(-1), axis=0)
    x = "image"
    for channels in ((3, 8), (8, 8), (8, 4)):
        x = g("Relu", g.conv(x, channels, stride=2))
    g.dense(g("Reshape", x, target), (4, CLASSES), "logits")
    return g.specimen(IMAGE)


def shape_of_activation() -> Specimen:
    """Late operators use the shape of an early activation whose values nobody needs any more."""
    g = Sketch(9)
    early = g("Relu", g.conv("image", (3, 6)))
    shape = g("Shape", early)
    sizes = g("Slice", shape, g.ints(2), g.ints(4), g.ints(0))
    batch = g("Slice", shape, g.ints(0), g.ints(1), g.ints(0))
    x = g("Relu", g.conv(early, (6, 8), stride=2))
    x = g("Relu", g.conv(x, (8, 8)))
    large = g("Concat", g("Slice", g("Shape", x), g.ints(0), g.ints(2), g.ints(0)), sizes, axis=0)
    x = g("Resize", x, "", "", large, mode="nearest")
    x = g("Relu", g.conv(x, (8, 4), stride=4))
    g.dense(g("Reshape", x, g("Concat", batch, g.ints(16), axis=0)), (16, CLASSES), "logits")
    return g.specimen(IMAGE)


def expanded_by_shape() -> Specimen:
    """A learned token is repeated for every sample with a batch size that is read from the input."""
    g = Sketch(10)
    batch = g("Slice", g("Shape", "tokens"), g.ints(0), g.ints(1), g.ints(0))
    token = g("Expand", g.weight(1, 1, 8), g("Concat", batch, g.ints(1, 8), axis=0))
    x = g("Relu", g("MatMul", "tokens", g.weight(8, 8)))
    x = g("Concat", token, x, axis=1)
    for _ in range(2):
        mixed = g("MatMul", g("Softmax", g("MatMul", x, g("Transpose", x, perm=[0, 2, 1])), axis=-1), x)
        x = g("Add", x, g("Relu", g("MatMul", mixed, g.weight(8, 8))))
    g.dense(g("Gather", x, g.store(np.int64(0)), axis=1), (8, CLASSES), "logits")
    return g.specimen({"tokens": (5, 8)})


def two_inputs() -> Specimen:
    """A picture and measurements; the measurements are used in the middle and at the end."""
    g = Sketch(11)
    x = g("Relu", g.conv("image", (3, 8)))
    gate = g("Sigmoid", g.dense("measurements", (5, 8)))
    x = g("Mul", x, g("Unsqueeze", gate, g.ints(2, 3)))
    x = g("Relu", g.conv(x, (8, 8)))
    joined = g("Concat", g("Flatten", g("GlobalAveragePool", x)), "measurements", axis=1)
    g.dense(g("Relu", g.dense(joined, (13, 16))), (16, CLASSES), "logits")
    return g.specimen({**IMAGE, "measurements": (5,)})


def three_exits() -> Specimen:
    """Three outputs with logits; the boundary after the first is one tensor, after the second two."""
    g = Sketch(12)
    x = g("Relu", g.conv("image", (3, 8)))
    g.classify(x, 8, "early")
    y = g("Relu", g.conv(x, (8, 8)))
    g.classify(g("Add", x, y), 8, "middle")
    z = g("Relu", g.conv(y, (8, 8)))
    g.classify(g("Concat", x, z, axis=1), 16, "late")
    return g.specimen(IMAGE, ("early", "middle", "late"))


def recurrent() -> Specimen:
    """An LSTM, whose tensors have the batch as axis 1, between batch-first layers."""
    g = Sketch(13)
    x = g("Relu", g("MatMul", "frames", g.weight(4, 6)))
    x = g("Transpose", x, perm=[1, 0, 2])
    weights = [g.store(g.random.normal(size=(1, 32, width), scale=0.4).astype(np.float32)) for width in (6, 8)]
    _, last, _ = g.several("LSTM", 3, x, *weights, hidden_size=8)
    x = g("Squeeze", last, g.ints(0))
    x = g("Relu", g.dense(x, (8, 12)))
    g.dense(x, (12, CLASSES), "logits")
    return g.specimen({"frames": (7, 4)})


def windows() -> Specimen:
    """Tokens are folded into the batch axis, four windows a sample, and unfolded again."""
    g = Sketch(14)
    x = "tokens"
    for _ in range(2):
        x = g("Relu", g("MatMul", x, g.weight(6, 6)))
        folded = g("Reshape", x, g.ints(-1, 2, 6))
        attention = g("Softmax", g("MatMul", folded, g("Transpose", folded, perm=[0, 2, 1])), axis=-1)
        x = g("Add", x, g("Reshape", g("MatMul", attention, folded), g.ints(-1, 8, 6)))
    g.dense(g("ReduceMean", x, g.ints(1), keepdims=0), (6, CLASSES), "logits")
    return g.specimen({"tokens": (8, 6)})


def control_flow() -> Specimen:
    """An If whose branches read tensors of the outer graph by name."""
    g = Sketch(15)
    x = g.dense("features", (6, 8))
    early = g("Relu", x)
    late = g("Tanh", g.dense(early, (8, 8)))
    then = helper.make_graph(
        [helper.make_node("Add", [late, early], ["sum"])],
        "then",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
    )
    otherwise = helper.make_graph(
        [helper.make_node("Identity", [late], ["same"])],
        "else",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )
    picked = g("If", g.store(np.array(True)), then_branch=then, else_branch=otherwise)
    g.dense(g("Relu", g.dense(picked, (8, 8))), (8, CLASSES), "logits")
    return g.specimen({"features": (6,)})


def loose_ends() -> Specimen:
    """Nodes that lead nowhere, an unused weight, a Dropout, Identity chains, and nodes out of order."""
    g = Sketch(16)
    x = g("Relu", g.dense("features", (6, 8)))
    g("Sigmoid", g.dense(x, (8, 3)))
    g.weight(40, 40)
    x = g("Identity", g("Identity", g.several("Dropout", 2, x)[0]))
    x = g("Relu", g.dense(x, (8, 8)))
    g.dense(x, (8, CLASSES), "scores")
    g("Identity", "scores", output="logits")
    specimen = g.specimen({"features": (6,)})
    nodes = list(specimen.model.graph.node)
    del specimen.model.graph.node[:]
    specimen.model.graph.node.extend([nodes[-1], *nodes[:-1]])
    return specimen


def opset_13() -> Specimen:
    """Operators in the form that opset 13 had: axes of ReduceMean as an attribute, Split by input."""
    g = Sketch(17, opset=13)
    x = g("Relu", g.norm(g.conv("image", (3, 8)), 8))
    first, second = g.several("Split", 2, x, g.ints(3, 5), axis=1)
    x = g("Relu", g.conv(g("Concat", second, first, axis=1), (8, 8)))
    x = g("HardSigmoid", g("Pad", x, g.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="constant"))
    x = g("ReduceMean", x, axes=[2, 3], keepdims=1)
    x = g("Squeeze", g("Relu", g.conv(x, (8, 8), kernel=1)), g.ints(2, 3))
    g.dense(x, (8, CLASSES), "logits")
    return g.specimen(IMAGE, ir_version=7)


def opset_17() -> Specimen:
    """As exporters of opset 17 wrote: LayerNormalization, and ReduceMean with axes as an attribute."""
    g = Sketch(18, opset=17)
    x = "tokens"
    for _ in range(2):
        y = g("LayerNormalization", x, g.store(np.ones(8, np.float32)), g.store(np.zeros(8, np.float32)), axis=-1)
        x = g("Add", x, g("Relu", g("MatMul", y, g.weight(8, 8))))
    g.dense(g("ReduceMean", x, axes=[1], keepdims=0), (8, CLASSES), "logits")
    return g.specimen({"tokens": (5, 8)}, ir_version=8)


def old_file() -> Specimen:
    """IR 3 and opset 9, where every initialiser is listed among the graph's inputs too."""
    g = Sketch(19, opset=9)
    x = g("Relu", g.norm(g.conv("image", (3, 8)), 8))
    x = g("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g("Relu", g.conv(x, (8, 8)))
    x = g("Reshape", g("GlobalAveragePool", x), g.ints(-1, 8))
    g.dense(g("Dropout", x, ratio=0.5), (8, CLASSES), "logits")
    return g.specimen(IMAGE, ir_version=3, weights_are_inputs=True)


def functions() -> Specimen:
    """Local functions, one of which calls the other."""
    g = Sketch(20)
    opset = [helper.make_opsetid("", 18)]
    layer = helper.make_function(
        "zoo", "Layer", ["x", "w", "b"], ["y"],
        [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], opset,
    )  # fmt: skip
    block = helper.make_function(
        "zoo", "Block", ["x", "w", "b"], ["y"],
        [helper.make_node("Layer", ["x", "w", "b"], ["h"], domain="zoo"), helper.make_node("Add", ["x", "h"], ["y"])],
        [*opset, helper.make_opsetid("zoo", 1)],
    )  # fmt: skip
    g.functions += [layer, block]
    x = "features"
    for _ in range(3):
        x = g("Block", x, g.weight(8, 8), g.store(np.full(8, 0.1, np.float32)), domain="zoo")
    g.dense(x, (8, CLASSES), "logits")
    return g.specimen({"features": (8,)})


def float16() -> Specimen:
    """Half precision inside, float32 at both ends."""
    g = Sketch(21)
    x = g("Cast", "image", to=TensorProto.FLOAT16)
    for channels in ((3, 8), (8, 8), (8, 8)):
        weight = g.store(g.random.normal(size=(channels[1], channels[0], 3, 3), scale=0.2).astype(np.float16))
        x = g("Relu", g("Conv", x, weight, pads=[1] * 4))
    g.classify(g("Cast", x, to=TensorProto.FLOAT), 8)
    return g.specimen(IMAGE)


def float16_throughout() -> Specimen:
    """Half precision from the input to the logits."""
    g = Sketch(22)
    x = "features"
    for width in (8, 8, CLASSES):
        weight = g.store(g.random.normal(size=(8, width), scale=0.4).astype(np.float16))
        x = g("MatMul", x if x == "features" else g("Relu", x), weight, output="logits" if width == CLASSES else None)
    model = g.model({"features": (np.float16, (8,))}, dtype=np.float16)
    return Specimen(model, {"features": g.random.normal(size=(EXAMPLES, 8)).astype(np.float16)}, CLASSES)


def quantised() -> Specimen:
    """QuantizeLinear and DequantizeLinear around every convolution, weights in int8 with a scale per channel."""
    g = Sketch(23)
    zero = g.store(np.uint8(128))

    def fake(x: str, scale: float) -> str:
        step = g.store(np.float32(scale))
        return g("DequantizeLinear", g("QuantizeLinear", x, step, zero), step, zero)

    def conv(x: str, channels: tuple[int, int]) -> str:
        weight = g.store(g.random.integers(-127, 128, (channels[1], channels[0], 3, 3)).astype(np.int8))
        scales = g.store(g.random.uniform(0.001, 0.003, channels[1]).astype(np.float32))
        zeros = g.store(np.zeros(channels[1], np.int8))
        return g("Conv", x, g("DequantizeLinear", weight, scales, zeros, axis=0), pads=[1] * 4)

    x = fake(g("Relu", conv(fake("image", 0.03), (3, 8))), 0.02)
    for _ in range(2):
        y = fake(g("Relu", conv(x, (8, 8))), 0.02)
        x = fake(g("Add", x, y), 0.03)
    g.classify(x, 8)
    return g.specimen(IMAGE)


def fixed_batch() -> Specimen:
    """The batch is declared as 1, but nothing in the graph depends on it."""
    g = Sketch(24)
    x = g("Relu", g.conv("image", (3, 8)))
    x = g("Relu", g.conv(x, (8, 8)))
    x = g("Reshape", g("GlobalAveragePool", x), g.ints(0, -1))
    g.dense(x, (8, CLASSES), "logits")
    return g.specimen(IMAGE, batch=1)


def baked_batch() -> Specimen:
    """The batch is declared as 1 and baked into a Reshape: two samples do not pass."""
    g = Sketch(25)
    x = g("Relu", g.conv("image", (3, 8)))
    x = g("Reshape", g("GlobalAveragePool", x), g.ints(1, 8))
    g.dense(g("Relu", g.dense(x, (8, 8))), (8, CLASSES), "logits")
    return g.specimen(IMAGE, batch=1)


def mixed_samples() -> Specimen:
    """Features are centred over the batch, so a sample's answer depends on its neighbours."""
    g = Sketch(26)
    x = g("Relu", g.dense("features", (6, 8)))
    x = g("Sub", x, g("ReduceMean", x, g.ints(0), keepdims=1))
    g.dense(g("Relu", g.dense(x, (8, 8))), (8, CLASSES), "logits")
    return g.specimen({"features": (6,)})


def sequence_first() -> Specimen:
    """The batch is axis 1 of every tensor between the input and the logits."""
    g = Sketch(27)
    x = g("Transpose", "tokens", perm=[1, 0, 2])
    for width in (8, 8, CLASSES):
        x = g("MatMul", g("Tanh", x), g.weight(8, width))
    g("ReduceMean", x, g.ints(0), keepdims=0, output="logits")
    return g.specimen({"tokens": (6, 8)})


def one_node() -> Specimen:
    """A single layer: there is nothing to stop before."""
    g = Sketch(28)
    g.dense("features", (6, CLASSES), "logits")
    return g.specimen({"features": (6,)})
