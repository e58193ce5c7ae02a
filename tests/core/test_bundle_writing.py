"""Writing: the new bundle whole, or the old one, or none; and nothing beside it."""

from __future__ import annotations

import contextlib
import ctypes  # noqa: F401 - imported here so that children which kill themselves need not
import itertools
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from core.bundles import TEMPERATURES, bundle_parts, exits_tensors, opens, snapshot, write_small
from edgeexit.bundle import Bundle, check_destination, staging, write_bundle
from edgeexit.errors import BundleError, UsageError
from edgeexit.tensors import save_tensors

OLD, NEW = b"old" * 1000, b"new" * 1000
FORMS = ["bundle", "bundle.eexit"]
forked = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def state(path: Path) -> bytes | None:
    """Which of the two bundles is visible; whatever is visible must open."""
    if not path.exists():
        return None
    graph = Bundle.open(path).segment(0)
    assert graph in (OLD + b" 0", NEW + b" 0")
    return graph.removesuffix(b" 0")


def fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def die_at_call(moment: int) -> None:
    """Kill this process when the interpreter is about to make its call number `moment` of the system."""
    calls = itertools.count()

    def count(event: str, arguments: object) -> None:
        if next(calls) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Let the system refuse to write files beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", FORMS)
def test_equal_contents_give_equal_bytes(tmp_path: Path, name: str) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        place.mkdir()
        write_small(place / name)
    assert snapshot(one) == snapshot(other)


def test_the_order_of_contents_does_not_matter(tmp_path: Path) -> None:
    manifest, contents = bundle_parts()
    write_bundle(tmp_path / "one.eexit", manifest, contents)
    write_bundle(tmp_path / "other.eexit", manifest, dict(reversed(contents.items())))
    assert (tmp_path / "one.eexit").read_bytes() == (tmp_path / "other.eexit").read_bytes()


@pytest.mark.parametrize("name", FORMS)
def test_nothing_lies_beside_a_written_bundle(tmp_path: Path, name: str) -> None:
    write_small(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", FORMS)
def test_an_existing_bundle_is_replaced(tmp_path: Path, name: str) -> None:
    write_small(tmp_path / name, segments=3, graph=OLD)
    write_small(tmp_path / name, graph=NEW)
    assert state(tmp_path / name) == NEW
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", FORMS)
def test_a_damaged_bundle_is_replaced(tmp_path: Path, name: str) -> None:
    path = write_small(tmp_path / name)
    damaged = path if path.is_file() else path / "manifest.json"
    damaged.write_bytes(damaged.read_bytes()[:100])
    write_small(path)
    assert opens(path)


@pytest.mark.parametrize("name", FORMS)
def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path, name: str) -> None:
    write_small(tmp_path / f"real-{name}", graph=OLD)
    (tmp_path / name).symlink_to(f"real-{name}")
    write_small(tmp_path / name, graph=NEW)
    assert (tmp_path / name).is_symlink()
    assert state(tmp_path / f"real-{name}") == NEW


@pytest.mark.parametrize("name", FORMS)
def test_an_existing_file_that_is_no_bundle_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a diary")
    with pytest.raises(UsageError, match="is not a bundle"):
        write_small(tmp_path / name)
    assert (tmp_path / name).read_text() == "a diary"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", FORMS)
def test_an_existing_folder_that_is_no_bundle_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "diary.txt").touch()
    with pytest.raises(UsageError, match="is not a bundle"):
        write_small(tmp_path / name)
    assert os.listdir(tmp_path / name) == ["diary.txt"]


@pytest.mark.parametrize("extra", ["diary.txt", "segments/diary.txt"])
def test_a_bundle_folder_that_holds_something_else_too_is_kept(tmp_path: Path, extra: str) -> None:
    path = write_small(tmp_path / "bundle")
    (path / extra).touch()
    with pytest.raises(UsageError, match="is not a bundle"):
        write_small(path)
    assert (path / extra).exists()


def test_a_folder_is_not_replaced_by_an_archive(tmp_path: Path) -> None:
    write_small(tmp_path / "bundle").rename(tmp_path / "bundle.eexit")
    with pytest.raises(UsageError, match=r"expected: an \.eexit file"):
        write_small(tmp_path / "bundle.eexit")
    assert opens(tmp_path / "bundle.eexit")


def test_an_archive_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    write_small(tmp_path / "bundle.eexit").rename(tmp_path / "bundle")
    with pytest.raises(UsageError, match="expected: the folder of a bundle"):
        write_small(tmp_path / "bundle")
    assert opens(tmp_path / "bundle")


def test_a_destination_without_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not exist(.|\n)*mkdir"):
        write_small(tmp_path / "no" / "bundle")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["a\0b", "a" * 300, "/"], ids=["null byte", "long name", "root"])
def test_what_cannot_be_a_destination_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        write_small(Path(path))


def test_a_destination_can_be_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "diary").touch()
    assert check_destination(tmp_path / "bundle") == tmp_path / "bundle"
    with pytest.raises(UsageError, match="is not a bundle"):
        check_destination(tmp_path / "diary")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="bundle cannot be written"):
        write_small(tmp_path / "bundle")


@pytest.mark.parametrize("name", FORMS)
def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = write_small(tmp_path / name, graph=OLD)
    with file_size_limit(2500), pytest.raises(UsageError, match=f"{name} cannot be written"):
        write_small(path, graph=NEW)
    assert state(path) == OLD
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", FORMS)
def test_a_full_disk_leaves_nothing_where_nothing_was(tmp_path: Path, name: str) -> None:
    with file_size_limit(2500), pytest.raises(UsageError, match=f"{name} cannot be written"):
        write_small(tmp_path / name, graph=NEW)
    assert os.listdir(tmp_path) == []


