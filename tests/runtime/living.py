"""A small cascade with fitted exits, and samples of which some are taken in bad light."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.settings import ExportSettings
from integration.material import classifier, normalised, pictures, save_arrays

CLASSES = 5
FITTED = 400

Samples = tuple[NDArray[np.float32], NDArray[np.int64]]


def usual(n: int, seed: int) -> Samples:
    """Samples like those that the cascade was fitted on."""
    pixels, labels = pictures(n, seed)
    return normalised(pixels), labels


def dim(n: int, seed: int) -> Samples:
    """The same in bad light: less contrast, an offset."""
    x, labels = usual(n, seed)
    return (np.float32(0.35) * x + np.float32(0.6)).astype(np.float32), labels


@cache
def model() -> onnx.ModelProto:
    """The whole model, taught on the usual samples."""
    return classifier(2, 24)


def fitted_on() -> Samples:
    """What the exits were fitted on."""
    return usual(FITTED, 1)


@cache
def contents(head: str, updatable: bool = True) -> bytes:
    """The archive of a bundle with two fitted exits before the model's own."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model(), folder / "model.onnx")
        for part, (x, y) in {"train": fitted_on(), "calibration": usual(400, 2)}.items():
            save_arrays(folder / f"{part}.npz", x=x, y=y)
        heads = HeadSettings(kind=head, max_features=400, means_bytes=4 * 400 * CLASSES, updatable=updatable)
        settings = ExportSettings(exits="2", head=heads, max_drop=0.06, policy="max-probability", threads=1, quiet=True)
        export(
            [str(folder / "model.onnx")],
            folder / "train.npz",
            folder / "bundle.eexit",
            settings,
            calibration=folder / "calibration.npz",
        )
        return (folder / "bundle.eexit").read_bytes()


def write_living(path: Path, head: str = "gaussian", *, updatable: bool = True) -> Path:
    """Write that bundle, and return its path, which ends in .eexit."""
    path.write_bytes(contents(head, updatable))
    return path


def open_living(folder: Path, head: str = "gaussian") -> Bundle:
    """That bundle, opened."""
    return Bundle.open(write_living(folder / f"{head}.eexit", head))
