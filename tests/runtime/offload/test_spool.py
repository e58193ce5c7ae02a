from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.spool import Spool
from edgeexit_runtime.offload.spooled import Note, encode

NOTE = Note(name="cat.jpg", reason="deadline", label=2, probability=0.25, exit=1, unix_s=1.5)
FILE_BYTES = len(encode({"x": np.zeros((1, 4), np.float32)}, NOTE))


def sample(value: float = 0.0) -> dict[str, NDArray[Any]]:
    return {"x": np.full((1, 4), value, np.float32)}


def values(spool: Spool) -> list[float]:
    return [float(entry.arrays["x"][0, 0]) for entry in spool]


def test_what_was_put_comes_back_in_order_with_its_note(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        for value in range(3):
            assert spool.put(sample(value), NOTE)
        assert values(spool) == [0, 1, 2]
        assert next(iter(spool)).note == NOTE
        assert (len(spool), spool.size_bytes, spool.counts.kept) == (3, 3 * FILE_BYTES, 3)


def test_several_inputs_keep_their_types_and_shapes(tmp_path: Path) -> None:
    arrays = {"image": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), "ids": np.array([[5, 6]])}
    with Spool(tmp_path) as spool:
        spool.put(arrays, NOTE)
        (entry,) = spool
    assert entry.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert entry.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(entry.arrays[name], array)


def test_samples_outlast_the_process(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.put(sample(1), NOTE)
    with Spool(tmp_path) as spool:
        spool.put(sample(2), NOTE)
        assert values(spool) == [1, 2]


def test_the_oldest_make_room_when_there_are_too_many(tmp_path: Path) -> None:
    with Spool(tmp_path, max_entries=2) as spool:
        for value in range(5):
            spool.put(sample(value), NOTE)
        assert values(spool) == [3, 4]
        assert (spool.counts.kept, spool.counts.dropped) == (5, 3)
        assert len(list(tmp_path.glob("*.sample"))) == 2


def test_the_oldest_make_room_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    with Spool(tmp_path, max_bytes=2 * FILE_BYTES + 1) as spool:
        for value in range(3):
            spool.put(sample(value), NOTE)
        assert values(spool) == [1, 2]
        assert sum(file.stat().st_size for file in tmp_path.glob("*.sample")) <= 2 * FILE_BYTES + 1


def test_a_spool_opened_with_less_room_drops_the_oldest(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for value in range(3):
            spool.put(sample(value), NOTE)
    with Spool(tmp_path, max_entries=1) as spool:
        assert values(spool) == [2]
        assert spool.counts.dropped == 2


def test_a_sample_larger_than_the_spool_is_lost_and_drops_nothing(tmp_path: Path) -> None:
    with Spool(tmp_path, max_bytes=FILE_BYTES) as spool:
        spool.put(sample(1), NOTE)
        assert not spool.put({"x": np.zeros((1, 400), np.float32)}, NOTE)
        assert (values(spool), spool.counts.lost) == ([1], 1)


def test_a_sample_that_found_its_way_is_forgotten(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.put(sample(1), NOTE)
        spool.put(sample(2), NOTE)
        spool.remove(1)
        spool.remove(1)
        assert values(spool) == [2]
    with Spool(tmp_path) as spool:
        assert values(spool) == [2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    ],
    ids=["truncated", "cut short", "empty", "a bit flipped"],
)
def test_a_damaged_file_is_counted_and_left_out(tmp_path: Path, damage: Any) -> None:
    with Spool(tmp_path) as spool:
        spool.put(sample(1), NOTE)
        spool.put(sample(2), NOTE)
        file = tmp_path / "0000000000000001.sample"
        file.write_bytes(damage(file.read_bytes()))
        assert (values(spool), spool.counts.damaged) == ([2], 1)


def test_what_a_killed_process_left_unfinished_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".0000000000000001.sample.partial").write_bytes(b"half")
    with Spool(tmp_path) as spool:
        assert len(spool) == 0
        assert not (tmp_path / ".0000000000000001.sample.partial").exists()


def test_a_process_killed_while_it_writes_leaves_whole_samples_only(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, numpy as np\n"
            "from edgeexit_runtime.offload.spool import Note, Spool\n"
            "spool = Spool(sys.argv[1])\n"
            "note = Note(name='a', reason='deadline', label=0, probability=1.0, exit=0, unix_s=0.0)\n"
            "print('ready', flush=True)\n"
            "while True: spool.put({'x': np.zeros((1, 4), np.float32)}, note)\n",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    while not (tmp_path / "0000000000000005.sample").exists():
        assert writer.poll() is None
    writer.kill()
    writer.wait()
    with Spool(tmp_path) as spool:
        assert len(values(spool)) == len(spool) >= 5
        assert spool.counts.damaged == 0


@pytest.mark.parametrize("name", ["notes.txt", "1.sample", "0000000000000001.sample.bak"])
def test_a_folder_with_something_else_in_it_is_refused_untouched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match="no spool"):
        Spool(tmp_path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"mine")]


def test_a_link_or_folder_by_the_name_of_a_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0000000000000001.sample").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="no spool"):
        Spool(tmp_path)
    (tmp_path / "0000000000000001.sample").unlink()
    (tmp_path / "0000000000000001.sample").mkdir()
    with pytest.raises(UsageError, match="no spool"):
        Spool(tmp_path)


def test_two_users_of_one_folder_are_refused(tmp_path: Path) -> None:
    with Spool(tmp_path), pytest.raises(UsageError, match="another process"):
        Spool(tmp_path)
    Spool(tmp_path).close()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError):
        Spool(tmp_path / "file")


@pytest.mark.parametrize("bounds", [{"max_bytes": 0}, {"max_entries": 0}])
def test_a_spool_without_room_is_refused(tmp_path: Path, bounds: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Spool(tmp_path, **bounds)


def test_a_disk_that_fails_loses_the_sample_and_raises_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for file in (tmp_path / "spool").iterdir():
        file.unlink()
    os.rmdir(tmp_path / "spool")
    assert not spool.put(sample(), NOTE)
    assert spool.counts.lost == 1
    spool.close()


def test_a_closed_spool_keeps_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.close()
    assert not spool.put(sample(), NOTE)
