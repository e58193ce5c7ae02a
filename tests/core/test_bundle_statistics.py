"""statistics.safetensors: hashed with everything, kept by nobody who did not ask, refused where it does not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from core.bundles import bundle_parts, flipped, opens, rewrite_manifest
from edgeexit.bundle import STATISTICS_FILE, Bundle, file_entry, write_bundle
from edgeexit.errors import BundleError
from edgeexit.manifest import FORMAT_VERSION, DriftReference, Manifest, TensorSpec
from edgeexit.tensors import save_tensors

FEATURES = TensorSpec(name="exit.0.flat", dtype="float32", shape=(4,))
STATISTICS = {
    "counts.0": np.array([2.0, 0.0, 3.5]),
    "means.0": np.arange(12, dtype=np.float32).reshape(3, 4),
    "covariance.0": np.ones(10, dtype=np.float32),
    "shrinkage.0": np.array([0.1]),
}
FORMS = ["bundle", "bundle.eexit"]


def parts(**changes: Any) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle of two segments whose first has a Gaussian head with statistics; None leaves a tensor out."""
    manifest, contents = bundle_parts()
    tensors = {name: array for name, array in {**STATISTICS, **changes}.items() if array is not None}
    contents[STATISTICS_FILE] = save_tensors(tensors)
    segments = (msgspec.structs.replace(manifest.segments[0], features=FEATURES), manifest.segments[1])
    exits = (msgspec.structs.replace(manifest.exits[0], head="gaussian"), manifest.exits[1])
    entry = file_entry(STATISTICS_FILE, contents[STATISTICS_FILE])
    return msgspec.structs.replace(manifest, segments=segments, exits=exits, statistics_file=entry), contents


def written(path: Path, **changes: Any) -> Path:
    write_bundle(path, *parts(**changes))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_statistics_come_back_as_they_were_written(tmp_path: Path, form: str) -> None:
    bundle = Bundle.open(written(tmp_path / form))
    found = bundle.statistics()
    assert found is not None
    assert found.keys() == STATISTICS.keys()
    assert all((found[name] == array).all() for name, array in STATISTICS.items())
    assert bundle.contents[STATISTICS_FILE] == parts()[1][STATISTICS_FILE]


@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_written_again_from_what_was_read_has_the_same_bytes(tmp_path: Path, form: str) -> None:
    first = Bundle.open(written(tmp_path / form))
    second = tmp_path / f"again-{form}"
    write_bundle(second, first.manifest, first.contents)
    assert dict(Bundle.open(second).contents) == dict(first.contents) == parts()[1]