def test_contents_that_the_manifest_does_not_list_are_not_written(tmp_path: Path) -> None:
    manifest, contents = bundle_parts()
    with pytest.raises(BundleError, match="not the files that the manifest lists"):
        write_bundle(tmp_path / "bundle", manifest, {**contents, "../escape": b""})
    assert os.listdir(tmp_path) == []


def test_contents_that_do_not_match_their_hash_are_not_written(tmp_path: Path) -> None:
    manifest, contents = bundle_parts()
    with pytest.raises(BundleError, match=r"segments/00\.onnx does not match its hash"):
        write_bundle(tmp_path / "bundle", manifest, {**contents, "segments/00.onnx": b"GRAPH 0"})
    assert os.listdir(tmp_path) == []


def test_a_manifest_that_would_not_open_is_not_written(tmp_path: Path) -> None:
    manifest, contents = bundle_parts()
    with pytest.raises(BundleError, match="at least two labels"):
        write_bundle(tmp_path / "bundle", msgspec.structs.replace(manifest, labels=("one",)), contents)
    assert os.listdir(tmp_path) == []


def test_tensors_that_would_not_open_are_not_written(tmp_path: Path) -> None:
    manifest, contents = bundle_parts(exits={**exits_tensors(), TEMPERATURES: np.array([1, np.nan], np.float32)})
    with pytest.raises(BundleError, match="NaN or infinity"):
        write_bundle(tmp_path / "bundle", manifest, contents)
    assert os.listdir(tmp_path) == []


def test_golden_samples_that_would_not_open_are_not_written(tmp_path: Path) -> None:
    manifest, contents = bundle_parts(check=exits_tensors())
    assert contents["check.safetensors"] == save_tensors(exits_tensors())
    with pytest.raises(BundleError, match=r"check\.safetensors: tensor .* is missing"):
        write_bundle(tmp_path / "bundle", manifest, contents)


@forked
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
@pytest.mark.parametrize("before", [None, OLD], ids=["none before", "old before"])
@pytest.mark.parametrize("name", FORMS)
def test_a_kill_at_any_step_leaves_old_or_none_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, before: bytes | None, exchange: bool
) -> None:
    """The child kills itself at its n-th call of the system, for every n until it survives."""
    if not exchange:
        monkeypatch.setattr(staging, "_exchanged", lambda one, other: False)
    seen = set()
    for moment in itertools.count():
        place = tmp_path / str(moment)
        place.mkdir()
        if before:
            write_small(place / name, graph=before)
        parts = bundle_parts(graph=NEW)
        if (child := fork()) == 0:
            die_at_call(moment)
            write_bundle(place / name, *parts)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        seen.add(state(place / name))
        if not os.WIFSIGNALED(status):
            break
        write_small(place / name, graph=NEW)
        assert state(place / name) == NEW
        assert os.listdir(place) == [name]
    assert os.waitstatus_to_exitcode(status) == 0
    assert seen - {None} == {before, NEW} - {None}
    assert exchange is False or None not in seen or before is None
    assert moment > 10


@forked
@pytest.mark.parametrize("name", FORMS)
def test_a_kill_at_any_time_leaves_old_or_new(tmp_path: Path, name: str) -> None:
    path = write_small(tmp_path / name, graph=OLD)
    choices = [bundle_parts(graph=graph) for graph in (OLD, NEW)]
    chance = random.Random(0)
    for _ in range(30):
        if (child := fork()) == 0:
            for parts in itertools.cycle(choices):
                write_bundle(path, *parts)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert state(path) in (OLD, NEW)
        assert set(os.listdir(tmp_path)) <= {name, f".{name}.partial"}
    write_small(path, graph=NEW)
    assert os.listdir(tmp_path) == [name]


def test_an_archive_can_be_read_at_any_time_while_it_is_replaced(tmp_path: Path) -> None:
    path = write_small(tmp_path / "bundle.eexit", graph=OLD)
    done = threading.Event()

    def write() -> None:
        for graph in (NEW, OLD) * 10:
            write_small(path, graph=graph)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {state(path)}
    while not done.is_set():
        seen.add(state(path))
    writer.join()
    assert seen <= {OLD, NEW}


def test_where_names_cannot_be_exchanged_the_folder_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_exchanged", lambda one, other: False)
    path = write_small(tmp_path / "bundle", graph=OLD)
    write_small(path, graph=NEW)
    assert state(path) == NEW
    assert os.listdir(tmp_path) == ["bundle"]


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".bundle.partial" / "old" / "segments").mkdir(parents=True)
    (tmp_path / ".bundle.partial" / "new").touch()
    write_small(tmp_path / "bundle")
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_second_writer_at_the_same_destination_is_refused(tmp_path: Path) -> None:
    with staging.staging_folder(tmp_path / "bundle"), pytest.raises(UsageError, match="another process is writing"):
        write_small(tmp_path / "bundle")
    write_small(tmp_path / "bundle")
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_link_in_the_place_of_the_staging_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".bundle.partial").symlink_to("precious")
    with pytest.raises(UsageError, match="cannot be written"):
        write_small(tmp_path / "bundle")
    assert (tmp_path / "precious" / "file").exists()
