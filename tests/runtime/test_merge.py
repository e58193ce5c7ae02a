"""Graphs without heads, and the model as it was."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.errors import BundleError, MissingPartError
from edgeexit.manifest import SegmentEntry
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.backends.onnx_graph import Graph
from edgeexit_runtime.merge import Merged, whole_model, without_head
from runtime.cascades import F32, float_spec, forward, tiny_parts, weights

onnx = pytest.importorskip("onnx")

MANIFEST, CONTENTS = tiny_parts()
ENTRIES = MANIFEST.segments
SEGMENTS = [CONTENTS[entry.file.path] for entry in ENTRIES]
X = np.random.default_rng(0).standard_normal((7, 4)).astype(F32)


def run(merged: Merged, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
    constants = {name: weights()[name] for name in merged.policy_inputs}
    return Graph(merged.data, "merged", SessionSettings(), constants=constants).run(inputs)


def operators(merged: Merged) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(merged.data).graph.node]


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any], opset: int = 18) -> bytes:
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initialisers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def value(name: str, *shape: Any) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])


def entry(inputs: str, outputs: str, logits: str = "logits") -> SegmentEntry:
    return msgspec.structs.replace(
        ENTRIES[-1],
        inputs=tuple(float_spec(name, 4) for name in inputs.split()),
        outputs=tuple(float_spec(name, 4) for name in outputs.split()),
        logits=logits,
    )


def test_the_whole_model_gives_the_last_exits_logits() -> None:
    (logits,) = run(whole_model(SEGMENTS, ENTRIES), X)
    np.testing.assert_allclose(logits, forward(X)[-1], rtol=1e-5, atol=1e-5)


def test_the_whole_model_has_no_heads_and_no_policy_inputs() -> None:
    merged = whole_model(SEGMENTS, ENTRIES)
    assert merged.policy_inputs == frozenset()
    assert "Gemm" not in operators(merged)


def test_a_segment_without_its_head_gives_its_boundary_alone() -> None:
    merged = without_head(SEGMENTS[0], ENTRIES[0])
    (h0,) = run(merged, X)
    np.testing.assert_allclose(h0, np.maximum(X @ weights()["a0"], 0), rtol=1e-5, atol=1e-5)
    assert operators(merged) == ["MatMul", "Relu"]


def test_the_small_model_of_a_cascade_is_no_part_of_the_whole() -> None:
    node = onnx.helper.make_node
    small = model(
        [node("MatMul", ["x", "w"], ["logits"])], [value("x", 4)], [value("logits", 3)], {"w": np.ones((4, 3), F32)}
    )
    big = model(
        [node("MatMul", ["x", "w"], ["logits"])], [value("x", 4)], [value("logits", 3)], {"w": np.full((4, 3), 2, F32)}
    )
    merged = whole_model([small, big], [entry("x", ""), entry("x", "")])
    np.testing.assert_allclose(run(merged, X)[0], X @ np.full((4, 3), 2, F32), rtol=1e-6)
    assert operators(merged) == ["MatMul"]


def test_equal_names_in_two_segments_do_not_meet() -> None:
    node = onnx.helper.make_node
    first = model(
        [node("Mul", ["x", "w"], ["t"]), node("Relu", ["t"], ["h"]), node("Neg", ["h"], ["logits"])],
        [value("x", 4)],
        [value("h", 4), value("logits", 4)],
        {"w": F32(3)},
    )
    second = model(
        [node("Mul", ["h", "w"], ["t"]), node("Neg", ["t"], ["logits"])],
        [value("h", 4)],
        [value("logits", 4)],
        {"w": F32(5)},
    )
    merged = whole_model([first, second], [entry("x", "h"), entry("h", "")])
    np.testing.assert_allclose(run(merged, X)[0], -15 * np.maximum(X, 0), rtol=1e-6)


def test_a_subgraph_keeps_what_it_reads_from_outside() -> None:
    node, helper = onnx.helper.make_node, onnx.helper

    def branch(factor: str) -> Any:
        return helper.make_graph(
            [node("Mul", ["t", factor], ["out"])], factor, [], [helper.make_tensor_value_info("out", 1, None)]
        )

    conditional = helper.make_node("If", ["yes"], ["h"], then_branch=branch("w"), else_branch=branch("v"))
    first = model(
        [node("Neg", ["x"], ["t"]), conditional, node("Abs", ["h"], ["logits"])],
        [value("x", 4)],
        [value("h", 4), value("logits", 4)],
        {"w": F32(2), "v": F32(9), "yes": np.array(True)},
    )
    second = model([node("Neg", ["h"], ["logits"])], [value("h", 4)], [value("logits", 4)], {"w": F32(1)})
    merged = whole_model([first, second], [entry("x", "h"), entry("h", "")])
    np.testing.assert_allclose(run(merged, X)[0], 2 * X, rtol=1e-6)


def test_segments_of_different_opsets_are_not_merged() -> None:
    node = onnx.helper.make_node
    first = model(
        [node("Relu", ["x"], ["h"]), node("Neg", ["h"], ["logits"])],
        [value("x", 4)],
        [value("h", 4), value("logits", 4)],
        {},
        19,
    )
    second = model([node("Neg", ["h"], ["logits"])], [value("h", 4)], [value("logits", 4)], {})
    with pytest.raises(BundleError, match="another opset"):
        whole_model([first, second], [entry("x", "h"), entry("h", "")])


def test_bytes_that_are_no_graph_are_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        without_head(b"\xff\xff", ENTRIES[0])


def test_without_onnx_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingPartError, match="onnx"):
        without_head(SEGMENTS[0], ENTRIES[0])