def test_a_bundle_without_statistics_has_none(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", *bundle_parts())
    assert Bundle.open(tmp_path / "bundle").statistics() is None


@pytest.mark.parametrize("form", FORMS)
def test_statistics_are_read_when_asked_for_and_not_before(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / form)
    bundle = Bundle.open(path)
    path.rename(tmp_path / "elsewhere")
    assert bundle.check
    with pytest.raises(BundleError, match="there is no bundle here"):
        bundle.statistics()


@pytest.mark.parametrize("form", FORMS)
def test_statistics_changed_since_the_bundle_was_opened_are_refused(tmp_path: Path, form: str) -> None:
    path = written(tmp_path / form)
    bundle = Bundle.open(path)
    written(path, **{"counts.0": np.array([2.0, 0.0, 4.5])})
    with pytest.raises(BundleError, match=r"statistics\.safetensors does not match its hash"):
        bundle.statistics()


def test_a_relative_path_holds_after_the_working_folder_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    bundle = Bundle.open("bundle")
    monkeypatch.chdir("/")
    assert bundle.statistics()


def test_any_altered_byte_of_statistics_is_found_when_a_folder_is_opened(tmp_path: Path) -> None:
    file = written(tmp_path / "bundle") / STATISTICS_FILE
    for position in range(0, file.stat().st_size, 7):
        with flipped(file, position, 1), pytest.raises(BundleError, match=r"statistics\.safetensors"):
            Bundle.open(tmp_path / "bundle")
    assert opens(tmp_path / "bundle")


def test_any_altered_byte_around_statistics_is_found_when_an_archive_is_opened(tmp_path: Path) -> None:
    path = written(tmp_path / "bundle.eexit")
    start = path.read_bytes().index(STATISTICS_FILE.encode()) - 30
    for position in range(start, path.stat().st_size, 5):
        with flipped(path, position, 1), pytest.raises(BundleError):
            Bundle.open(path)
    assert opens(path)


@pytest.mark.parametrize("damage", ["removed", "cut short", "a link"])
def test_a_file_of_statistics_that_is_not_whole_is_refused(tmp_path: Path, damage: str) -> None:
    file = written(tmp_path / "bundle") / STATISTICS_FILE
    data = file.read_bytes()
    file.unlink()
    if damage == "cut short":
        file.write_bytes(data[:-1])
    elif damage == "a link":
        (tmp_path / "data").write_bytes(data)
        os.symlink(tmp_path / "data", file)
    with pytest.raises(BundleError, match=r"statistics\.safetensors"):
        Bundle.open(tmp_path / "bundle")


def test_a_file_of_statistics_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "bundle")
    rewrite_manifest(folder, lambda document: document.update(statistics_file=None))
    with pytest.raises(BundleError, match="does not list"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts.0": None}, "'counts.0' is missing"),
        ({"counts.1": np.ones(3)}, "'counts.1' is not one"),
        ({"means.0": np.ones((4, 3), np.float32)}, "'means.0' does not fit"),
        ({"counts.0": np.ones(3, np.float32)}, "'counts.0' does not fit"),
        ({"counts.0": np.array([1.0, -1.0, 1.0])}, "'counts.0' holds no counts"),
        ({"counts.0": np.zeros(3)}, "'counts.0' holds no counts"),
        ({"covariance.0": np.full(10, np.nan, np.float32)}, "'covariance.0' holds NaN"),
    ],
)
def test_statistics_that_do_not_fit_are_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        written(tmp_path / "bundle", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (TensorSpec(name="x", dtype="float32", shape=(4,)), "name of its features"),
        (TensorSpec(name="logits.0", dtype="float32", shape=(4,)), "name of its features"),
        (TensorSpec(name="", dtype="float32", shape=(4,)), "no name"),
        (TensorSpec(name="f", dtype="float16", shape=(4,)), "unusable features"),
        (TensorSpec(name="f", dtype="float32", shape=(2, 2)), "unusable features"),
        (TensorSpec(name="f", dtype="float32", shape=(0,)), "unusable shape"),
    ],
)
def test_features_that_no_head_reads_are_refused(tmp_path: Path, features: TensorSpec, message: str) -> None:
    manifest, contents = bundle_parts()
    segments = (msgspec.structs.replace(manifest.segments[0], features=features), *manifest.segments[1:])
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "bundle", msgspec.structs.replace(manifest, segments=segments), contents)


DRIFT = DriftReference(agreeing=8, edges=((0.5, 0.75), ()), counts=((2, 3, 1), (2,)))


def test_a_reference_for_drift_is_stored(tmp_path: Path) -> None:
    manifest, contents = bundle_parts()
    calibration = msgspec.structs.replace(manifest.calibration, drift=DRIFT)
    write_bundle(tmp_path / "bundle", msgspec.structs.replace(manifest, calibration=calibration), contents)
    assert Bundle.open(tmp_path / "bundle").manifest.calibration.drift == DRIFT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edges": ((0.5, 0.75),)}, "for every exit"),
        ({"counts": ((2, 3), (3,))}, "for every exit"),
        ({"counts": ((2, 3, 1), (2,), (0,))}, "for every exit"),
        ({"edges": ((0.75, 0.5), ())}, "do not rise"),
        ({"edges": ((0.5, 0.5), ())}, "do not rise"),
        ({"counts": ((2, 3, 1), (3,))}, "does not count the samples"),
        ({"counts": ((5, 4, -3), (2,))}, "does not count the samples"),
        ({"agreeing": 9}, "does not count the samples"),
        ({"agreeing": -1}, "does not count the samples"),
    ],
)
def test_a_reference_that_no_samples_give_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    manifest, contents = bundle_parts()
    drift = msgspec.structs.replace(DRIFT, **changes)
    calibration = msgspec.structs.replace(manifest.calibration, drift=drift)
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "bundle", msgspec.structs.replace(manifest, calibration=calibration), contents)


@pytest.mark.parametrize(
    "alter",
    [
        lambda document: document.pop("statistics_file"),
        lambda document: document["segments"][1].pop("features"),
        lambda document: document["calibration"].pop("drift"),
    ],
)
def test_a_manifest_without_a_key_since_version_2_is_refused(
    tmp_path: Path, alter: Callable[[dict[str, Any]], object]
) -> None:
    write_bundle(tmp_path / "bundle", *bundle_parts())
    rewrite_manifest(tmp_path / "bundle", alter)
    with pytest.raises(BundleError, match=f"keys of format version {FORMAT_VERSION}"):
        Bundle.open(tmp_path / "bundle")
