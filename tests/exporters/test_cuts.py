"""Where a graph can be cut, and which cuts get exits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascades import analysed
from edgeexit.errors import UsageError
from edgeexit_exporters.analysis import Analysis, analyse
from edgeexit_exporters.cuts import Cut, candidates, cut_after, enumerate_cuts, evenly_spread
from edgeexit_exporters.exits import choose_cuts, logits_before_softmax
from edgeexit_exporters.normalise import normalise
from zoo import specimen


def analysis_of(name: str) -> Analysis:
    built = specimen(name)
    return analysed(built.model, built.inputs)


def cuts_of(analysis: Analysis) -> list[Cut]:
    return enumerate_cuts(analysis.graph, analysis.infos, analysis.macs, analysis.stages)


def test_every_activation_but_the_logits_is_a_position() -> None:
    analysis = analysis_of("residual")
    assert [cut.after for cut in cuts_of(analysis)] == [
        name for name in analysis.graph.activations if name not in analysis.graph.outputs
    ]


def test_inside_a_residual_block_the_shortcut_crosses_too() -> None:
    analysis = analysis_of("residual")
    adds = {node.output[0] for node in analysis.graph.nodes if node.op_type == "Add"}
    counts = {len(cut.live) for cut in cuts_of(analysis) if cut.after not in adds}
    assert 2 in counts


def test_bytes_are_those_of_one_sample_of_all_live_tensors() -> None:
    analysis = analysis_of("two-inputs")
    for cut in cuts_of(analysis):
        assert cut.size_bytes == sum(analysis.infos[name].size_bytes for name in cut.live)


def test_work_before_a_cut_grows_from_cut_to_cut_that_contains_it() -> None:
    analysis = analysis_of("branches")
    found = cuts_of(analysis)
    for one in found:
        for other in found:
            if one.done & other.done == one.done:
                assert one.macs_before <= other.macs_before


def test_candidates_are_one_a_step_of_work_in_order_and_inside_the_model() -> None:
    analysis = analysis_of("squeeze-excite")
    found = candidates(analysis.graph, analysis.infos, analysis.macs, cuts_of(analysis))
    spent = [cut.macs_before for cut in found]
    assert spent == sorted(set(spent))
    assert spent[0] > 0
    assert spent[-1] < sum(analysis.macs)


@given(spent=st.lists(st.integers(1, 999), min_size=1, max_size=30, unique=True), data=st.data())
def test_a_number_of_exits_gets_that_many_different_cuts_in_order(spent: list[int], data: st.DataObject) -> None:
    cuts = [Cut(str(macs), 0, ("t",), 4, macs, None) for macs in sorted(spent)]
    number = data.draw(st.integers(1, len(cuts)))
    chosen = evenly_spread(cuts, number, 1000)
    assert len({cut.after for cut in chosen}) == number
    assert [cut.macs_before for cut in chosen] == sorted(cut.macs_before for cut in chosen)


def test_three_exits_among_many_places_are_near_quarters_of_the_work() -> None:
    cuts = [Cut(str(macs), 0, ("t",), 4, macs, None) for macs in range(10, 1000, 10)]
    assert [cut.macs_before for cut in evenly_spread(cuts, 3, 1000)] == [250, 500, 750]


def test_more_exits_than_places_are_refused_with_the_number_of_places() -> None:
    analysis = analysis_of("squeeze-excite")
    with pytest.raises(UsageError) as refused:
        choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), "99")
    assert "at most" in str(refused.value.expected)


def test_a_cut_is_chosen_by_the_name_of_its_tensor() -> None:
    analysis = analysis_of("residual")
    name = candidates(analysis.graph, analysis.infos, analysis.macs, cuts_of(analysis))[1].after
    (cut,) = choose_cuts(analysis.graph, analysis.infos, analysis.macs, (), name)
    assert cut.after == name


def test_a_name_that_is_no_tensor_is_refused_and_near_ones_are_named() -> None:
    analysis = analysis_of("residual")
    real = analysis.graph.activations[3]
    with pytest.raises(UsageError) as refused:
        cut_after(analysis.graph, analysis.infos, analysis.macs, real[:-1] or "x")
    assert real in str(refused.value.expected)


def test_between_the_models_of_a_cascade_only_the_input_crosses() -> None:
    built = specimen("residual")
    models = [normalise(built.model), normalise(built.model)]
    analysis = analyse(models, ["small", "big"], built.inputs)
    done = analysis.own[0].done(analysis.graph, analysis.stages)
    assert analysis.graph.live(done) == list(built.inputs)
    assert [own.name for own in analysis.own] == ["small", "big"]


def test_a_cut_inside_the_second_model_comes_after_all_of_the_first() -> None:
    built = specimen("residual")
    models = [normalise(built.model), normalise(built.model)]
    analysis = analyse(models, ["small", "big"], built.inputs)
    later = [cut for cut in cuts_of(analysis) if cut.after.startswith("model1.")]
    assert later
    assert all(cut.done & analysis.stages[0] == analysis.stages[0] for cut in later)


def test_the_whole_models_macs_are_those_of_the_last_model_alone() -> None:
    built = specimen("residual")
    alone = analysed(built.model, built.inputs).whole_macs
    both = analyse([normalise(built.model)] * 2, ["small", "big"], built.inputs)
    assert both.whole_macs == alone


def test_logits_are_taken_before_a_final_softmax() -> None:
    import onnx

    built = specimen("residual")
    model = built.model
    output = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Softmax", [output], ["probabilities"], axis=-1))
    model.graph.output[0].name = "probabilities"
    analysis = analysed(model, built.inputs)
    assert analysis.own[0].tensor == output
    assert logits_before_softmax(analysis.graph, output) == output
