"""Other precisions: what is rounded, what is not, and that everything fitted is fitted on the rounded model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import zoo_onnx as drawn
from edgeexit.bundle import Bundle
from edgeexit.errors import EdgeExitError, ModelError, UnreachableError, UsageError
from edgeexit.precision import TOLERANCES, precision_of
from edgeexit.replay import replay
from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime import Cascade
from edgeexit_runtime.verification import verify
from integration.material import MEAN, STD, answers, classifier, encoder, normalised, pictures, save_arrays, sentences

LAYERS = {"Conv", "Gemm", "MatMul"}
ROUNDED = ("fp16", "int8")
TYPES = {"fp32": "float32", "fp16": "float16", "int8": "uint8"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    protos = {
        "plain": classifier(2, 8),
        "small": classifier(1, 4),
        "three": classifier(3, 8, exits=("a", "b", "c")),
        "text": encoder(),
    }
    for name, proto in protos.items():
        onnx.save(proto, root / f"{name}.onnx")
    return root


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """An archive of n samples; another seed gives other samples."""
    root = tmp_path_factory.mktemp("arrays")

    def make(n: int, seed: int, *, text: bool = False) -> Path:
        path = root / f"{n}-{seed}-{text}.npz"
        if text:
            feeds, labels = sentences(n, seed)
            return save_arrays(path, y=labels, **feeds)
        pixels, labels = pictures(n, seed)
        return save_arrays(path, x=normalised(pixels), y=labels)

    return make


@pytest.fixture
def bundle(models: Path, arrays: Callable[..., Path], tmp_path: Path) -> Callable[..., Bundle]:
    """Export on 300 samples, calibrated on 200 others, and open the result."""

    def make(*sources: str | onnx.ModelProto, text: bool = False, **settings: Any) -> Bundle:
        paths = []
        for i, source in enumerate(sources):
            if isinstance(source, str):
                paths.append(str(models / f"{source}.onnx"))
            else:
                onnx.save(source, tmp_path / f"model{i}.onnx")
                paths.append(str(tmp_path / f"model{i}.onnx"))
        chosen = {"exits": "1", "quiet": True, "threads": 1, "max_drop": 0.1, **settings}
        data, calibration = (arrays(n, seed, text=text) for n, seed in ((300, 1), (200, 2)))
        export(paths, data, tmp_path / "bundle", ExportSettings(**chosen), calibration=calibration)
        return Bundle.open(tmp_path / "bundle")

    return make


def graphs(found: Bundle) -> list[onnx.ModelProto]:
    return [onnx.load_from_string(found.segment(k)) for k in range(len(found.manifest.segments))]


def computed_in(model: onnx.ModelProto) -> dict[str, set[str]]:
    """For each operator with weights, the types that it computes in: integers where it reads dequantised weights."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    dequantised = {name for node in inferred.node if node.op_type == "DequantizeLinear" for name in node.output}
    found: dict[str, set[str]] = {}
    for node in inferred.node:
        if node.op_type in LAYERS and not node.output[0].startswith("exit."):
            kind = TensorProto.DataType.Name(kinds[node.input[1]]).lower()
            found.setdefault(node.op_type, set()).add("int8" if node.input[1] in dequantised else kind)
    return found


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("head", ["gaussian", "class-means"])
def test_the_cascade_of_a_rounded_model_verifies_and_answers_as_on_the_calibration_split(
    bundle: Callable[..., Bundle], arrays: Callable[..., Path], precision: str, head: str
) -> None:
    found = bundle("plain", precision=precision, head=HeadSettings(kind=head))
    cascade = Cascade.open(found)
    assert verify(found, cascade).largest_difference < TOLERANCES[precision]
    data = np.load(arrays(200, 2))
    replayed = replay(cascade.policy, list(cascade.logits(data["x"])))
    summary = found.manifest.calibration
    assert summary.accuracy == pytest.approx((replayed.label == data["y"]).mean(), abs=0.011)
    assert summary.exit_shares == pytest.approx(replayed.shares(2), abs=0.021)
    np.testing.assert_array_equal(cascade.run(data["x"]).exit, replayed.exit)


@pytest.mark.parametrize("precision", ROUNDED)
def test_layers_are_rounded_and_heads_are_not(bundle: Callable[..., Bundle], precision: str) -> None:
    found = bundle("plain", precision=precision)
    kind = {"fp16": "float16", "int8": "int8"}[precision]
    for model, segment in zip(graphs(found), found.manifest.segments, strict=True):
        assert set.union(*computed_in(model).values()) == {kind}
        assert {spec.dtype for spec in segment.policy_inputs} <= {"float32"}
        logits = next(value for value in model.graph.output if value.name == segment.logits)
        assert logits.type.tensor_type.elem_type == TensorProto.FLOAT
        assert segment.precision == precision


