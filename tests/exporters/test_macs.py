"""Counting: one MAC is one multiplication with its addition, for one sample."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cascades import analysed
from edgeexit_exporters.macs import count_params
from zoo import Specimen, resnet18, specimen


def one_layer(node: str, shape: list[int], weight: list[int], **attributes: object) -> Specimen:
    """A model of one layer, then a global pool to 2 classes by a matrix product of known cost."""
    array = np.zeros(weight, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node(node, ["x", "w"], ["y"], **attributes),
            helper.make_node("Flatten", ["y"], ["flat"]),
            helper.make_node("ReduceMean", ["flat", "axes"], ["mean"], keepdims=1),
            helper.make_node("MatMul", ["mean", "head"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(array, "w"),
            numpy_helper.from_array(np.zeros((1, 2), dtype=np.float32), "head"),
            numpy_helper.from_array(np.asarray([1]), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return Specimen(model, {"x": np.zeros((4, *shape), dtype=np.float32)}, 2)


HEAD = 2


def test_resnet18_at_224_has_the_published_1_81_gmacs() -> None:
    pytest.importorskip("torch")
    built = resnet18(224)
    analysis = analysed(built.model, built.inputs)
    assert analysis.whole_macs == pytest.approx(1.814e9, rel=0.001)
    assert analysis.whole_params == pytest.approx(11.69e6, rel=0.001)


@pytest.mark.parametrize(
    ("node", "shape", "weight", "attributes", "expected"),
    [
        ("Conv", [3, 8, 8], [16, 3, 3, 3], {"pads": [1, 1, 1, 1]}, 16 * 8 * 8 * 3 * 9),
        ("Conv", [8, 8, 8], [8, 1, 3, 3], {"group": 8, "pads": [1, 1, 1, 1]}, 8 * 8 * 8 * 9),
        ("ConvTranspose", [4, 5, 5], [4, 6, 2, 2], {"strides": [2, 2]}, 4 * 5 * 5 * 6 * 4),
        ("MatMul", [7, 10], [10, 12], {}, 7 * 10 * 12),
        ("Gemm", [10], [10, 12], {}, 10 * 12),
        ("Einsum", [7, 10], [10, 12], {"equation": "bij,jk->bik"}, 7 * 10 * 12),
    ],
)
def test_a_layer_counts_its_products(
    node: str, shape: list[int], weight: list[int], attributes: dict[str, object], expected: int
) -> None:
    built = one_layer(node, shape, weight, **attributes)
    assert analysed(built.model, built.inputs).whole_macs == expected + HEAD


def test_work_that_depends_on_no_input_counts_nothing() -> None:
    built = one_layer("MatMul", [10], [10, 12])
    folded = helper.make_node("MatMul", ["w", "v"], ["w2"])
    built.model.graph.initializer.append(numpy_helper.from_array(np.eye(12, dtype=np.float32), "v"))
    built.model.graph.node.insert(0, folded)
    built.model.graph.node[1].input[1] = "w2"
    assert analysed(built.model, built.inputs).whole_macs == 120 + HEAD


def test_macs_do_not_depend_on_the_batch_of_the_example() -> None:
    built = specimen("residual")
    few = analysed(built.model, {name: array[:1] for name, array in built.inputs.items()})
    assert few.macs == analysed(built.model, built.inputs).macs


def test_scalars_and_shape_constants_are_no_parameters() -> None:
    built = one_layer("MatMul", [10], [10, 12])
    analysis = analysed(built.model, built.inputs)
    assert count_params(analysis.graph) == 120 + HEAD
