"""Graphs as torch modules: the values of ONNX Runtime, or a reason why not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from cascades import analysed, run, segments  # noqa: E402
from edgeexit.errors import ModelError  # noqa: E402
from edgeexit.manifest import LAYOUT_HINT  # noqa: E402
from edgeexit_exporters.chain import Chain  # noqa: E402
from edgeexit_exporters.exits import choose_cuts  # noqa: E402
from edgeexit_exporters.rivals.operators import OPERATORS  # noqa: E402
from edgeexit_exporters.rivals.translation import translate  # noqa: E402
from zoo import CUTTABLE, ZOO, needs, specimen  # noqa: E402

WITHOUT_EQUIVALENT = {
    "shape-of-activation": "Resize",
    "recurrent": "LSTM",
    "control-flow": "If",
    "quantised": "QuantizeLinear",
    "bert/dynamo": "GatherND",
}
TOLERANCE = 1e-4
TOLERANCE_HALF = 2e-3


def translated(name: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each segment the logits of ONNX Runtime, of torch, and of torch for the first sample alone."""
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    single = ZOO[name].exits == 1
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, analysis.stages, "auto") if single else ()
    parts = segments(analysis, cuts)
    expected = Chain(parts, threads=1).logits(built.inputs)
    known = {key: torch.from_numpy(array) for key, array in built.inputs.items()}
    found = []
    for part, logits in zip(parts, expected, strict=True):
        names = [*part.outputs, part.exit.head.logits]
        policy = {key: torch.from_numpy(np.array(tensor)) for key, tensor in part.exit.head.policy.items()}
        module = translate(part.model, {key: known[key] for key in part.inputs}, names, policy)
        with torch.inference_mode():
            values = module(*[known[key] for key in part.inputs])
            first = module(*[known[key][:1] for key in part.inputs])
        known |= zip(names, values, strict=True)
        found.append((logits, values[-1].numpy(), first[-1].numpy()))
    return found


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_segment_in_torch_has_the_values_of_onnx_runtime_at_any_batch_size(name: str) -> None:
    for package in needs(name):
        pytest.importorskip(package)
    if name in WITHOUT_EQUIVALENT:
        with pytest.raises(ModelError, match=f"no torch equivalent of {WITHOUT_EQUIVALENT[name]}"):
            translated(name)
        return
    tolerance = TOLERANCE_HALF if "float16" in name else TOLERANCE
    for expected, found, first in translated(name):
        limit = tolerance * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
        np.testing.assert_allclose(first, expected[:1], rtol=0, atol=limit)