@pytest.mark.parametrize(("precision", "parts"), [("fp16", 2), ("int8", 4)])
def test_a_boundary_shrinks_with_the_precision(bundle: Callable[..., Bundle], precision: str, parts: int) -> None:
    (whole,) = bundle("plain").manifest.segments[0].outputs
    (rounded,) = bundle("plain", precision=precision).manifest.segments[0].outputs
    sizes = [np.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in (whole, rounded)]
    assert rounded.name.startswith(whole.name)
    assert sizes[0] == parts * sizes[1]


def test_integers_cross_with_their_channels_last_but_for_tensorrt(bundle: Callable[..., Bundle]) -> None:
    wide = classifier(1, 12)
    shapes = [bundle(wide, precision=p).manifest.segments[0].outputs[0].shape for p in ("fp32", "int8")]
    assert shapes == [(12, 8, 8), (8, 8, 12)]
    crossing = bundle(wide, precision="int8", symmetric=True).manifest.segments[0].outputs
    assert {(spec.dtype, spec.shape) for spec in crossing} == {("int8", (12, 8, 8))}


@pytest.mark.parametrize("precision", ROUNDED)
def test_the_whole_model_stays_close_to_the_model_before(
    bundle: Callable[..., Bundle], models: Path, precision: str
) -> None:
    found = bundle("plain", precision=precision)
    x = normalised(pictures(100, 9)[0])
    (expected,) = answers(onnx.load(models / "plain.onnx"), {"image": x}, "logits")
    logits = Cascade.open(found).logits(x)[-1]
    assert np.abs(logits - expected).max() < 2 * TOLERANCES[precision] * np.abs(expected).max()
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


@pytest.mark.parametrize("precision", ROUNDED)
def test_counts_and_names_are_those_of_the_model_before(bundle: Callable[..., Bundle], precision: str) -> None:
    before, after = bundle("plain").manifest, bundle("plain", precision=precision).manifest
    assert (after.macs, after.params) == (before.macs, pytest.approx(before.params, rel=0.1))
    assert [entry.name for entry in after.exits] == [entry.name for entry in before.exits]
    assert [entry.cost_macs for entry in after.exits] == [entry.cost_macs for entry in before.exits]


@pytest.mark.parametrize("precision", ROUNDED)
def test_files_shrink_with_the_precision(bundle: Callable[..., Bundle], precision: str) -> None:
    wide = classifier(1, 48)
    before, after = (
        sum(s.file.size_bytes for s in bundle(wide, precision=p).manifest.segments) for p in ("fp32", precision)
    )
    assert after < {"fp16": 0.6, "int8": 0.4}[precision] * before


def test_the_model_before_is_reported_beside_the_rounded_one(
    bundle: Callable[..., Bundle], models: Path, arrays: Callable[..., Path]
) -> None:
    data = np.load(arrays(200, 2))
    (logits,) = answers(onnx.load(models / "plain.onnx"), {"image": data["x"]}, "logits")
    expected = float((logits.argmax(axis=1) == data["y"]).mean())
    summary = bundle("plain", precision="int8").manifest.calibration
    assert summary.reference_accuracy == pytest.approx(expected)
    rounded = Cascade.open(bundle("plain", precision="int8")).logits(data["x"])[-1].argmax(axis=1)
    assert summary.full_accuracy == pytest.approx((rounded == data["y"]).mean(), abs=0.011)


def test_a_model_in_its_own_precision_needs_no_reference(bundle: Callable[..., Bundle]) -> None:
    manifest = bundle("plain").manifest
    assert (manifest.calibration.reference_accuracy, precision_of(manifest)) == (None, "fp32")


def test_labels_of_the_model_are_those_of_the_model_before(bundle: Callable[..., Bundle]) -> None:
    summary = bundle("plain", precision="int8", labels="model").manifest.calibration
    assert summary.reference_accuracy == 1
    assert 0.9 < summary.full_accuracy <= 1


def test_a_loss_counts_from_the_model_before(bundle: Callable[..., Bundle]) -> None:
    """With its own answers as labels, whatever the rounding turns is lost."""
    for limit in (0.05, 0.2):
        summary = bundle("plain", precision="int8", labels="model", max_drop=limit).manifest.calibration
        assert summary.accuracy >= 1 - limit


