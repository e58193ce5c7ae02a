"""The whole export as a function: what the bundle promises is what the models and the data give."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import zoo
import zoo_onnx as drawn
from edgeexit.bundle import Bundle
from edgeexit.errors import DataError, ModelError, UsageError
from edgeexit.replay import replay
from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime import Cascade
from edgeexit_runtime.verification import verify
from integration.material import (
    LABELS,
    MEAN,
    STD,
    answers,
    classifier,
    normalised,
    pictures,
    save_arrays,
    save_folder,
)

HEADS = ("gaussian", "class-means")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    protos = {
        "plain": classifier(2, 8),
        "small": classifier(1, 4),
        "wide": classifier(2, 24),
        "three": classifier(3, 8, exits=("a", "b", "c")),
    }
    for name, proto in protos.items():
        onnx.save(proto, root / f"{name}.onnx")
    return root


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """An archive of n samples; another seed gives other samples."""
    root = tmp_path_factory.mktemp("arrays")

    def make(n: int, seed: int) -> Path:
        pixels, labels = pictures(n, seed)
        return save_arrays(root / f"{n}-{seed}.npz", x=normalised(pixels), y=labels)

    return make


@pytest.fixture
def bundle(models: Path, arrays: Callable[..., Path], tmp_path: Path) -> Callable[..., Bundle]:
    """Export on 400 samples, calibrated on 300 others, and open the result."""

    def make(*sources: str | onnx.ModelProto, data: Path | None = None, **settings: Any) -> Bundle:
        calibration = settings.pop("calibration", arrays(300, 2))
        paths = []
        for i, source in enumerate(sources):
            if isinstance(source, str):
                paths.append(str(models / f"{source}.onnx"))
            else:
                onnx.save(source, tmp_path / f"model{i}.onnx")
                paths.append(str(tmp_path / f"model{i}.onnx"))
        chosen = ExportSettings(**{"exits": "1", "quiet": True, "threads": 1, **settings})
        export(paths, data or arrays(400, 1), tmp_path / "bundle", chosen, calibration=calibration)
        return Bundle.open(tmp_path / "bundle")

    return make


def altered(model: onnx.ModelProto, change: Callable[[Any], Any]) -> onnx.ModelProto:
    """The model with weight and bias of its last layer changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name in copy.graph.node[-1].input[1:]:
        values = np.asarray(change(numpy_helper.to_array(tensors[name])), dtype=np.float32)
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return copy


