"""Layout hints: they change no value, and stand only where they help."""

from __future__ import annotations

import numpy as np
from onnx import helper

from cascades import analysed, segments
from edgeexit.manifest import LAYOUT_HINT
from edgeexit_exporters.chain import Chain
from edgeexit_exporters.exits import choose_cuts
from edgeexit_exporters.layout import with_layout_hints
from edgeexit_exporters.probe import Axis, TensorInfo
from zoo import specimen


def info(*shape: int, dtype: str = "float32") -> TensorInfo:
    return TensorInfo(dtype, (Axis(1, 0), *(Axis(0, length) for length in shape)))


BLOCK = [
    helper.make_node("Conv", ["x", "w"], ["y"]),
    helper.make_node("Add", ["y", "x"], ["z"]),
    helper.make_node("Relu", ["z"], ["out"]),
]


def hints(nodes: list, infos: dict[str, TensorInfo]) -> list[str]:
    return [node.name for node in with_layout_hints(nodes, ["x"], infos) if node.name.startswith(LAYOUT_HINT)]


def test_a_shortcut_that_enters_the_segment_gets_one_hint_that_all_its_readers_use() -> None:
    changed = with_layout_hints(BLOCK, ["x"], {"x": info(16, 8, 8)})
    assert [node.op_type for node in changed] == ["MaxPool", "Conv", "Add", "Relu"]
    assert changed[1].input[0] == changed[2].input[1] == LAYOUT_HINT + "x"


def test_channels_that_do_not_fill_the_blocks_get_none() -> None:
    assert hints(BLOCK, {"x": info(12, 8, 8)}) == []


def test_other_dtypes_and_ranks_get_none() -> None:
    assert hints(BLOCK, {"x": info(16, 8, 8, dtype="float16")}) == []
    assert hints(BLOCK, {"x": info(16, 8)}) == []


def test_a_tensor_that_is_not_added_gets_none() -> None:
    assert hints(BLOCK[:1], {"x": info(16, 8, 8)}) == []


def test_the_nodes_given_are_left_as_they_were() -> None:
    before = [node.SerializeToString() for node in BLOCK]
    with_layout_hints(BLOCK, ["x"], {"x": info(16, 8, 8)})
    assert [node.SerializeToString() for node in BLOCK] == before


def test_hints_change_no_value() -> None:
    built = specimen("residual")
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto")
    found = segments(analysis, cuts)
    with_hints = Chain(found, threads=1).logits(built.inputs)
    for segment in found:
        graph = segment.model.graph
        names = {node.output[0]: node.input[0] for node in graph.node if node.name.startswith(LAYOUT_HINT)}
        for node in [node for node in graph.node if node.name.startswith(LAYOUT_HINT)]:
            graph.node.remove(node)
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
    for one, other in zip(with_hints, Chain(found, threads=1).logits(built.inputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
