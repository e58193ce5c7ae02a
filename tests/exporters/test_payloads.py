"""Payloads measured at export: what a boundary takes in each precision, and whose answers change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cascades import analysed, segments
from edgeexit.bundle import Bundle
from edgeexit.data import Dataset, open_data
from edgeexit.manifest import Manifest, Preprocessing, TensorSpec
from edgeexit.payload import PRECISIONS, pack_all, packed_bytes, unpack_all
from edgeexit.policies import MaxProbability, PooledProbability
from edgeexit.replay import judge, replay
from edgeexit.tails import boundary
from edgeexit_exporters.chain import Chain
from edgeexit_exporters.exporting import export
from edgeexit_exporters.packing import Calibrated
from edgeexit_exporters.payloads import measure_payloads
from edgeexit_exporters.settings import ExportSettings
from integration.material import classifier, normalised, pictures, save_arrays

INF = float("inf")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of an export with two cuts, calibrated on 200 samples."""
    root = tmp_path_factory.mktemp("exported")
    onnx.save(classifier(3, 8), root / "model.onnx")
    splits = {}
    for word, n, seed in (("train", 400, 1), ("calibration", 200, 2)):
        pixels, labels = pictures(n, seed)
        splits[word] = save_arrays(root / f"{word}.npz", x=normalised(pixels), y=labels)
    settings = ExportSettings(exits="2", policy="stacked-margin", quiet=True, threads=1, max_drop=0.05)
    sources = [str(root / "model.onnx")]
    export(sources, splits["train"], root / "bundle", settings, calibration=splits["calibration"])
    return Bundle.open(root / "bundle").manifest


def test_nothing_is_handed_on_in_front_of_the_first_segment(manifest: Manifest) -> None:
    assert manifest.segments[0].payloads is None


@pytest.mark.parametrize("k", [1, 2])
def test_every_precision_is_there_with_the_bytes_of_its_boundary(manifest: Manifest, k: int) -> None:
    crossing = boundary(manifest, k)
    found = {entry.precision: entry for entry in manifest.segments[k].payloads or ()}
    assert tuple(found) == PRECISIONS
    for precision, entry in found.items():
        assert entry.size_bytes == sum(packed_bytes(spec, precision) for spec in crossing)
        assert 0 < entry.compressed_bytes < 1.1 * entry.size_bytes + 20
    assert found["uint8"].size_bytes < found["fp16"].size_bytes < found["fp32"].size_bytes


def calibrated(thresholds: Sequence[float], tmp_path: Path, change: Any = lambda x: x) -> Calibrated:
    """A cascade of three segments with these thresholds, and 200 samples."""
    pixels, labels = pictures(200, 3)
    x = change(normalised(pixels))
    analysis = analysed(classifier(3, 8, exits=("a", "b", "c")), {"image": x})
    parts = segments(analysis, ())
    path = save_arrays(tmp_path / "x.npz", x=x, y=labels)
    data: Dataset = open_data(
        path, (TensorSpec(name="image", dtype="float32", shape=x.shape[1:]),), Preprocessing(kind="array")
    )
    return Calibrated(
        segments=parts,
        infos=analysis.infos,
        kinds=["model"] * 3,
        policy=MaxProbability((1.0,) * 3, tuple(thresholds)),
        costs=np.ones(3),
        logits=Chain(parts, threads=1).logits({"image": x}),
        labels=labels,
        reference=None,
        rows=np.arange(200),
        data=data,
        held_out=False,
    )


def with_outliers(x: np.ndarray) -> np.ndarray:
    """Samples with one pixel so bright that 256 levels are few."""
    x[:, :, 0, 0] = 1000
    return x


def changed(cascade: Calibrated, k: int, precision: str) -> float:
    """The share of those that come to boundary k whose label or exit changes, by replaying everybody's logits."""
    chain = Chain(cascade.segments, threads=1)
    tensors: dict[str, Any] = next(iter(cascade.data.batches(len(cascade.rows))))
    logits = []
    for j in range(len(cascade.segments)):
        if j == k:
            specs = [TensorSpec(name=n, dtype=a.dtype.name, shape=a.shape[1:]) for n, a in tensors.items()]
            tensors = unpack_all(pack_all(tensors, precision), specs)
        tensors, at_exit = chain.step(j, tensors)
        logits.append(at_exit)
    plain, rounded = replay(cascade.policy, cascade.logits), replay(cascade.policy, logits)
    other = (plain.label != rounded.label) | (plain.exit != rounded.exit)
    return float(other[plain.exit >= k].mean())


@pytest.mark.parametrize("policy", [MaxProbability, PooledProbability])
def test_changed_is_the_share_that_is_answered_otherwise(tmp_path: Path, policy: Any) -> None:
    cascade = calibrated([INF] * 3, tmp_path, change=with_outliers)
    fitted = policy.fit(cascade.logits, cascade.labels)
    scores = judge(fitted, cascade.logits).score
    cascade = replace(cascade, policy=fitted.with_thresholds((*np.quantile(scores[:2], 0.6, axis=1).tolist(), INF)))
    found = measure_payloads(cascade, threads=1, quiet=True)
    shares = {(k, entry.precision): entry.changed for k in (1, 2) for entry in found[k] or ()}
    assert shares == {(k, p): pytest.approx(changed(cascade, k, p), abs=0.011) for k in (1, 2) for p in PRECISIONS}
    assert shares[1, "uint8"] > 0.02


def test_a_boundary_that_no_sample_comes_to_has_no_payloads(tmp_path: Path) -> None:
    found = measure_payloads(calibrated([INF, 0.0, INF], tmp_path), threads=1, quiet=True)
    assert [entries is None for entries in found] == [True, False, True]


def test_with_nobody_leaving_early_only_labels_can_change(tmp_path: Path) -> None:
    cascade = calibrated([INF] * 3, tmp_path)
    found = measure_payloads(cascade, threads=1, quiet=True)
    assert all(entry.changed < 0.2 for entries in found[1:] for entry in entries or ())
    assert found == measure_payloads(replace(cascade, costs=2 * cascade.costs), threads=1, quiet=True)


def test_a_precision_that_the_values_cannot_be_written_in_is_left_out(tmp_path: Path) -> None:
    cascade = calibrated([INF] * 3, tmp_path, change=lambda x: np.where(x > 1.5, np.float32(3e38), x))
    with np.errstate(all="ignore"):
        found = measure_payloads(cascade, threads=1, quiet=True)
    assert [entry.precision for entry in found[1] or ()] == ["fp32", "fp16"]
