"""Bundles whose tails are merged: with a skipped segment, of two models, and real ones out of the exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from core.bundles import rewrite_manifest
from edgeexit.bundle import Bundle
from edgeexit.replay import judge
from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.settings import ExportSettings
from integration.material import MEAN, STD, classifier, pictures, save_folder
from runtime.cascades import write_pair, write_tiny

__all__ = ["KINDS", "bundle", "bundles"]

KINDS = ("skipping", "two models", "class means", "int8 with a state")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One of each kind."""
    root = tmp_path_factory.mktemp("triton")
    for name in ("means", "int8"):
        onnx.save(classifier(3, 16), root / f"{name}.onnx")
    data = save_folder(root / "train", *pictures(300, 1))
    common = {"mean": MEAN, "std": STD, "exits": "2", "max_drop": 0.2, "threads": 1, "quiet": True}
    export(
        [str(root / "means.onnx")],
        data,
        root / "means",
        ExportSettings(head=HeadSettings(kind="class-means"), **common),
    )
    export(
        [str(root / "int8.onnx")],
        data,
        root / "int8",
        ExportSettings(precision="int8", policy="stacked-margin", **common),
    )
    spread_out(root / "means")
    spread_out(root / "int8")
    paths = (write_tiny(root / "tiny"), write_pair(root / "pair"), root / "means", root / "int8")
    return {kind: Bundle.open(path) for kind, path in zip(KINDS, paths, strict=True)}


def spread_out(folder: Path) -> None:
    """Set thresholds between golden samples' scores, so that a third or so of those who get there leave."""
    bundle = Bundle.open(folder)
    logits = [bundle.check[f"logits.{k}"] for k in range(len(bundle.manifest.exits))]
    scores = np.sort(judge(bundle.policy(), logits).score, axis=1)[:-1]
    middle = scores.shape[1] * 2 // 3

    def alter(document: dict[str, Any]) -> None:
        for entry, row in zip(document["exits"], scores, strict=False):
            entry["threshold"] = float((row[middle - 1] + row[middle]) / 2)

    rewrite_manifest(folder, alter)


@pytest.fixture(params=KINDS)
def bundle(request: pytest.FixtureRequest, bundles: dict[str, Bundle]) -> Bundle:
    """Each in turn."""
    return bundles[request.param]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Where a model repository may be written."""
    return tmp_path / "models"
