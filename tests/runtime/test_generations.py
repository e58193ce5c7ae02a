"""Generations: one bundle is current at every moment, whatever happens, and the one before can come back."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from core.bundles import bundle_parts
from edgeexit.bundle import Bundle, write_bundle
from edgeexit.errors import UsageError
from edgeexit_runtime.living import Generations


def bundle_of(folder: Path, mark: int) -> Bundle:
    """A bundle that can be told from others by its number of MACs."""
    manifest, contents = bundle_parts()
    path = folder / f"bundle{mark}.eexit"
    write_bundle(path, msgspec.structs.replace(manifest, macs=1000 + mark), contents)
    return Bundle.open(path)


def mark_of(path: Path) -> int:
    return Bundle.open(path).manifest.macs - 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bundles"


@pytest.fixture
def three(tmp_path: Path, folder: Path) -> Generations:
    """Three generations, marked 1, 2 and 3."""
    generations = Generations(folder)
    for mark in (1, 2, 3):
        generations.install(bundle_of(tmp_path, mark))
    return generations


def test_what_was_installed_last_is_current(three: Generations, folder: Path) -> None:
    assert mark_of(three.current()) == 3
    assert mark_of(folder / "current") == 3
    assert [mark_of(path) for path in three.installed()] == [1, 2, 3]


def test_going_back_makes_the_one_before_current_and_again_the_one_before_that(
    three: Generations, folder: Path
) -> None:
    assert mark_of(three.roll_back()) == 2
    assert mark_of(folder / "current") == 2
    assert mark_of(three.roll_back()) == 1
    with pytest.raises(UsageError, match="nothing to go back to"):
        three.roll_back()
    assert mark_of(folder / "current") == 1


def test_a_generation_that_was_left_is_not_gone_back_to(three: Generations, tmp_path: Path) -> None:
    three.roll_back()
    three.install(bundle_of(tmp_path, 4))
    assert mark_of(three.current()) == 4
    assert mark_of(three.roll_back()) == 2


def test_no_more_are_kept_than_were_asked_for(tmp_path: Path, folder: Path) -> None:
    generations = Generations(folder, keep=3)
    for mark in range(1, 8):
        generations.install(bundle_of(tmp_path, mark))
        assert len(generations.installed()) <= 3
    assert [mark_of(path) for path in generations.installed()] == [5, 6, 7]
    assert sorted(os.listdir(folder)) == ["000005.eexit", "000006.eexit", "000007.eexit", "current"]


def test_another_process_sees_the_same_generations(three: Generations, folder: Path) -> None:
    assert Generations(folder).installed() == three.installed()


@pytest.mark.parametrize("keep", [1, 0, -1])
def test_a_folder_that_keeps_one_bundle_is_refused(folder: Path, keep: int) -> None:
    with pytest.raises(UsageError, match="nothing to go back to"):
        Generations(folder, keep=keep)


@pytest.mark.parametrize("call", ["current", "roll_back"])
def test_a_folder_without_generations_has_no_current_one(folder: Path, call: str) -> None:
    assert Generations(folder).installed() == []
    with pytest.raises(UsageError, match="has no current bundle"):
        getattr(Generations(folder), call)()
    assert not folder.exists()


@pytest.mark.parametrize("target", ["../elsewhere.eexit", "/etc/passwd", "000009.eexit", "model.eexit"])
def test_a_link_to_anything_else_is_refused(three: Generations, folder: Path, target: str) -> None:
    (folder / "current").unlink()
    (folder / "current").symlink_to(target)
    with pytest.raises(UsageError, match="does not point to a generation"):
        three.current()


def test_a_file_in_the_place_of_the_link_is_refused(three: Generations, folder: Path) -> None:
    (folder / "current").unlink()
    (folder / "current").write_text("000001.eexit")
    with pytest.raises(UsageError, match="is not a link"):
        three.current()


def test_two_processes_do_not_install_at_once(three: Generations, folder: Path, tmp_path: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            three.install(bundle_of(tmp_path, 4))
        with pytest.raises(UsageError, match="another process"):
            three.roll_back()
    finally:
        os.close(descriptor)
    assert mark_of(three.current()) == 3


def test_a_damaged_generation_is_not_gone_back_to(three: Generations) -> None:
    before = three.installed()[-2]
    before.write_bytes(before.read_bytes()[:-1])
    with pytest.raises(Exception, match="000002"):
        three.roll_back()
    assert mark_of(three.current()) == 3


def test_other_files_in_the_folder_are_left_alone(three: Generations, folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    three.install(bundle_of(tmp_path, 4))
    assert (folder / "notes.txt").read_text() == "mine"


INSTALLING = """
import sys
from pathlib import Path
from edgeexit.bundle import Bundle
from edgeexit_runtime.living import Generations

bundles = [Bundle.open(path) for path in sys.argv[2:]]
generations = Generations(sys.argv[1], keep=3)
for number in range(10**6):
    print(generations.install(bundles[number % len(bundles)]), flush=True)
    if number % 3 == 2:
        generations.roll_back()
"""


def test_a_kill_at_any_moment_leaves_a_current_bundle_that_is_whole(folder: Path, tmp_path: Path) -> None:
    Generations(folder).install(bundle_of(tmp_path, 1))
    paths = [str(bundle_of(tmp_path, mark).path) for mark in (1, 2, 3)]
    chance, seen = random.Random(0), set()
    for _ in range(8):
        command = [sys.executable, "-c", INSTALLING, str(folder), *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 4)):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        generations = Generations(folder, keep=3)
        seen.add(generations.current().name)
        assert mark_of(folder / "current") in (1, 2, 3)
        assert all(mark_of(path) in (1, 2, 3) for path in generations.installed())
        if len(generations.installed()) > 1:
            before = generations.installed()[-2]
            assert generations.roll_back() == before
    assert len(seen) > 1
    Generations(folder, keep=3).install(bundle_of(tmp_path, 9))
    assert mark_of(folder / "current") == 9
    assert all(name == "current" or name.endswith(".eexit") for name in os.listdir(folder))