def test_a_loss_that_rounding_alone_exceeds_is_refused_with_what_is_reachable(
    bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    harsh = classifier(3, 8)
    for tensor in harsh.graph.initializer:  # one channel a hundred times the others: 8 bits leave nothing for them
        values = onnx.numpy_helper.to_array(tensor).copy()
        if values.ndim == 1 and tensor.name == harsh.graph.node[1].input[1]:
            values[0] *= 1000
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(UnreachableError, match=r"int8 takes accuracy(.|\n)*at least 0\.\d+") as refused:
        bundle(harsh, precision="int8", labels="model", max_drop=0.0)
    assert refused.value.exit_code == 5


def test_each_segment_may_have_a_precision_of_its_own(bundle: Callable[..., Bundle]) -> None:
    found = bundle("three", exits=None, precision="fp32,int8,fp16")
    assert [segment.precision for segment in found.manifest.segments] == ["fp32", "int8", "fp16"]
    kinds = [set.union(*computed_in(model).values()) for model in graphs(found)]
    assert kinds == [{"float"}, {"int8"}, {"float16"}]
    assert precision_of(found.manifest) == "fp32,int8,fp16"
    verify(found, Cascade.open(found))


@pytest.mark.parametrize("precision", ["fp32,int8", "int8,fp32"])
def test_a_boundary_at_an_integer_segment_crosses_as_integers(bundle: Callable[..., Bundle], precision: str) -> None:
    found = bundle("plain", precision=precision)
    assert [spec.dtype for segment in found.manifest.segments for spec in segment.outputs] == ["uint8"]


@pytest.mark.parametrize("precision", ["int8,int8,int8", "fp32,fp32,fp32,fp16"])
def test_a_list_of_another_length_than_the_segments_is_refused(bundle: Callable[..., Bundle], precision: str) -> None:
    with pytest.raises(UsageError, match="one entry for each segment"):
        bundle("plain", exits="1", precision=precision)


def test_a_list_needs_exits_that_are_known(bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(UsageError, match="known beforehand"):
        bundle("plain", exits="auto", precision="fp32,int8")


@pytest.mark.parametrize("precision", ["int4", "", "int8;fp16", "int8,"])
def test_an_unknown_precision_is_refused(precision: str) -> None:
    with pytest.raises(UsageError, match="no such precision"):
        ExportSettings(precision=precision)


def test_an_exit_named_after_a_tensor_that_is_merged_away_is_refused(
    bundle: Callable[..., Bundle], models: Path
) -> None:
    model = onnx.load(models / "plain.onnx")
    raw = next(node.output[0] for node in model.graph.node if node.op_type == "Conv")
    assert bundle("plain", exits=raw).manifest.exits[0].name == raw
    with pytest.raises(UsageError, match="computed together with the next"):
        bundle("plain", exits=raw, precision="int8")


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("exits", ["0", "1"])
def test_a_cascade_of_models_is_rounded_whole(bundle: Callable[..., Bundle], precision: str, exits: str) -> None:
    found = bundle("small", "plain", exits=exits, precision=precision)
    assert {segment.precision for segment in found.manifest.segments} == {precision}
    verify(found, Cascade.open(found))


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_transformer_is_rounded_where_it_has_weights(bundle: Callable[..., Bundle], precision: str) -> None:
    found = bundle("text", text=True, precision=precision, max_drop=0.2)
    assert precision_of(found.manifest) == precision
    verify(found, Cascade.open(found))


def test_for_tensorrt_integers_have_no_zero_point_and_biases_stay(bundle: Callable[..., Bundle]) -> None:
    found = bundle("plain", precision="int8", symmetric=True)
    for model in graphs(found):
        values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert (values[node.input[2]].dtype, int(np.abs(values[node.input[2]]).max())) == (np.int8, 0)
    verify(found, Cascade.open(found))


def test_pictures_are_prepared_in_floating_point(models: Path, tmp_path: Path) -> None:
    from integration.material import save_folder

    data = save_folder(tmp_path / "data", *pictures(200, 1))
    settings = ExportSettings(exits="1", mean=MEAN, std=STD, quiet=True, threads=1, precision="int8", max_drop=0.2)
    export([str(models / "plain.onnx")], data, tmp_path / "bundle", settings)
    found = Bundle.open(tmp_path / "bundle")
    assert [spec.dtype for spec in found.manifest.inputs] == ["uint8"]
    verify(found, Cascade.open(found))


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_model_that_is_quantised_already_is_refused(bundle: Callable[..., Bundle], precision: str) -> None:
    model = classifier(1, 4)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    scale, zero = (helper.make_tensor(n, t, [], [v]) for n, t, v in (("s", 1, 0.1), ("z", 3, 0)))
    model.graph.initializer.extend([scale, zero])
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]))
    node.input[0] = "dq"
    with pytest.raises(ModelError, match="quantised already"):
        bundle(model, precision=precision)


def test_a_model_in_float16_has_nothing_to_quantise(bundle: Callable[..., Bundle]) -> None:
    g = drawn.Sketch(5)
    x = g("Cast", "image", to=TensorProto.FLOAT16)
    weight = g.store(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float16))
    x = g("Relu", g("Conv", x, weight, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    x = g("Flatten", g("GlobalAveragePool", x))
    x = g("Gemm", x, g.store(np.random.default_rng(1).normal(size=(4, 5)).astype(np.float16)))
    g("Cast", x, to=TensorProto.FLOAT, output="logits")
    model = g.model({"image": (np.float32, (3, 8, 8))}, ("logits",))
    with pytest.raises(ModelError, match="8-bit integers"):
        bundle(model, precision="int8", max_drop=0.5)


def test_every_refusal_is_one_of_ours(bundle: Callable[..., Bundle]) -> None:
    model = classifier(1, 4)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
    with pytest.raises(EdgeExitError):
        bundle(model, precision="int8")
