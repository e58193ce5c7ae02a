"""Preprocessing in the graph: the bundle on pictures answers what the model does on normalised arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgeexit.bundle import Bundle
from edgeexit_exporters.exporting import export
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime import Cascade
from integration.material import (
    MEAN,
    NORMALISE,
    STD,
    answers,
    classifier,
    normalised,
    pictures,
    save_arrays,
    save_folder,
)

SETTINGS: dict[str, Any] = {"exits": "1", "labels": "model", "quiet": True, "threads": 1}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return classifier(2, 6)


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Cascade]:
    """Export a model on some data, and open the bundle."""

    def make(model: onnx.ModelProto, data: Path, **settings: Any) -> Cascade:
        onnx.save(model, tmp_path / "model.onnx")
        export([str(tmp_path / "model.onnx")], data, tmp_path / "bundle", ExportSettings(**{**SETTINGS, **settings}))
        return Cascade.open(tmp_path / "bundle")

    return make


def folder(root: Path, pixels: Any, labels: Any) -> Path:
    return save_folder(root / "data", pixels, labels)


def channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model for (batch, height, width, channels)."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "planes" if name == "image" else name
    nodes = [helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]), *changed.graph.node]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8, 3]))
    return changed


def grey(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model for one channel, which becomes all three."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "three" if name == "image" else name
    nodes = [helper.make_node("Concat", ["image"] * 3, ["three"], axis=1), *changed.graph.node]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8]))
    return changed


def any_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with a mean over the whole picture at its end, its height and width free."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    pool = next(node for node in changed.graph.node if node.op_type == "AveragePool")
    pool.CopyFrom(helper.make_node("Resize", [pool.input[0], "", "", "grid"], pool.output, mode="linear"))
    changed.graph.initializer.append(helper.make_tensor("grid", TensorProto.INT64, [4], [0, 6, 4, 4]))
    sizes = helper.make_node("Shape", [pool.input[0]], ["whole"], start=0, end=1)
    rest = helper.make_node("Concat", ["whole", "grid.rest"], ["grid.all"], axis=0)
    changed.graph.initializer.append(helper.make_tensor("grid.rest", TensorProto.INT64, [3], [6, 4, 4]))
    pool.input[3] = "grid.all"
    position = next(i for i, node in enumerate(changed.graph.node) if node.op_type == "Resize")
    nodes = list(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend([*nodes[:position], sizes, rest, *nodes[position:]])
    changed.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    )
    return changed


def test_pictures_as_bytes_give_the_models_logits_on_normalised_arrays(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    cascade = bundle(model, folder(tmp_path, pixels, labels), mean=MEAN, std=STD)
    (expected,) = answers(model, {"image": normalised(pixels)}, "logits")
    np.testing.assert_allclose(cascade.logits(pixels)[-1], expected, rtol=1e-4, atol=1e-4)


def test_the_bundle_takes_bytes_with_channels_last(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    cascade = bundle(model, folder(tmp_path, *pictures(60, 3)), mean=MEAN, std=STD)
    (spec,) = cascade.manifest.inputs
    assert (spec.dtype, spec.shape) == ("uint8", (8, 8, 3))


def test_mean_and_std_are_recorded(bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path) -> None:
    preprocessing = bundle(model, folder(tmp_path, *pictures(60, 3)), mean=MEAN, std=STD).manifest.preprocessing
    assert (preprocessing.mean, preprocessing.std) == (MEAN, STD)
    assert (preprocessing.kind, preprocessing.mode, preprocessing.size) == ("image", "RGB", (8, 8))


def test_without_mean_and_std_pictures_are_scaled_to_one(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    cascade = bundle(model, folder(tmp_path, pixels, labels))
    scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_allclose(
        cascade.logits(pixels)[-1], answers(model, {"image": scaled}, "logits")[0], rtol=1e-4, atol=1e-4
    )


def test_one_value_counts_for_every_channel(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    cascade = bundle(model, folder(tmp_path, pixels, labels), mean=(0.5,), std=(0.25,))
    scaled = ((pixels.transpose(0, 3, 1, 2).astype(np.float64) / 255 - 0.5) / 0.25).astype(np.float32)
    np.testing.assert_allclose(
        cascade.logits(pixels)[-1], answers(model, {"image": scaled}, "logits")[0], rtol=1e-4, atol=1e-4
    )


def test_a_model_with_channels_last_gets_the_same_arithmetic(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    cascade = bundle(channels_last(model), folder(tmp_path, pixels, labels), mean=MEAN, std=STD)
    (expected,) = answers(model, {"image": normalised(pixels)}, "logits")
    np.testing.assert_allclose(cascade.logits(pixels)[-1], expected, rtol=1e-4, atol=1e-4)


def test_a_grey_model_takes_grey_pictures(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    cascade = bundle(grey(model), folder(tmp_path, pixels[..., 0], labels), mean=(0.5,), std=(0.25,))
    assert cascade.manifest.preprocessing.mode == "L"
    scaled = ((pixels[..., :1].transpose(0, 3, 1, 2).astype(np.float64) / 255 - 0.5) / 0.25).astype(np.float32)
    (expected,) = answers(grey(model), {"image": scaled}, "logits")
    np.testing.assert_allclose(cascade.logits(pixels[..., :1])[-1], expected, rtol=1e-4, atol=1e-4)


def test_a_grey_model_takes_colour_pictures_as_grey(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    cascade = bundle(grey(model), folder(tmp_path, *pictures(60, 3)), mean=(0.5,), std=(0.25,))
    assert cascade.manifest.inputs[0].shape == (8, 8, 1)


def test_a_colour_model_takes_grey_pictures(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    cascade = bundle(model, folder(tmp_path, pixels[..., 0], labels), mean=MEAN, std=STD)
    assert cascade.manifest.inputs[0].shape == (8, 8, 3)


def test_arrays_of_bytes_are_normalised_with_the_models_own_axes(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    cascade = bundle(model, save_arrays(tmp_path / "d.npz", x=planes, y=labels), mean=MEAN, std=STD)
    assert (cascade.manifest.inputs[0].dtype, cascade.manifest.inputs[0].shape) == ("uint8", (3, 8, 8))
    (expected,) = answers(model, {"image": normalised(pixels)}, "logits")
    np.testing.assert_allclose(cascade.logits(planes)[-1], expected, rtol=1e-4, atol=1e-4)


def test_arrays_of_floats_are_shifted_but_not_scaled_by_255(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    planes = (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    cascade = bundle(model, save_arrays(tmp_path / "d.npz", x=planes, y=labels), mean=MEAN, std=STD)
    (expected,) = answers(model, {"image": normalised(pixels)}, "logits")
    np.testing.assert_allclose(cascade.logits(planes)[-1], expected, rtol=1e-4, atol=1e-4)


def test_arrays_without_mean_are_given_as_they_are(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    x = normalised(pixels)
    cascade = bundle(model, save_arrays(tmp_path / "d.npz", x=x, y=labels))
    (expected,) = answers(model, {"image": x}, "logits")
    np.testing.assert_allclose(cascade.logits(x)[-1], expected, rtol=1e-4, atol=1e-4)


def test_crop_lets_pictures_of_any_size_in(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    pixels, labels = pictures(60, 3)
    data = folder(tmp_path, pixels.repeat(3, axis=1).repeat(2, axis=2), labels)
    cascade = bundle(model, data, resize="crop")
    assert cascade.manifest.preprocessing.resize == "crop"
    Image.new("RGB", (100, 31)).save(tmp_path / "wide.png")
    assert cli("run", tmp_path / "bundle", tmp_path / "wide.png").code == 0


def test_a_model_of_any_size_takes_the_size_of_the_pictures(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    pixels, labels = pictures(60, 3)
    cascade = bundle(any_size(model), folder(tmp_path, pixels.repeat(2, axis=1), labels))
    assert cascade.manifest.preprocessing.size == (16, 8)


def test_a_model_of_any_size_takes_the_size_that_is_given(
    bundle: Callable[..., Cascade], model: onnx.ModelProto, tmp_path: Path
) -> None:
    cascade = bundle(any_size(model), folder(tmp_path, *pictures(60, 3)), size=(12, 10), resize="crop")
    assert cascade.manifest.inputs[0].shape == (12, 10, 3)


def test_a_cascade_of_models_normalises_for_each(tmp_path: Path, model: onnx.ModelProto) -> None:
    pixels, labels = pictures(60, 3)
    small = classifier(1, 4)
    for name, proto in (("small", small), ("model", model)):
        onnx.save(proto, tmp_path / f"{name}.onnx")
    sources = [str(tmp_path / f"{name}.onnx") for name in ("small", "model")]
    settings = ExportSettings(**{**SETTINGS, "exits": "0"}, mean=MEAN, std=STD)
    export(sources, folder(tmp_path, pixels, labels), tmp_path / "bundle", settings)
    found = Cascade.open(Bundle.open(tmp_path / "bundle")).logits(pixels)
    for logits, proto in zip(found, (small, model), strict=True):
        (expected,) = answers(proto, {"image": normalised(pixels)}, "logits")
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_command_line_bakes_the_same(cli: Callable[..., Any], model: onnx.ModelProto, tmp_path: Path) -> None:
    pixels, labels = pictures(60, 3)
    data = folder(tmp_path, pixels, labels)
    onnx.save(model, tmp_path / "model.onnx")
    options = ["--exits", "1", "--labels", "model", "--quiet", "-o", tmp_path / "bundle"]
    assert cli("export", tmp_path / "model.onnx", "--data", data, *NORMALISE, *options).code == 0
    (expected,) = answers(model, {"image": normalised(pixels)}, "logits")
    found = Cascade.open(tmp_path / "bundle").logits(pixels)[-1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
