"""Segments without their heads, made from bytes."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeexit.errors import BundleError
from edgeexit.manifest import FileEntry, SegmentEntry
from edgeexit_runtime.headless import headless_graph
from edgeexit_runtime.merge import without_head
from edgeexit_runtime.protobuf import length_delimited
from runtime.cascades import float_spec, tiny_parts

F32 = np.float32
GRAPH_FIELD = 7
UNKNOWN_FIELD = 777


def segment_entry(*outputs: str, policy: tuple[str, ...] = ()) -> SegmentEntry:
    return SegmentEntry(
        file=FileEntry(path="segments/00.onnx", sha256="0" * 64, size_bytes=1),
        inputs=(float_spec("x", 2),),
        policy_inputs=tuple(float_spec(name, 2) for name in policy),
        outputs=tuple(float_spec(name, 2) for name in outputs),
        logits="logits",
        macs=1,
        params=1,
        head_macs=0,
        head_params=0,
    )


def value(name: str, *shape: object) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or ("n", 2))


def choosing(reads: str) -> dict[str, Any]:
    """The branches of an `If` that read a tensor from outside."""
    return {
        f"{branch}_branch": helper.make_graph(
            [helper.make_node(op, [reads], [f"{reads}.{branch}"])], branch, [], [value(f"{reads}.{branch}")]
        )
        for branch, op in (("then", "Neg"), ("else", "Identity"))
    }


def model(nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str], **tensors: list[float]) -> bytes:
    stored = [numpy_helper.from_array(np.array(numbers, F32), name) for name, numbers in tensors.items()]
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph(nodes, "g", [value(name) for name in inputs], list(map(value, outputs)), [*stored, yes])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return data


def with_branches() -> bytes:
    """The backbone and the head each have an `If` whose branches alone read `shift` and `scale`."""
    return model(
        [
            helper.make_node("Add", ["x", "one"], ["shift"]),
            helper.make_node("If", ["yes"], ["h"], **choosing("shift")),
            helper.make_node("Mul", ["h", "two"], ["scale"]),
            helper.make_node("If", ["yes"], ["logits"], **choosing("scale")),
        ],
        ["x"],
        ["h", "logits"],
        one=[1, 1],
        two=[2, 2],
    )


@cache
def tiny_segment() -> tuple[bytes, SegmentEntry]:
    manifest, contents = tiny_parts()
    return contents[manifest.segments[1].file.path], manifest.segments[1]


def run(data: bytes) -> list[Any]:
    return list(ort.InferenceSession(data).run(None, {"x": np.array([[3.0, -1.0]], F32)}))


@pytest.mark.parametrize("pictures", [False, True])
def test_it_is_what_onnx_itself_would_leave(pictures: bool) -> None:
    manifest, contents = tiny_parts(pictures=pictures)
    for entry in manifest.segments:
        ours = headless_graph(contents[entry.file.path], entry)
        theirs = without_head(contents[entry.file.path], entry)
        found, expected = (onnx.load_from_string(made.data).graph for made in (ours, theirs))
        assert list(found.node) == list(expected.node)
        assert {tensor.name for tensor in found.initializer} == {tensor.name for tensor in expected.initializer}
        assert (list(found.input), list(found.output)) == (list(expected.input), list(expected.output))
        assert ours.policy_inputs == theirs.policy_inputs == frozenset()


def test_what_branches_read_from_outside_stays() -> None:
    headless = headless_graph(with_branches(), segment_entry("h"))
    np.testing.assert_array_equal(run(headless.data), [[[-4.0, 0.0]]])
    assert [node.op_type for node in onnx.load_from_string(headless.data).graph.node] == ["Add", "If"]


def test_weights_of_the_head_go_with_it() -> None:
    graph = onnx.load_from_string(headless_graph(with_branches(), segment_entry("h")).data).graph
    assert [tensor.name for tensor in graph.initializer] == ["one", "yes"]


def test_a_policy_input_that_the_backbone_reads_too_stays() -> None:
    nodes = [
        helper.make_node("Add", ["x", "mean"], ["h"]),
        helper.make_node("Mul", ["h", "weight"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["logits"]),
    ]
    data = model(nodes, ["x", "mean", "weight"], ["h", "logits"])
    headless = headless_graph(data, segment_entry("h", policy=("mean", "weight")))
    assert headless.policy_inputs == {"mean"}
    assert [value.name for value in onnx.load_from_string(headless.data).graph.input] == ["x", "mean"]


def test_an_input_that_nobody_reads_stays() -> None:
    data = model(
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["y"], ["logits"])], ["x", "y"], ["h"]
    )
    headless = headless_graph(data, segment_entry("h"))
    assert [value.name for value in onnx.load_from_string(headless.data).graph.input] == ["x", "y"]


def test_all_outputs_of_a_kept_node_are_known() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["first", "second"], axis=1, num_outputs=2),
        helper.make_node("Concat", ["second", "second"], ["h"], axis=1),
        helper.make_node("Neg", ["first"], ["logits"]),
    ]
    headless = headless_graph(model(nodes, ["x"], ["h", "logits"]), segment_entry("h"))
    np.testing.assert_array_equal(run(headless.data), [[[-1.0, -1.0]]])


def test_the_order_of_the_nodes_does_not_matter() -> None:
    nodes = [helper.make_node("Neg", ["m"], ["h"]), helper.make_node("Relu", ["x"], ["m"])]
    graph = onnx.load_from_string(headless_graph(model(nodes, ["x"], ["h"]), segment_entry("h")).data).graph
    assert [node.op_type for node in graph.node] == ["Neg", "Relu"]


def test_fields_that_nobody_knows_are_kept() -> None:
    inside = length_delimited(UNKNOWN_FIELD, b"in the graph")
    outside = length_delimited(UNKNOWN_FIELD, b"in the model")
    data = with_branches() + length_delimited(GRAPH_FIELD, inside) + outside
    pruned = headless_graph(data, segment_entry("h")).data
    assert inside in pruned
    assert outside in pruned


def test_a_graph_that_is_written_in_two_parts_is_read_as_one() -> None:
    parted = onnx.load_from_string(with_branches())
    node = parted.graph.node[0]
    parted.graph.node.remove(node)
    data = parted.SerializeToString() + length_delimited(GRAPH_FIELD, length_delimited(1, node.SerializeToString()))
    pruned = onnx.load_from_string(headless_graph(data, segment_entry("h")).data)
    assert [node.op_type for node in pruned.graph.node] == ["If", "Add"]


def test_a_boundary_tensor_that_the_graph_does_not_give_is_named() -> None:
    with pytest.raises(BundleError, match="expected: h2"):
        headless_graph(with_branches(), segment_entry("h", "h2"))


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x3a\xff\xff\xff\x0f", b"\x07", b"\x00\x00", b"\x80" * 11, b"\x3a\x02\x0a\x05"]
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        headless_graph(data, segment_entry("h"))


@given(st.data())
def test_mutated_bytes_give_a_graph_or_a_bundle_error(data: st.DataObject) -> None:
    original, entry = tiny_segment()
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    del mutated[data.draw(st.integers(1, len(mutated))) :]
    with contextlib.suppress(BundleError):
        assert len(headless_graph(bytes(mutated), entry).data) <= len(mutated) + 10


@given(st.binary(max_size=200))
def test_any_bytes_give_a_graph_or_a_bundle_error(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        headless_graph(data, segment_entry())