def ending_in(model: onnx.ModelProto, operator: str, **attributes: Any) -> onnx.ModelProto:
    """The model with one more operator behind its logits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node[-1].output[0] = "scores"
    copy.graph.node.append(helper.make_node(operator, ["scores"], ["logits"], **attributes))
    return copy


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model with a declared batch."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return copy


@pytest.mark.parametrize("head", HEADS)
def test_the_summary_is_what_replaying_the_calibration_split_gives(
    bundle: Callable[..., Bundle], arrays: Callable[..., Path], head: str
) -> None:
    from edgeexit_exporters.heads import HeadSettings

    found = bundle("plain", head=HeadSettings(kind=head))
    data = np.load(arrays(300, 2))
    cascade = Cascade.open(found)
    replayed = replay(cascade.policy, list(cascade.logits(data["x"])))
    summary = found.manifest.calibration
    assert summary.samples == 300
    assert summary.accuracy == pytest.approx((replayed.label == data["y"]).mean(), abs=0.004)
    assert summary.exit_shares == pytest.approx(replayed.shares(2), abs=0.004)
    costs = np.array([entry.cost for entry in found.manifest.exits])
    assert summary.mean_cost == pytest.approx(costs[replayed.exit].mean(), abs=0.004)


def test_the_last_exit_is_the_model(bundle: Callable[..., Bundle], models: Path) -> None:
    found = bundle("plain")
    x = normalised(pictures(50, 9)[0])
    (expected,) = answers(onnx.load(models / "plain.onnx"), {"image": x}, "logits")
    np.testing.assert_allclose(Cascade.open(found).logits(x)[-1], expected, rtol=1e-5, atol=1e-5)


def test_the_exits_of_a_multi_exit_model_are_its_own_outputs(bundle: Callable[..., Bundle], models: Path) -> None:
    found = bundle("three", exits=None)
    assert [entry.head for entry in found.manifest.exits] == ["model"] * 3
    x = normalised(pictures(50, 9)[0])
    expected = answers(onnx.load(models / "three.onnx"), {"image": x}, "a", "b", "c")
    np.testing.assert_allclose(Cascade.open(found).logits(x), expected, rtol=1e-5, atol=1e-5)


def test_a_multi_exit_model_may_get_fitted_exits_besides(bundle: Callable[..., Bundle]) -> None:
    heads = [entry.head for entry in bundle("three", exits="1").manifest.exits]
    assert sorted(heads) == ["gaussian", "model", "model", "model"]


@pytest.mark.parametrize("exits", [None, "0"])
def test_heads_described_for_nobody_are_refused(bundle: Callable[..., Bundle], exits: str | None) -> None:
    with pytest.raises(UsageError, match="own logits are used as they are"):
        bundle("three", exits=exits, head=HeadSettings(kind="class-means"))


def test_a_larger_loss_never_costs_more(bundle: Callable[..., Bundle]) -> None:
    costs = [bundle("small", "plain", exits="0", max_drop=d).manifest.calibration.mean_cost for d in (0, 0.01, 0.1)]
    assert costs == sorted(costs, reverse=True)


def test_a_loss_of_nothing_loses_nothing_on_the_calibration_split(bundle: Callable[..., Bundle]) -> None:
    summary = bundle("small", "plain", exits="0", max_drop=0.0).manifest.calibration
    assert summary.accuracy >= summary.full_accuracy


@pytest.mark.parametrize("sources", [("plain",), ("small", "plain")])
@pytest.mark.parametrize("max_drop", [0.0, 0.01, 0.1])
def test_auto_keeps_no_fitted_exit_that_nobody_takes(
    bundle: Callable[..., Bundle], sources: tuple[str, ...], max_drop: float
) -> None:
    manifest = bundle(*sources, exits="auto", max_drop=max_drop).manifest
    shares = zip(manifest.exits, manifest.calibration.exit_shares, strict=True)
    assert [entry.name for entry, share in shares if entry.head != "model" and share == 0] == []


def test_auto_keeps_no_exit_that_became_useless_as_others_went(tmp_path: Path) -> None:
    for name, proto in (("small", classifier(1, 6)), ("big", classifier(2, 24))):
        onnx.save(proto, tmp_path / f"{name}.onnx")
    data = save_folder(tmp_path / "data", *pictures(500, 1))
    calibration = save_folder(tmp_path / "calibration", *pictures(250, 2))
    settings = ExportSettings(exits="auto", mean=MEAN, std=STD, quiet=True, threads=1)
    sources = [str(tmp_path / "small.onnx"), str(tmp_path / "big.onnx")]
    manifest = export(sources, data, tmp_path / "bundle", settings, calibration=calibration)
    assert [entry.name for entry in manifest.exits[:-1] if entry.head != "model" and entry.threshold is None] == []


def test_labels_of_the_model_make_it_always_right(bundle: Callable[..., Bundle]) -> None:
    assert bundle("plain", labels="model").manifest.calibration.full_accuracy == 1


def test_labels_of_the_model_need_no_labels_that_are_right(
    bundle: Callable[..., Bundle], arrays: Callable[..., Path], tmp_path: Path
) -> None:
    data = np.load(arrays(400, 1))
    wrong = save_arrays(tmp_path / "wrong.npz", x=data["x"], y=np.roll(data["y"], 1))
    a, b = (bundle("plain", labels="model", data=path).exits for path in (arrays(400, 1), wrong))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_classes_are_named_as_the_folders_are(models: Path, tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data", *pictures(100, 1))
    manifest = export([str(models / "plain.onnx")], data, tmp_path / "bundle", ExportSettings(exits="1", quiet=True))
    assert manifest.labels == LABELS


def test_folders_of_numbers_are_sorted_as_text(models: Path, tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data", *pictures(100, 1), names=["0", "1", "10", "2", "3"])
    manifest = export([str(models / "plain.onnx")], data, tmp_path / "bundle", ExportSettings(exits="1", quiet=True))
    assert manifest.labels == ("0", "1", "10", "2", "3")


def test_classes_of_an_archive_are_numbered(bundle: Callable[..., Bundle]) -> None:
    assert bundle("plain").manifest.labels == ("0", "1", "2", "3", "4")


def test_sources_are_named_without_their_folder(bundle: Callable[..., Bundle]) -> None:
    assert [source.name for source in bundle("small", "plain").manifest.provenance.sources] == [
        "small.onnx",
        "plain.onnx",
    ]


def test_golden_samples_pass_on_the_runtime(bundle: Callable[..., Bundle]) -> None:
    found = bundle("small", "plain")
    result = verify(found, Cascade.open(found))
    assert result.samples >= len(found.manifest.exits)
    assert result.near_threshold == 0


def test_another_seed_holds_out_other_samples(bundle: Callable[..., Bundle]) -> None:
    a, b = (bundle("plain", calibration=None, seed=seed).exits for seed in (0, 1))
    assert any((a[name] != b[name]).any() for name in a)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Sigmoid", "Identity"])
def test_a_model_that_ends_in(bundle: Callable[..., Bundle], operator: str) -> None:
    found = bundle(ending_in(classifier(2, 8), operator))
    assert verify(found, Cascade.open(found)).near_threshold == 0


def test_a_final_softmax_is_taken_off(bundle: Callable[..., Bundle], models: Path) -> None:
    x = normalised(pictures(50, 9)[0])
    plain = onnx.load(models / "plain.onnx")
    found = Cascade.open(bundle(ending_in(plain, "Softmax", axis=-1))).logits(x)[-1]
    np.testing.assert_allclose(found, answers(plain, {"image": x}, "logits")[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_declared_batch_is_set_free(bundle: Callable[..., Bundle], batch: int) -> None:
    cascade = Cascade.open(bundle(with_batch(classifier(2, 8), batch)))
    for size in (1, 3, 8):
        assert len(cascade.run(normalised(pictures(size, 9)[0]))) == size


@pytest.mark.parametrize("factor", [1e6, 1e-6, -1.0, 0.0])
def test_logits_of_any_scale_are_calibrated(bundle: Callable[..., Bundle], factor: float) -> None:
    found = bundle(altered(classifier(2, 8), lambda values: values * factor))
    assert np.isfinite(found.exits["policy.temperatures"]).all()
    assert verify(found, Cascade.open(found)).samples


@pytest.mark.parametrize("factor", [1e20, 1e36])
def test_logits_beyond_measure_are_calibrated_or_refused_as_the_models_fault(
    bundle: Callable[..., Bundle], factor: float, recwarn: pytest.WarningsRecorder
) -> None:
    with contextlib.suppress(DataError):
        found = bundle(altered(classifier(2, 8), lambda values: values * factor))
        assert verify(found, Cascade.open(found)).samples
    assert [str(warning.message) for warning in recwarn if warning.category is RuntimeWarning] == []


def test_logits_that_are_not_finite_are_refused(bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(ModelError, match="not finite"):
        bundle(altered(classifier(2, 8), lambda values: values * np.nan))


def test_a_model_that_always_says_the_same_is_exported(bundle: Callable[..., Bundle]) -> None:
    found = bundle(altered(classifier(2, 8), lambda values: np.eye(5)[0] if values.ndim == 1 else 0 * values))
    assert found.manifest.calibration.full_accuracy == pytest.approx(0.2)


def test_a_model_that_always_says_the_same_can_be_its_own_teacher(bundle: Callable[..., Bundle]) -> None:
    constant = altered(classifier(2, 8), lambda values: np.eye(5)[0] if values.ndim == 1 else 0 * values)
    found = bundle(constant, labels="model")
    assert found.manifest.calibration.accuracy == 1
    assert verify(found, Cascade.open(found)).samples


@pytest.mark.parametrize("head", HEADS)
def test_samples_that_are_all_alike_are_no_crash(bundle: Callable[..., Bundle], tmp_path: Path, head: str) -> None:
    from edgeexit_exporters.heads import HeadSettings

    alike = save_arrays(tmp_path / "alike.npz", x=np.ones((60, 3, 8, 8), np.float32), y=np.arange(60) % 5)
    found = bundle("plain", data=alike, head=HeadSettings(kind=head))
    assert verify(found, Cascade.open(found)).samples


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("samples", [5, 10, 15])
def test_few_samples_are_enough_with_a_calibration_split(
    bundle: Callable[..., Bundle], arrays: Callable[..., Path], samples: int, head: str
) -> None:
    from edgeexit_exporters.heads import HeadSettings

    found = bundle("plain", data=arrays(samples, 1), head=HeadSettings(kind=head))
    assert verify(found, Cascade.open(found)).samples


@pytest.mark.parametrize("samples", [10, 15, 20])
def test_few_samples_are_enough_to_hold_some_out(
    bundle: Callable[..., Bundle], arrays: Callable[..., Path], samples: int
) -> None:
    assert bundle("plain", data=arrays(samples, 1), calibration=None).manifest.calibration.held_out


def test_one_sample_a_class_cannot_be_held_out(bundle: Callable[..., Bundle], arrays: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"5-1\.npz"):
        bundle("plain", data=arrays(5, 1), calibration=None)


@pytest.mark.parametrize("samples", [2, 3, 7])
def test_a_tiny_calibration_split_is_used(
    bundle: Callable[..., Bundle], arrays: Callable[..., Path], samples: int
) -> None:
    assert bundle("plain", calibration=arrays(samples, 2)).manifest.calibration.samples == samples


def test_two_classes_are_enough(tmp_path: Path) -> None:
    g = drawn.Sketch(3)
    x = g("Relu", g.conv("image", (3, 8)))
    x = g("Flatten", g("GlobalAveragePool", g("Relu", g.conv(x, (8, 8)))))
    g.dense(x, (8, 2), "logits")
    model = g.model({"image": (np.float32, (3, 8, 8))})
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    data = save_folder(tmp_path / "data", *pictures(200, 1, classes=2))
    settings = ExportSettings(exits="1", labels="model", quiet=True)
    manifest = export([str(tmp_path / "two.onnx")], data, tmp_path / "bundle", settings)
    assert manifest.labels == LABELS[:2]


def test_a_single_score_is_no_classifier(tmp_path: Path, arrays: Callable[..., Path]) -> None:
    g = drawn.Sketch(3)
    g("Sigmoid", g.dense(g("Flatten", g("GlobalAveragePool", g("Relu", g.conv("image", (3, 8))))), (8, 1)),
      output="logits")  # fmt: skip
    model = g.model({"image": (np.float32, (3, 8, 8))})
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(ModelError, match="no output that could be logits"):
        export([str(tmp_path / "one.onnx")], arrays(100, 1), tmp_path / "bundle", ExportSettings(quiet=True))


# A file's nodes are in order, and those of "loose-ends" are not.
DRAWN = [name for name, entry in zoo.ZOO.items() if entry.cuttable and not entry.needs and name != "loose-ends"]


@pytest.mark.parametrize("name", DRAWN)
def test_the_whole_zoo_goes_the_whole_road(tmp_path: Path, name: str) -> None:
    specimen = zoo.specimen(name)
    onnx.save(specimen.model, tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    inputs = {
        key: (array[:1] + random.normal(size=(80, *array.shape[1:]))).astype(array.dtype)
        for key, array in specimen.inputs.items()
    }
    data = save_arrays(tmp_path / "data.npz", y=np.arange(80) % specimen.classes, **inputs)
    settings = ExportSettings(exits="1", labels="model", quiet=True, threads=1, max_drop=0.2)
    export([str(tmp_path / "model.onnx")], data, tmp_path / "bundle", settings)
    found = Bundle.open(tmp_path / "bundle")
    assert verify(found, Cascade.open(found)).samples


def test_data_are_refused_before_the_model_runs_on_them_all(
    bundle: Callable[..., Bundle], arrays: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match="must not be fitted"):
        bundle("plain", calibration=arrays(400, 1))
