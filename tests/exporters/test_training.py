"""`--head trained`: torch learns on what ONNX Runtime reads out of the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeexit.bundle import Bundle
from edgeexit.data import Dataset, open_files
from edgeexit.errors import DataError, MissingPartError, ModelError, UsageError
from edgeexit.manifest import Preprocessing, TensorSpec
from edgeexit_exporters import training
from edgeexit_exporters.analysis import Analysis, analyse
from edgeexit_exporters.candidates import candidate_cuts
from edgeexit_exporters.exits import place
from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.loading import Prepared
from edgeexit_exporters.normalise import normalise
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime import Cascade
from edgeexit_runtime.verification import verify
from integration.material import classifier, encoder, normalised, pictures, save_arrays, sentences
from zoo_onnx import CLASSES, Sketch

torch = pytest.importorskip("torch", reason="needs edgeexit[train]")
pytest.importorskip("onnxscript", reason="needs edgeexit-exporters[torch]")

from edgeexit_exporters.activations import GraphActivations, GraphFeed  # noqa: E402  torch may be missing


def muted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a tensor "mute" in it, from which nothing can be learnt."""
    graph = model.graph
    at = next(i for i, node in enumerate(graph.node) if node.op_type == "Relu")
    source = graph.node[at].output[0]
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "nothing"))
    for node in graph.node:
        node.input[:] = ["loud" if name == source else name for name in node.input]
    graph.node.insert(at + 1, helper.make_node("Mul", [source, "nothing"], ["mute"]))
    graph.node.insert(at + 2, helper.make_node("Add", [source, "mute"], ["loud"]))
    return model


def ending_in_vectors() -> onnx.ModelProto:
    """A network most of whose work is in linear layers, their activations "hidden0" to "hidden2"."""
    g = Sketch(5)
    x = g("Flatten", g("Relu", g.conv("image", (3, 4), stride=2), output="map"))
    for i in range(3):
        x = g("Relu", g.dense(x, (64 if i == 0 else 96, 96)), output=f"hidden{i}")
    g.dense(x, (96, CLASSES), "logits")
    return g.model({"image": (np.float32, (3, 8, 8))})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    onnx.save(muted(classifier(2, 8)), root / "plain.onnx")
    onnx.save(encoder(), root / "text.onnx")
    pixels, labels = pictures(600, 1)
    save_arrays(root / "labelled.npz", x=normalised(pixels), y=labels)
    save_arrays(root / "bare.npz", x=normalised(pixels))
    save_arrays(root / "calibration.npz", x=normalised(pictures(300, 2)[0]), y=labels[:300])
    save_arrays(root / "text.npz", **sentences(900, 1)[0])
    return root


@pytest.fixture
def bundle(models: Path, tmp_path: Path) -> Callable[..., Bundle]:
    """Export with trained heads and open the result."""

    def make(source: str = "plain", data: str = "labelled", name: str = "bundle", **settings: Any) -> Bundle:
        words = {"epochs": "epochs", "head": "architecture", "search": "trials", "storage": "storage"}
        head = {words[key]: settings.pop(key) for key in list(settings) if key in words}
        calibration = models / "calibration.npz" if settings.pop("calibrated", data != "text") else None
        chosen = ExportSettings(
            head=HeadSettings(kind="trained", **{"epochs": 8, **head}),
            **{"exits": "1", "quiet": True, "threads": 1, "max_drop": 0.2, **settings},
        )
        export(
            [str(models / f"{source}.onnx")], models / f"{data}.npz", tmp_path / name, chosen, calibration=calibration
        )
        return Bundle.open(tmp_path / name)

    return make


