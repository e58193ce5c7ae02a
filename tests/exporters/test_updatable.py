"""What an export leaves for the device to learn from: named features, statistics, a reference for drift."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import zoo
from edgeexit.bundle import STATISTICS_FILE, Bundle
from edgeexit.cli import main
from edgeexit.drift import drift_reference
from edgeexit.heads.stored import load_statistics
from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime import Cascade
from integration.material import classifier, normalised, pictures, save_arrays

HEADS = ("gaussian", "class-means")
CLASSES = 5


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data to fit on and data to calibrate on."""
    root = tmp_path_factory.mktemp("material")
    onnx.save(classifier(2, 8), root / "model.onnx")
    for name, n, seed in (("train", 400, 1), ("calibration", 300, 2)):
        pixels, labels = pictures(n, seed)
        save_arrays(root / f"{name}.npz", x=normalised(pixels), y=labels)
    return root


@pytest.fixture
def bundle(material: Path, tmp_path: Path) -> Callable[..., Bundle]:
    def make(kind: str, *, updatable: bool = False, **settings: Any) -> Bundle:
        path = tmp_path / f"{kind}-{updatable}"
        head = HeadSettings(kind=kind, updatable=updatable)
        chosen = ExportSettings(**{"exits": "1", "head": head, "quiet": True, "threads": 1, **settings})
        data, calibration = material / "train.npz", material / "calibration.npz"
        export([str(material / "model.onnx")], data, path, chosen, calibration=calibration)
        return Bundle.open(path)

    return make


def given_logits(bundle: Bundle, index: int, features: np.ndarray) -> np.ndarray:
    """The logits of exit `index` by the formulas of the bundle format."""
    first, second = (bundle.exits[spec.name] for spec in bundle.manifest.segments[index].policy_inputs)
    if bundle.manifest.exits[index].head == "gaussian":
        return np.asarray(features @ first.T + second)
    return np.asarray(-np.linalg.norm(features[:, None].astype(np.float64) - first, axis=2) / second)


DRAWN = [name for name, entry in zoo.ZOO.items() if entry.cuttable and not entry.needs and name != "loose-ends"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", DRAWN)
def test_the_features_that_are_named_are_those_that_the_head_reads(tmp_path: Path, name: str, head: str) -> None:
    specimen = zoo.specimen(name)
    onnx.save(specimen.model, tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    inputs = {
        key: (array[:1] + random.normal(size=(80, *array.shape[1:]))).astype(array.dtype)
        for key, array in specimen.inputs.items()
    }
    data = save_arrays(tmp_path / "data.npz", y=np.arange(80) % specimen.classes, **inputs)
    settings = ExportSettings(
        exits="1", head=HeadSettings(kind=head), labels="model", quiet=True, threads=1, max_drop=0.2
    )
    export([str(tmp_path / "model.onnx")], data, tmp_path / "bundle", settings)
    bundle = Bundle.open(tmp_path / "bundle")
    batch = {key: array[:6] for key, array in inputs.items()}
    features, logits = Cascade.open(bundle, tapped=True).insight(batch)
    for k, entry in enumerate(bundle.manifest.exits):
        found = features[k]
        assert (found is None) == (entry.head == "model")
        if found is not None:
            assert (found.dtype, found.ndim) == (np.float32, 2)
            expected = given_logits(bundle, k, found)
            np.testing.assert_allclose(logits[k], expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_a_gaussian_bundle_keeps_statistics_only_if_asked_and_nothing_else_differs(
    bundle: Callable[..., Bundle],
) -> None:
    plain, updatable = bundle("gaussian"), bundle("gaussian", updatable=True)
    assert plain.manifest.statistics_file is None
    assert dict(plain.contents) == {k: v for k, v in updatable.contents.items() if k != STATISTICS_FILE}
    length = updatable.manifest.segments[0].features.shape[0]  # type: ignore[union-attr]
    size = len(updatable.contents[STATISTICS_FILE])
    assert 2 * length**2 < size < 2 * length**2 + 5 * CLASSES * length + 2000


def test_class_means_keep_their_few_statistics_always(bundle: Callable[..., Bundle]) -> None:
    found = bundle("class-means")
    assert found.statistics()
    assert len(found.contents[STATISTICS_FILE]) < 1000


@pytest.mark.parametrize("kind", HEADS)
def test_statistics_are_those_of_the_fitting_samples_and_give_the_head_again(
    bundle: Callable[..., Bundle], kind: str
) -> None:
    found = bundle(kind, updatable=True)
    stored = found.statistics()
    assert stored is not None
    assert stored["counts.0"].tolist() == [80.0] * CLASSES
    statistics = dict(load_statistics(found.manifest, found.exits, stored))
    assert list(statistics) == [0]
    for word, array in statistics[0].head().items():
        name = next(s.name for s in found.manifest.segments[0].policy_inputs if s.name.endswith(f".{word}"))
        np.testing.assert_allclose(array, found.exits[name], rtol=1e-3, atol=1e-3 * np.abs(array).max())


def test_counts_are_the_models_answers_where_those_are_the_labels(
    bundle: Callable[..., Bundle], material: Path
) -> None:
    found = bundle("class-means", labels="model")
    answers = Cascade.open(found).logits(np.load(material / "train.npz")["x"])[-1].argmax(axis=1)
    stored = found.statistics()
    assert stored is not None
    assert stored["counts.0"].tolist() == np.bincount(answers, minlength=CLASSES).tolist()


def test_the_reference_for_drift_is_that_of_the_calibration_split(
    bundle: Callable[..., Bundle], material: Path
) -> None:
    found = bundle("gaussian")
    logits = Cascade.open(found).logits(np.load(material / "calibration.npz")["x"])
    expected, reference = drift_reference(found.policy(), list(logits)), found.manifest.calibration.drift
    assert reference is not None
    assert [sum(counts) for counts in reference.counts] == [sum(counts) for counts in expected.counts]
    assert reference.agreeing == expected.agreeing


def test_updatable_is_an_option_of_the_command(material: Path, tmp_path: Path) -> None:
    data = ["--data", material / "train.npz", "--calibration", material / "calibration.npz", "--exits", "1"]
    command = ["export", material / "model.onnx", *data, "--updatable", "--quiet", "-o", tmp_path / "bundle"]
    assert main([str(word) for word in command]) == 0
    assert Bundle.open(tmp_path / "bundle").manifest.statistics_file is not None
