"""Splitting changes nothing: the chain of segments is the whole graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascades import analysed, points, run, segments
from edgeexit.errors import ModelError
from edgeexit_exporters.chain import Chain
from edgeexit_exporters.cuts import enumerate_cuts
from edgeexit_exporters.exits import choose_cuts
from edgeexit_exporters.graph import Graph, bits
from edgeexit_exporters.normalise import normalise
from edgeexit_exporters.split import split
from zoo import CUTTABLE, ZOO, needs, specimen

RELATIVE = 1e-5
RELATIVE_HALF = 2e-3
PURE = [name for name in CUTTABLE if not needs(name)]


def require(name: str) -> None:
    for package in needs(name):
        pytest.importorskip(package)


def whole_logits(name: str, rows: int) -> np.ndarray:
    """What ONNX Runtime answers for the untouched model, batch by batch where its batch is fixed."""
    built = specimen(name)
    inputs = {key: array[:rows] for key, array in built.inputs.items()}
    fixed = built.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    parts = [{k: a[i : i + fixed] for k, a in inputs.items()} for i in range(rows)] if fixed else [inputs]
    outputs = [run(built.model, part) for part in parts]
    analysis = analysed(built.model, built.inputs)
    name_of_last = analysis.own[-1].name
    return np.concatenate([output[name_of_last].reshape(-1, built.classes) for output in outputs])


@pytest.mark.parametrize("kind", ["gaussian", "class-means"])
@pytest.mark.parametrize("name", CUTTABLE)
def test_with_nobody_leaving_the_chain_equals_the_whole_model(name: str, kind: str) -> None:
    require(name)
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    cuts = (
        choose_cuts(analysis.graph, analysis.infos, analysis.macs, analysis.stages, "auto")
        if ZOO[name].exits == 1
        else ()
    )
    chain = Chain(segments(analysis, cuts, kind), threads=1)
    half = any(info.dtype == "float16" for info in analysis.infos.values())
    for rows in (1, 4):
        expected = whole_logits(name, rows)
        found = chain.logits({key: array[:rows] for key, array in built.inputs.items()})[-1]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=(RELATIVE_HALF if half else RELATIVE) * scale)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_legal_cuts_give_the_whole_model(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(PURE))
    if ZOO[name].exits > 1:
        return
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    legal = [
        cut
        for cut in enumerate_cuts(analysis.graph, analysis.infos, analysis.macs)
        if cut.obstacle is None and cut.macs_before > 0 and np.issubdtype(analysis.infos[cut.after].dtype, np.floating)
    ]
    chosen = data.draw(st.lists(st.sampled_from(legal), max_size=4, unique_by=lambda cut: cut.after))
    chosen.sort(key=lambda cut: cut.macs_before)
    found = Chain(segments(analysis, chosen), threads=1).logits(built.inputs)[-1]
    expected = whole_logits(name, 4)
    half = any(info.dtype == "float16" for info in analysis.infos.values())
    limit = (RELATIVE_HALF if half else RELATIVE) * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", PURE)
def test_no_node_of_the_model_runs_twice(name: str) -> None:
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto") if ZOO[name].exits == 1 else ()
    parts = [segment.nodes for segment in segments(analysis, cuts)]
    assert all(not a & b for i, a in enumerate(parts) for b in parts[i + 1 :])
    every = sum(1 << i for i in range(len(analysis.graph.nodes)) if analysis.graph.is_activation_node(i))
    assert sum(parts) == every


@pytest.mark.parametrize("name", PURE)
def test_a_segment_takes_only_what_inputs_and_earlier_segments_give(name: str) -> None:
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto") if ZOO[name].exits == 1 else ()
    known = set(built.inputs)
    for segment in segments(analysis, cuts):
        assert set(segment.inputs) <= known
        known |= set(segment.outputs)


@pytest.mark.parametrize("name", ["baked-batch", "mixed-samples", "sequence-first", "one-node"])
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(name: str) -> None:
    built = specimen(name)

    def find_cuts() -> None:
        analysis = analysed(built.model, built.inputs)
        choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto")

    with pytest.raises(ModelError) as refused:
        find_cuts()
    assert refused.value.got or refused.value.expected
    assert refused.value.remedy


@pytest.mark.parametrize("name", ["bert/script", "text-encoder/script"])
def test_the_attention_mask_reaches_every_segment_with_attention(name: str) -> None:
    require(name)
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto")
    parts = segments(analysis, cuts)
    from_mask = Graph(analysis.graph.model)
    for segment in parts:
        attends = any(from_mask.nodes[i].op_type == "Softmax" for i in bits(segment.nodes))
        mask_tensors = {n for n in segment.inputs if _depends_on(analysis.graph, n, "attention_mask")}
        assert not attends or mask_tensors or "attention_mask" in segment.inputs


def _depends_on(graph: Graph, tensor: str, name: str) -> bool:
    if tensor == name:
        return True
    return any(name in graph.uses[i] for i in bits(graph.needs([tensor])))


def test_early_cuts_of_a_bert_are_found_although_the_mask_crosses_too() -> None:
    require("bert/script")
    built = specimen("bert/script")
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto")
    assert cuts[0].macs_before < 0.3 * sum(analysis.macs)


def test_a_shape_is_worked_out_again_where_its_tensor_is_gone() -> None:
    built = specimen("shape-of-activation")
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto")
    chain = Chain(segments(analysis, cuts), threads=1)
    rows = {key: array[:3] for key, array in built.inputs.items()}
    logits = chain.logits(rows)
    assert all(values.shape == (3, built.classes) for values in logits)


@pytest.mark.parametrize("name", ["vit/script", "resnet/dynamo"])
def test_segments_carry_nothing_of_the_workstation(name: str) -> None:
    require(name)
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto")
    for segment in segments(analysis, cuts):
        data = segment.model.SerializeToString()
        assert b".py" not in data
        assert b"site-packages" not in data
        assert not segment.model.producer_name


@pytest.mark.parametrize("name", PURE)
def test_segments_are_valid_and_within_the_bundles_limits(name: str) -> None:
    built = specimen(name)
    analysis = analysed(built.model, built.inputs)
    cuts = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "auto") if ZOO[name].exits == 1 else ()
    for segment in segments(analysis, cuts):
        onnx.checker.check_model(segment.model)
        assert segment.model.ir_version <= 10
        assert next(e.version for e in segment.model.opset_import if e.domain == "") in range(18, 21)
        for value in [*segment.model.graph.input][: len(segment.inputs)]:
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_segment_k_of_a_multi_exit_model_is_what_exit_k_needs_and_no_earlier_segment_computed() -> None:
    built = specimen("three-exits")
    analysis = analysed(built.model, built.inputs)
    exits = points(analysis, ())
    parts = split(analysis.graph, analysis.infos, exits, analysis.classes)
    done = 0
    for own, segment in zip(analysis.own, parts, strict=True):
        needed = analysis.graph.needs([own.tensor])
        assert segment.nodes == needed & ~done
        done |= needed


def test_normalising_twice_changes_nothing() -> None:
    built = specimen("old-file")
    once = normalise(built.model)
    assert normalise(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