@pytest.mark.parametrize(("data", "labels"), [("labelled", "data"), ("bare", "model")])
def test_heads_learn_from_labels_or_without_any(
    bundle: Callable[..., Bundle], models: Path, data: str, labels: str
) -> None:
    found = bundle(data=data, labels=labels)
    first, last = found.manifest.exits
    assert (first.head, last.head) == ("trained", "model")
    assert verify(found, Cascade.open(found)).samples
    x = np.load(models / "calibration.npz")["x"]
    early, whole = Cascade.open(found).logits({found.manifest.inputs[0].name: x})
    assert (early.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.4


def test_the_backbone_does_not_change(bundle: Callable[..., Bundle], models: Path) -> None:
    import onnxruntime

    found = bundle()
    (name,) = (spec.name for spec in found.manifest.inputs)
    x = found.check[f"input.{name}"]
    whole = onnxruntime.InferenceSession(models / "plain.onnx", providers=["CPUExecutionProvider"])
    (want,) = whole.run(["logits"], {"image": x})
    np.testing.assert_allclose(found.check["logits.1"], want, rtol=1e-4, atol=1e-4)


def test_equal_seeds_give_equal_heads(bundle: Callable[..., Bundle]) -> None:
    one, other = (bundle(name=name, seed=5) for name in ("one", "other"))
    for name, array in one.exits.items():
        np.testing.assert_array_equal(array, other.exits[name])


def test_activations_too_large_for_memory_are_computed_anew_each_epoch(
    bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_RECORDED_BYTES", 0)
    found = bundle(labels="model", data="bare")
    assert verify(found, Cascade.open(found)).samples


def test_a_token_head_reads_the_mask(bundle: Callable[..., Bundle]) -> None:
    found = bundle("text", "text", labels="model", head="token@tokens=mean")
    assert [spec.name for spec in found.manifest.segments[0].inputs] == ["input_ids", "attention_mask"]
    assert verify(found, Cascade.open(found)).samples


def test_a_head_that_learns_nothing_is_reported_and_left_out(
    bundle: Callable[..., Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [exit_.name for exit_ in bundle(name="first").manifest.exits]
    capsys.readouterr()
    found = bundle(exits=f"mute,{names[0]}")
    assert [exit_.name for exit_ in found.manifest.exits] == names
    assert "left out: mute" in capsys.readouterr().err


def test_heads_that_all_learn_nothing_are_an_error(bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no exit head learnt anything"):
        bundle(exits="mute", epochs=1)
    assert not (tmp_path / "bundle").exists()


def test_a_search_chooses_each_head(bundle: Callable[..., Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna", reason="needs edgeexit[train]")
    found = bundle(search=2)
    assert found.manifest.exits[0].head == "trained"
    assert f"exit {found.manifest.exits[0].name}: " in capsys.readouterr().err


def test_a_search_that_was_written_down_goes_on(bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="needs edgeexit[train]")
    storage = tmp_path / "search.sqlite"
    for trials in (1, 2, 2):
        bundle(search=trials, storage=str(storage), epochs=2, name=f"bundle{len(list(tmp_path.iterdir()))}")
        (study,) = optuna.get_all_study_summaries(f"sqlite:///{storage}")
        assert study.n_trials == trials


@pytest.mark.parametrize("exits", ["1", "auto"])
def test_a_place_that_the_head_cannot_read_is_no_candidate(exits: str) -> None:
    prepared = Prepared(analysed(ending_in_vectors()), (), Preprocessing(kind="array"), ())
    ranks = {}
    for head in ("auto", "conv:8/16"):
        settings = ExportSettings(head=HeadSettings(kind="trained", architecture=head), exits=exits)
        cuts = candidate_cuts(prepared, settings)
        ranks[head] = {len(prepared.analysis.infos[cut.after].shape) for cut in cuts}
    assert 1 in ranks["auto"]
    assert ranks["conv:8/16"] == {3}


def test_a_named_exit_that_the_head_cannot_read_is_named_in_the_error(
    bundle: Callable[..., Bundle], models: Path
) -> None:
    onnx.save(ending_in_vectors(), models / "vectors.onnx")
    with pytest.raises(UsageError, match="the exit after hidden2 cannot have a head conv:8/16"):
        bundle("vectors", exits="hidden2", head="conv:8/16")
    with pytest.raises(UsageError, match="cannot have a head token"):
        bundle("vectors", exits="auto", head="token")


def test_a_head_may_be_described(bundle: Callable[..., Bundle]) -> None:
    found = bundle(head="linear/24")
    assert found.exits[found.manifest.segments[0].policy_inputs[0].name].shape == (5, 24)
    with pytest.raises(UsageError, match="cannot be read"):
        bundle(head="convolution")


def test_without_torch_the_package_is_named(bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgeexit.training.frozen", None)
    with pytest.raises(MissingPartError, match=r"edgeexit\[train\]"):
        bundle()


def test_labels_of_one_class_are_refused(bundle: Callable[..., Bundle], models: Path) -> None:
    x = np.load(models / "bare.npz")["x"]
    save_arrays(models / "same.npz", x=np.repeat(x[:1], 100, axis=0))
    with pytest.raises(DataError, match="one answer"):
        bundle(data="same", labels="model", calibrated=False)


def analysed(model: onnx.ModelProto) -> Analysis:
    return analyse([normalise(model)], ["plain"], {"image": normalised(pictures(3, 0)[0])})


def test_auto_tries_fewer_places_than_with_heads_that_one_pass_fits() -> None:
    prepared = Prepared(analysed(classifier(6, 8)), (), Preprocessing(kind="array"), ())
    found = [
        candidate_cuts(prepared, ExportSettings(head=HeadSettings(kind=kind), exits="auto"))
        for kind in ("gaussian", "trained")
    ]
    assert len(found[0]) > len(found[1]) == training.MAX_CANDIDATES


@pytest.fixture(scope="module")
def data(models: Path) -> Dataset:
    spec = TensorSpec(name="image", dtype="float32", shape=(3, 8, 8))
    return open_files([models / "bare.npz"], [spec], Preprocessing(kind="array")).take(np.arange(100))


@pytest.fixture(scope="module")
def source() -> GraphActivations:
    analysis = analysed(classifier(2, 8))
    prepared = Prepared(analysis, (), Preprocessing(kind="array"), ())
    cuts = candidate_cuts(prepared, ExportSettings(exits="2"))
    return GraphActivations(analysis, [place(analysis.graph, analysis.infos, cut) for cut in cuts], threads=1)


def test_an_epoch_goes_on_where_it_is_told_to(source: GraphActivations, data: Dataset) -> None:
    feed = GraphFeed(source, data, np.arange(100), batch=30, seed=3)
    whole, rest = list(feed.epoch(2)), list(feed.epoch(2, 1))
    assert len(whole) == feed.steps == 3
    assert len(rest) == 2
    for one, other in zip(whole[1:], rest, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert all(map(torch.equal, one.values, other.values))


def test_epochs_have_orders_of_their_own_and_rows_stay_together(source: GraphActivations, data: Dataset) -> None:
    feed = GraphFeed(source, data, np.arange(100), batch=50, seed=3)
    first, second = (torch.cat([batch.labels for batch in feed.epoch(number)]) for number in (0, 1))
    assert sorted(first.tolist()) == list(range(100)) == sorted(second.tolist())
    assert not torch.equal(first, second)
    in_order = next(iter(GraphFeed(source, data, None, batch=100).epoch(0)))
    shuffled = next(iter(feed.epoch(0)))
    np.testing.assert_allclose(shuffled.teacher, in_order.teacher[shuffled.labels], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shuffled.values[1], in_order.values[1][shuffled.labels], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [None, 3])
def test_every_sample_is_kept_in_memory_and_shuffled_as_the_feed_is(
    source: GraphActivations, data: Dataset, seed: int | None
) -> None:
    settings = ExportSettings(quiet=True)
    kept = training._kept(GraphFeed(source, data, np.arange(100), batch=30, seed=seed), settings)
    found = torch.cat([batch.labels for batch in kept.epoch(0) if batch.labels is not None]).tolist()
    assert sorted(found) == list(range(100))
    assert (found == list(range(100))) is (seed is None)


def test_held_out_samples_all_count(source: GraphActivations, data: Dataset) -> None:
    feed = GraphFeed(source, data, None, batch=30)
    assert sum(len(batch.teacher) for batch in feed.epoch(0)) == 100
    assert len(list(feed.epoch(0))) == feed.steps
