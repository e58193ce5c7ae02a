"""Opening a bundle folder: whole and unaltered, or refused by the name of the file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundles import bundle_parts, exits_tensors, flipped, opens, snapshot, write_small
from edgeexit.bundle import Bundle
from edgeexit.bundle.layout import MAX_MANIFEST_BYTES
from edgeexit.errors import BundleError
from edgeexit.policies import MaxProbability

FILES = ["check.safetensors", "exits.safetensors", "manifest.json", "segments/00.onnx", "segments/01.onnx"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small(tmp_path / "bundle")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for properties; whoever alters it restores it."""
    return write_small(tmp_path_factory.mktemp("shared") / "bundle")


def test_a_bundle_gives_back_what_was_written(folder: Path) -> None:
    manifest, contents = bundle_parts()
    bundle = Bundle.open(folder)
    assert bundle.manifest == manifest
    assert bundle.contents == contents
    assert bundle.segment(1) == contents["segments/01.onnx"]
    assert bundle.size_bytes == sum(map(len, snapshot(folder).values()))


def test_a_bundle_gives_its_exits_tensors(folder: Path) -> None:
    tensors = Bundle.open(folder).exits
    assert tensors.keys() == exits_tensors().keys()
    assert all(np.array_equal(tensors[name], array) for name, array in exits_tensors().items())


def test_a_bundle_gives_its_golden_samples(folder: Path) -> None:
    assert Bundle.open(folder).check["logits.1"].tolist() == [[0, 2, 0], [0, 2, 0]]


def test_a_bundle_gives_its_policy(folder: Path) -> None:
    policy = Bundle.open(folder).policy()
    assert isinstance(policy, MaxProbability)
    assert (policy.temperatures, policy.thresholds) == ((1.0, 1.0), (0.75, float("inf")))


def test_a_bundle_keeps_the_bytes_that_were_checked(folder: Path) -> None:
    bundle = Bundle.open(folder)
    (folder / "segments/00.onnx").write_bytes(b"other")
    assert bundle.segment(0) == b"graph 0"


@given(data=st.data(), change=st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_refused(shared: Path, data: st.DataObject, change: int) -> None:
    path = shared / data.draw(st.sampled_from(FILES))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    with flipped(path, position, change), pytest.raises(BundleError, match=str(path.relative_to(shared))):
        Bundle.open(shared)


@given(data=st.data())
def test_a_file_cut_short_is_refused(shared: Path, data: st.DataObject) -> None:
    path = shared / data.draw(st.sampled_from(FILES))
    original = path.read_bytes()
    path.write_bytes(original[: data.draw(st.integers(0, len(original) - 1))])
    try:
        with pytest.raises(BundleError, match=str(path.relative_to(shared))):
            Bundle.open(shared)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_refused(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "segments/02.onnx", "segments/00.onnx.data"])
def test_an_extra_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(BundleError, match=f"does not list: '{name}'"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["more", "segments/more"])
def test_an_extra_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    with pytest.raises(BundleError, match=f"does not list: '{name}'"):
        Bundle.open(folder)


def test_an_extra_name_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff")).touch()
    with pytest.raises(BundleError, match="does not list"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", [*FILES, "segments"])
def test_a_symbolic_link_is_refused_even_to_the_right_content(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name} cannot be part of a bundle\n  got: a symbolic link"):
        Bundle.open(folder)


def test_a_link_to_the_whole_bundle_is_the_users_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert opens(tmp_path / "current")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_a_files_place_is_refused_without_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=f"{name} cannot be part of a bundle\n  got: a named pipe"):
        Bundle.open(folder)


def test_a_socket_in_a_files_place_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "exits.safetensors").unlink()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("exits.safetensors")
        with pytest.raises(BundleError, match=r"exits\.safetensors cannot be part of a bundle\n  got: a socket"):
            Bundle.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_files_place_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(BundleError, match=f"{name} cannot be part of a bundle\n  got: a folder"):
        Bundle.open(folder)


def test_a_file_in_the_place_of_the_segments_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "segments")
    (folder / "segments").touch()
    with pytest.raises(BundleError, match="segments cannot be part of a bundle\n  got: a regular file"):
        Bundle.open(folder)


def test_a_manifest_far_too_large_is_refused_without_reading_it(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 1 << 40)
    with pytest.raises(BundleError, match=rf"manifest.json is too large(.|\n)*{MAX_MANIFEST_BYTES}"):
        Bundle.open(folder)


def test_a_file_that_grew_to_terabytes_is_refused_without_reading_it(folder: Path) -> None:
    os.truncate(folder / "segments/00.onnx", 1 << 40)
    with pytest.raises(BundleError, match=r"segments/00\.onnx has the wrong size"):
        Bundle.open(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(folder: Path) -> None:
    (folder / "exits.safetensors").chmod(0)
    with pytest.raises(BundleError, match=r"exits\.safetensors cannot be read"):
        Bundle.open(folder)


def test_a_path_with_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nothing: there is no bundle here"):
        Bundle.open(tmp_path / "nothing")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(tmp_path)


def test_a_foreign_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    with pytest.raises(BundleError, match=r"manifest\.json does not begin as an EdgeExit manifest"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"P", b"\x08\x08\x12\x07pytorch", b"a" * 10_000])
def test_a_file_that_is_no_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx: not a bundle"):
        Bundle.open(tmp_path / "model.onnx")


def test_the_manifest_given_for_its_folder_gets_advice(folder: Path) -> None:
    with pytest.raises(BundleError, match=f"give {folder} instead"):
        Bundle.open(folder / "manifest.json")


def test_a_pipe_given_for_a_bundle_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["a\0b", "a" * 300, "x/" * 3000], ids=["null byte", "long name", "long path"])
def test_what_cannot_be_a_path_is_refused(path: str) -> None:
    with pytest.raises(BundleError):
        Bundle.open(path)


def test_a_path_through_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(folder / "manifest.json" / "bundle")


def test_opening_bundles_needs_neither_console_nor_image_nor_model_libraries() -> None:
    code = "import sys, edgeexit.bundle; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert not {"rich", "click", "PIL", "torch", "onnx", "onnxruntime", "safetensors"} & set(loaded.stdout.split())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