def model(nodes: list[onnx.NodeProto], shape: tuple[int, ...], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph from x (batch, …) float32 to y."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", [value], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


F32, I64 = np.float32, np.int64
MAP = (4, 6, 6)
ONE_NODE: dict[str, tuple[str, tuple[int, ...], dict[str, np.ndarray], dict[str, object]]] = {
    "even pooling with padding": (
        "AveragePool", MAP, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    ),
    "pooling that counts the padding": (
        "AveragePool", MAP, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    ),
    "pooling rounded up": ("MaxPool", MAP, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "maximum with uneven padding": ("MaxPool", MAP, {}, {"kernel_shape": [2, 2], "pads": [0, 1, 1, 1]}),
    "clip at both ends": ("Clip", MAP, {"low": np.array(-0.5, F32), "high": np.array(0.25, F32)}, {}),
    "clip as relu6": ("Clip", MAP, {"low": np.array(0, F32), "high": np.array(6, F32)}, {}),
    "another hard sigmoid": ("HardSigmoid", MAP, {}, {"alpha": 0.3, "beta": 0.4}),
    "sum over the last axes": ("ReduceSum", MAP, {"axes": np.array([-1, 2], I64)}, {"keepdims": 0}),
    "length over an axis": ("ReduceL2", MAP, {"axes": np.array([1], I64)}, {}),
    "gather from the end": ("Gather", MAP, {"places": np.array([-1, 0], I64)}, {"axis": 1}),
    "every second row": (
        "Slice", MAP, {"a": np.array([0], I64), "b": np.array([99], I64), "c": np.array([2], I64),
        "d": np.array([2], I64)}, {}
    ),
    "zeros around two axes": (
        "Pad", MAP,
        {"pads": np.array([1, 0, 0, 2], I64), "value": np.array(0.5, F32), "axes": np.array([1, 3], I64)}, {}
    ),
    "mirrored edges": ("Pad", MAP, {"pads": np.array([0, 0, 1, 2, 0, 0, 2, 1], I64)}, {"mode": "reflect"}),
    "layer normalisation": (
        "LayerNormalization", (5, 6), {"w": np.arange(6, dtype=F32), "b": np.ones(6, F32)}, {"axis": -1}
    ),
    "gemm transposed": ("Gemm", (6,), {"w": np.eye(6, dtype=F32)[:3], "b": np.ones(3, F32)}, {"transB": 1}),
    "gemm with factors": ("Gemm", (6,), {"w": np.eye(6, dtype=F32), "b": np.ones(6, F32)}, {"alpha": 0.5, "beta": 2.0}),
    "gelu by tanh": ("Gelu", MAP, {}, {"approximate": "tanh"}),
    "a number added": ("Add", MAP, {"n": np.array([0.5], F32)}, {}),
    "dilated convolution": (
        "Conv", MAP, {"w": np.ones((2, 4, 3, 3), F32)}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}
    ),
    "convolution with uneven padding": ("Conv", MAP, {"w": np.ones((2, 4, 3, 3), F32)}, {"pads": [0, 1, 2, 1]}),
    "flatten late": ("Flatten", MAP, {}, {"axis": 2}),
    "a copied length": ("Reshape", MAP, {"shape": np.array([0, 0, -1], I64)}, {}),
    "tanh": ("Tanh", MAP, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_NODE)
def test_an_operator_does_what_onnx_says(case: str) -> None:
    kind, shape, constants, attributes = ONE_NODE[case]
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(F32)
    graph = model([helper.make_node(kind, ["x", *constants], ["y"], **attributes)], shape, constants)
    found = translate(graph, {"x": torch.from_numpy(x)}, ["y"])(torch.from_numpy(x))[0]
    np.testing.assert_allclose(found.numpy(), run(graph, {"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_hints_at_a_layout_are_left_out() -> None:
    name = f"{LAYOUT_HINT}x"
    nodes = [
        helper.make_node("MaxPool", ["x"], [name], name=name, kernel_shape=[1, 1]),
        helper.make_node("Relu", [name], ["y"]),
    ]
    module = translate(model(nodes, MAP, {}), {"x": torch.zeros(2, *MAP)}, ["y"])
    assert [node.target for node in module.graph.nodes if node.op == "call_function"] == [torch.relu]


def test_what_depends_on_constants_alone_is_worked_out_beforehand() -> None:
    constants = {"a": np.ones((4, 1, 1), F32), "b": np.ones((4, 1, 1), F32)}
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Mul", ["x", "c"], ["y"])]
    module = translate(model(nodes, MAP, constants), {"x": torch.zeros(2, *MAP)}, ["y"])
    assert [node.target for node in module.graph.nodes if node.op == "call_function"] == [torch.mul]


def test_no_name_of_the_graph_gets_into_the_code() -> None:
    hostile = '"\n    import os; os.abort()\n#'
    nodes = [helper.make_node("Relu", ["x"], [hostile], name=hostile), helper.make_node("Neg", [hostile], ["y"])]
    graph = model(nodes, MAP, {})
    module = translate(graph, {"x": torch.zeros(2, *MAP)}, ["y"])
    assert "abort" not in module.code


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Einsum", ["x"], ["y"], equation="nchw->nhwc"), "Einsum"),
        (helper.make_node("MaxPool", ["x"], ["y", "z"], kernel_shape=[2, 2]), "MaxPool with indices"),
        (helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), "Conv with automatic padding"),
        (helper.make_node("Tanhh", ["x"], ["y"], domain="com.example"), "com.example.Tanhh"),
    ],
)
def test_what_has_no_equivalent_is_named(node: onnx.NodeProto, reason: str) -> None:
    graph = helper.make_graph([node], "graph", [], [], [numpy_helper.from_array(np.ones((2, 4, 3, 3), F32), "w")])
    with pytest.raises(ModelError, match=f"no torch equivalent of {reason}"):
        translate(helper.make_model(graph), {"x": torch.zeros(2, *MAP)}, ["y"])


def test_what_torch_refuses_is_an_error_of_ours() -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    graph = helper.make_graph(nodes, "graph", [], [], [numpy_helper.from_array(np.array([7, 7], I64), "shape")])
    with pytest.raises(ModelError, match="Reshape"):
        translate(helper.make_model(graph), {"x": torch.zeros(2, *MAP)}, ["y"])


def test_the_table_is_sorted() -> None:
    assert list(OPERATORS) == sorted(OPERATORS)
