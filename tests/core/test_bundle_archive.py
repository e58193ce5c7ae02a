"""The `.eexit` form: one byte sequence for given contents, and nothing else is opened."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.bundles import bundle_parts, flipped, opens, signed, snapshot, write_small
from edgeexit.bundle import Bundle
from edgeexit.bundle.archive import pack
from edgeexit.errors import BundleError

NAMES = ["manifest.json", "check.safetensors", "exits.safetensors", "segments/00.onnx", "segments/01.onnx"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("folder") / "bundle")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_small(tmp_path_factory.mktemp("archive") / "bundle.eexit").read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a test puts the archive that it falsified."""
    return tmp_path_factory.mktemp("false") / "bundle.eexit"


def test_an_archive_opens_as_its_folder_does(folder: Path, path: Path, original: bytes) -> None:
    path.write_bytes(original)
    archive, plain = Bundle.open(path), Bundle.open(folder)
    assert (archive.manifest, archive.contents, archive.size_bytes) == (
        plain.manifest,
        plain.contents,
        plain.size_bytes,
    )


def test_an_archive_is_an_ordinary_zip_of_the_folder(folder: Path, original: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == snapshot(folder)
        assert archive.namelist() == NAMES


def test_an_unpacked_archive_is_a_bundle_folder(tmp_path: Path, original: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        archive.extractall(tmp_path)
    assert opens(tmp_path)


def test_an_archive_needs_no_suffix_to_be_opened(tmp_path: Path, original: bytes) -> None:
    (tmp_path / "download").write_bytes(original)
    assert opens(tmp_path / "download")


def test_no_byte_can_be_flipped(path: Path, original: bytes) -> None:
    path.write_bytes(original)
    for position in range(len(original)):
        with flipped(path, position, 1 << position % 8), pytest.raises(BundleError, match=r"bundle\.eexit: "):
            Bundle.open(path)
    assert opens(path)


@given(data=st.data(), change=st.integers(1, 255))
def test_a_flipped_byte_is_refused_whatever_the_change(
    path: Path, original: bytes, data: st.DataObject, change: int
) -> None:
    path.write_bytes(original)
    position = data.draw(st.integers(0, len(original) - 1))
    with flipped(path, position, change), pytest.raises(BundleError):
        Bundle.open(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_in_a_file_is_refused_by_its_name(path: Path, folder: Path, original: bytes, name: str) -> None:
    position = original.index((folder / name).read_bytes()) + 20 % (folder / name).stat().st_size
    path.write_bytes(original[:position] + b"\xff" + original[position + 1 :])
    with pytest.raises(BundleError, match=f"{name} does not match its (hash|checksum)"):
        Bundle.open(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_in_a_header_is_refused_by_the_files_name(path: Path, original: bytes, name: str) -> None:
    position = header_position(original, name) + 29  # the last field: no extra bytes
    path.write_bytes(original[:position] + b"\x01" + original[position + 1 :])
    with pytest.raises(BundleError, match=f"{name} is not stored as EdgeExit stores it"):
        Bundle.open(path)


@given(data=st.data())
def test_a_truncated_archive_is_refused(path: Path, original: bytes, data: st.DataObject) -> None:
    path.write_bytes(original[: data.draw(st.integers(0, len(original) - 1))])
    with pytest.raises(BundleError):
        Bundle.open(path)


@given(extra=st.binary(min_size=1, max_size=40))
def test_bytes_behind_the_archive_are_refused(path: Path, original: bytes, extra: bytes) -> None:
    path.write_bytes(original + extra)
    with pytest.raises(BundleError, match="wrong size"):
        Bundle.open(path)


@given(extra=st.binary(min_size=1, max_size=40))
def test_bytes_in_front_of_the_archive_are_refused(path: Path, original: bytes, extra: bytes) -> None:
    path.write_bytes(extra + original)
    with pytest.raises(BundleError):
        Bundle.open(path)


@settings(max_examples=200)
@given(data=st.binary(max_size=300), start=st.sampled_from([0, 4, 30, 43, 55, 122]))
def test_arbitrary_bytes_are_refused_wherever_they_begin(path: Path, original: bytes, data: bytes, start: int) -> None:
    path.write_bytes(original[:start] + data)
    with pytest.raises(BundleError):
        Bundle.open(path)


@given(st.binary(max_size=100))
def test_arbitrary_manifests_are_refused_in_a_sound_archive(path: Path, rest: bytes) -> None:
    path.write_bytes(b"".join(pack({"manifest.json": signed(rest)})))
    with pytest.raises(BundleError, match=r"manifest\.json "):
        Bundle.open(path)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA], ids=["stored", "deflated", "lzma"]
)
def test_an_archive_packed_by_another_tool_is_refused_with_advice(folder: Path, path: Path, method: int) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in NAMES:
            archive.write(folder / name, name)
    with pytest.raises(BundleError, match=r"manifest\.json is not stored as EdgeExit stores it(.|\n)*unzip"):
        Bundle.open(path)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_missing_file_is_refused(folder: Path, path: Path, name: str) -> None:
    path.write_bytes(b"".join(pack({other: (folder / other).read_bytes() for other in NAMES if other != name})))
    with pytest.raises(BundleError, match=f"missing(.|\n)*{name}"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["notes.txt", "../escape", "/absolute", "segments\\00.onnx", "segments/../x"])
def test_an_extra_file_is_refused(folder: Path, path: Path, name: str) -> None:
    path.write_bytes(b"".join(pack({**{known: (folder / known).read_bytes() for known in NAMES}, name: b"x"})))
    with pytest.raises(BundleError, match="extra"):
        Bundle.open(path)


def test_a_file_under_another_name_is_refused(folder: Path, path: Path) -> None:
    contents = {name: (folder / name).read_bytes() for name in NAMES}
    contents["../ments/01.onnx"] = contents.pop("segments/01.onnx")
    path.write_bytes(b"".join(pack(contents)))
    with pytest.raises(BundleError, match=r"segments/01\.onnx is not stored as EdgeExit stores it"):
        Bundle.open(path)


def test_a_name_given_twice_is_refused(original: bytes, path: Path) -> None:
    position = header_position(original, "segments/01.onnx")
    path.write_bytes(original[:position] + original[position:].replace(b"segments/01.onnx", b"segments/00.onnx"))
    with pytest.raises(BundleError, match=r"segments/01\.onnx is not stored"):
        Bundle.open(path)


def test_another_order_of_files_is_refused(folder: Path, path: Path) -> None:
    names = [NAMES[0], *reversed(NAMES[1:])]
    path.write_bytes(b"".join(pack({name: (folder / name).read_bytes() for name in names})))
    with pytest.raises(BundleError):
        Bundle.open(path)


def test_an_archive_that_claims_terabytes_is_refused_without_reading_it(original: bytes, path: Path) -> None:
    path.write_bytes(original)
    os.truncate(path, 1 << 40)
    with pytest.raises(BundleError, match="wrong size"):
        Bundle.open(path)


def test_a_manifest_far_too_large_is_refused_without_reading_it(original: bytes, path: Path) -> None:
    path.write_bytes(original[:18] + (1 << 31).to_bytes(4, "little") * 2 + original[26:])
    os.truncate(path, 1 << 33)
    with pytest.raises(BundleError, match=r"manifest\.json is too large"):
        Bundle.open(path)


def test_an_empty_zip_is_refused(path: Path) -> None:
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(path)


def test_a_bundle_can_be_repacked_from_its_own_contents(path: Path, original: bytes) -> None:
    path.write_bytes(original)
    bundle = Bundle.open(path)
    assert b"".join(pack({"manifest.json": snapshot_manifest(original), **bundle.contents})) == original
    assert bundle.contents.keys() == bundle_parts()[1].keys()


def header_position(archive: bytes, name: str) -> int:
    (header,) = re.finditer(rb"PK\x03\x04.{26}" + re.escape(name.encode()), archive, re.DOTALL)
    return header.start()


def snapshot_manifest(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read("manifest.json")
