"""Bundles made on this machine, and samples for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeexit.bundle import Bundle
from edgeexit.cli import main
from integration.material import NORMALISE, classifier, pictures, save_arrays, save_folder

OPTIONS = {
    "gaussian": ("--head", "gaussian"),
    "class-means": ("--head", "class-means"),
    "int8": ("--precision", "int8"),
    "fp16": ("--precision", "fp16"),
}
"""How the bundles for pictures are exported, by their names."""

GIVEN = Path(os.environ["EDGEEXIT_AARCH64_BUNDLE"]) if os.environ.get("EDGEEXIT_AARCH64_BUNDLE") else None
"""A bundle from elsewhere, to be looked at as well."""

BUNDLES = ("quickstart", *OPTIONS, *(["given"] if GIVEN else []))
DIGITS = 160
PICTURES = 60


@dataclass(frozen=True)
class Material:
    """A bundle, and an archive with arrays by the names of its inputs."""

    bundle: Path
    samples: Path


def quickstart(folder: Path) -> Material:
    """The bundle of `edgeexit quickstart`: three trained exits, scikit-learn's digits."""
    assert main(["quickstart", "--out", str(folder)]) == 0
    with np.load(folder / "digits-test.npz") as archive:
        return Material(folder / "digits.eexit", save_arrays(folder / "samples.npz", x=archive["x"][:DIGITS]))


def of_pictures(folder: Path) -> Mapping[str, Material]:
    """Bundles that take pictures, with two exits fitted without a gradient, by name."""
    (folder / "model.onnx").write_bytes(classifier(3, 12).SerializeToString())
    for number, (name, count) in enumerate({"train": 500, "calibration": 250, "test": PICTURES}.items()):
        pixels, labels = pictures(count, number + 1)
        save_folder(folder / name, pixels, labels)
    samples = save_arrays(folder / "samples.npz", image=pixels)
    made = {}
    for name, options in OPTIONS.items():
        words = ["export", folder / "model.onnx", "--data", folder / "train", "--calibration", folder / "calibration"]
        words += [
            *NORMALISE,
            *options,
            "--exits",
            "2",
            "--labels",
            "model",
            "--max-drop",
            "0.1",
            "--quiet",
            "-o",
            folder / f"{name}.eexit",
        ]
        assert main(list(map(str, words))) == 0
        made[name] = Material(folder / f"{name}.eexit", samples)
    return made


def given(bundle: Path, folder: Path) -> Material:
    """A bundle from elsewhere, with its golden samples."""
    opened = Bundle.open(bundle)
    inputs = {spec.name: opened.check[f"input.{spec.name}"] for spec in opened.manifest.inputs}
    return Material(bundle.resolve(), save_arrays(folder / "given.npz", **inputs))
