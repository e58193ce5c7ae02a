"""A bundle that is not whole is refused by every command, with exit code 3 and the name of what is wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.bundles import flipped, rewrite_manifest, snapshot

Cli = Callable[..., Any]

COMMANDS = ("eval", "run", "verify", "inspect", "bench")
PLAIN = ("plain.onnx", "--exits", "2")
FILES = (
    "manifest.json",
    "segments/00.onnx",
    "segments/01.onnx",
    "segments/02.onnx",
    "exits.safetensors",
    "check.safetensors",
)


@pytest.fixture
def folder(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported(*PLAIN), tmp_path / "bundle"))


@pytest.fixture
def archive(exported: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(exported(*PLAIN, suffix=".eexit"), tmp_path / "bundle.eexit"))


@pytest.fixture
def refuses(cli: Cli, world: Path, tmp_path: Path) -> Callable[..., None]:
    """Run a command on a bundle and see it refused, with the named file, no traceback and nothing written."""

    def check(command: str, bundle: Path, named: str) -> None:
        more = {"eval": ["--data", world / "test"], "run": [world / "test"]}
        before = snapshot(tmp_path)
        outcome = cli(command, bundle, *more.get(command, []))
        assert (outcome.code, outcome.stdout) == (3, "")
        assert outcome.stderr.startswith(f"error: {bundle}")
        assert named in outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert snapshot(tmp_path) == before

    return check


def test_the_list_of_files_is_complete(folder: Path) -> None:
    assert sorted(snapshot(folder)) == sorted(FILES)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused_with_the_files_name(
    refuses: Callable[..., None], folder: Path, name: str, command: str
) -> None:
    middle = (folder / name).stat().st_size // 2
    with flipped(folder / name, middle, 0x10):
        refuses(command, folder, name)


def test_a_flipped_bit_anywhere_in_an_archive_is_refused(refuses: Callable[..., None], archive: Path) -> None:
    size = archive.stat().st_size
    random = np.random.default_rng(0)
    edges = [*range(0, 64, 3), *range(size - 64, size, 3)]
    for position in [*edges, *random.integers(0, size, 60).tolist()]:
        with flipped(archive, position, 1 << int(random.integers(8))):
            refuses("inspect", archive, archive.name)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flipped_bit_in_an_archive_is_refused_by_every_command(
    refuses: Callable[..., None], archive: Path, command: str
) -> None:
    with flipped(archive, archive.stat().st_size // 3, 0x01):
        refuses(command, archive, archive.name)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(refuses: Callable[..., None], folder: Path, name: str, command: str) -> None:
    (folder / name).unlink()
    refuses(command, folder, name)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["notes.txt", "segments/03.onnx", ".hidden", "segments/.hidden"])
def test_an_extra_file_is_named(refuses: Callable[..., None], folder: Path, name: str, command: str) -> None:
    (folder / name).write_bytes(b"more")
    refuses(command, folder, name)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "path", ["../outside.onnx", "segments/../../outside.onnx", "/etc/passwd", "segments/./00.onnx"]
)
def test_a_path_out_of_the_bundle_is_named(refuses: Callable[..., None], folder: Path, path: str, command: str) -> None:
    shutil.copy(folder / "segments/00.onnx", folder.parent / "outside.onnx")
    rewrite_manifest(folder, lambda document: document["segments"][0]["file"].update(path=path))
    refuses(command, folder, path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link_is_named(refuses: Callable[..., None], folder: Path, name: str, command: str) -> None:
    moved = folder.parent / "elsewhere"
    shutil.move(folder / name, moved)
    os.symlink(moved, folder / name)
    refuses(command, folder, name)


def test_a_linked_folder_of_segments_is_named(refuses: Callable[..., None], folder: Path) -> None:
    shutil.move(folder / "segments", folder.parent / "elsewhere")
    os.symlink(folder.parent / "elsewhere", folder / "segments")
    refuses("verify", folder, "segments")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 1.0])
def test_a_truncated_archive_is_refused(
    refuses: Callable[..., None], archive: Path, share: float, command: str
) -> None:
    data = archive.read_bytes()
    archive.write_bytes(data[: min(int(share * len(data)), len(data) - 1)])
    refuses(command, archive, archive.name)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(refuses: Callable[..., None], folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    refuses("verify", folder, name)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_newer_version_is_refused(refuses: Callable[..., None], folder: Path, command: str) -> None:
    rewrite_manifest(folder, lambda document: document.update(version=document["version"] + 1))
    refuses(command, folder, "manifest.json")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["manifest", "segment", "exit", "policy"])
def test_an_unknown_key_is_refused(refuses: Callable[..., None], folder: Path, place: str, command: str) -> None:
    def alter(document: dict[str, Any]) -> None:
        part = {"manifest": document, "segment": document["segments"][1], "exit": document["exits"][0]}
        part.get(place, document["policy"])["colour"] = "green"

    rewrite_manifest(folder, alter)
    refuses(command, folder, "colour")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_bundle_that_is_not_there_is_named(refuses: Callable[..., None], tmp_path: Path, command: str) -> None:
    refuses(command, tmp_path / "none.eexit", "none.eexit")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_no_bundle_is_named(refuses: Callable[..., None], world: Path, command: str) -> None:
    refuses(command, world / "plain.onnx", "plain.onnx")


def test_a_bundle_is_not_written_into_by_reading_it(cli: Cli, folder: Path, world: Path) -> None:
    before = snapshot(folder)
    for command in COMMANDS:
        more = {"eval": ["--data", world / "test"], "run": [world / "test"], "bench": ["--seconds", 0, "--batch", 1]}
        assert cli(command, folder, *more.get(command, [])).code == 0
    assert snapshot(folder) == before
