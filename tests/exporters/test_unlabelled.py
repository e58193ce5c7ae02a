"""Exports with the model's own answers as labels: data need none, and those that are there are not looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgeexit.bundle import Bundle
from edgeexit.errors import DataError
from edgeexit_exporters.exporting import export
from edgeexit_exporters.settings import ExportSettings
from edgeexit_runtime import Cascade
from edgeexit_runtime.verification import verify
from integration.material import LABELS, MEAN, STD, classifier, normalised, pictures, save_arrays, save_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "plain.onnx"
    onnx.save(classifier(2, 8), path)
    return str(path)


def save_flat(root: Path, pixels: np.ndarray, folder: str = ".") -> Path:
    """Pictures with no order that means anything."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(root / folder / f"{i:04d}.png")
    return root


@pytest.fixture
def bundle(model: str, tmp_path: Path) -> Callable[..., Bundle]:
    def make(data: Path, calibration: Path | None = None, **settings: Any) -> Bundle:
        chosen = ExportSettings(**{"exits": "1", "labels": "model", "quiet": True, "threads": 1, **settings})
        export([model], data, tmp_path / "bundle", chosen, calibration=calibration)
        return Bundle.open(tmp_path / "bundle")

    return make


def test_a_flat_folder_of_pictures_is_enough(bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    data = save_flat(tmp_path / "flat", pictures(120, 1)[0])
    found = bundle(data, mean=MEAN, std=STD, max_drop=0.3)
    assert found.manifest.labels == ("0", "1", "2", "3", "4")
    assert found.manifest.calibration.full_accuracy == 1
    assert verify(found, Cascade.open(found)).samples


def test_folders_of_any_number_and_a_flat_calibration_are_taken_too(
    bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    data = tmp_path / "days"
    for day in ("monday", "tuesday"):
        save_flat(data, pictures(60, len(day))[0], day)
    calibration = save_flat(tmp_path / "flat", pictures(50, 5)[0])
    manifest = bundle(data, calibration, mean=MEAN, std=STD, max_drop=0.3).manifest
    assert (manifest.labels, manifest.calibration.samples) == (("0", "1", "2", "3", "4"), 50)


def test_folders_that_fit_the_models_classes_name_them(bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    data = save_folder(tmp_path / "data", *pictures(100, 1))
    assert bundle(data, mean=MEAN, std=STD, max_drop=0.3).manifest.labels == LABELS


def test_an_archive_needs_no_y(bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    x = normalised(pictures(150, 1)[0])
    found = bundle(save_arrays(tmp_path / "x.npz", x=x), save_arrays(tmp_path / "c.npz", x=x[:60]), max_drop=0.3)
    assert found.manifest.calibration.labels == "model"


def test_labels_that_are_there_change_nothing(bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    x = normalised(pictures(150, 1)[0])
    plain = bundle(save_arrays(tmp_path / "x.npz", x=x), max_drop=0.3)
    strange = bundle(save_arrays(tmp_path / "xy.npz", x=x, y=np.full(150, 77)), max_drop=0.3)
    assert plain.manifest.exits == strange.manifest.exits


@pytest.mark.parametrize("kind", ["pictures", "arrays"])
def test_where_labels_are_needed_the_way_without_them_is_named(
    bundle: Callable[..., Bundle], tmp_path: Path, kind: str
) -> None:
    pixels, _ = pictures(40, 1)
    arrays = kind == "arrays"
    data = save_arrays(tmp_path / "x.npz", x=normalised(pixels)) if arrays else save_flat(tmp_path / "flat", pixels)
    with pytest.raises(DataError, match="--labels model"):
        bundle(data, labels="data", mean=MEAN, std=STD)
    assert not (tmp_path / "bundle").exists()
