"""What goes to the spool goes there behind everybody's back, and is lost rather than waited for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from edgeexit_runtime.offload.spool import Note
from edgeexit_runtime.tier.spooling import Spooling
from runtime.tier.test_ledger import pending


class SlowDisk:
    """A spool that writes only when it may."""

    def __init__(self) -> None:
        self.may, self.began = threading.Event(), threading.Event()
        self.notes: list[Note] = []

    def put(self, arrays: Mapping[str, NDArray[Any]], note: Note) -> bool:
        self.began.set()
        assert self.may.wait(30)
        assert {name: array.shape for name, array in arrays.items()} == {"x": (1, 1)}
        self.notes.append(note)
        return True


def test_nobody_waits_for_the_disk_and_what_is_too_much_is_lost_and_counted() -> None:
    disk = SlowDisk()
    spooling = Spooling(disk, backlog=1, unix_clock=lambda: 5.0)  # type: ignore[arg-type]
    spooling.keep(pending(rows=2), "deadline", None)
    assert disk.began.wait(30)
    spooling.keep(pending(rows=3), "refused", None)
    spooling.keep(pending(rows=4), "refused", None)
    disk.may.set()
    spooling.close()
    assert spooling.lost == 4
    assert [note.name for note in disk.notes] == ["100", "110", "100", "110", "120"]
    assert {(note.reason, note.unix_s) for note in disk.notes} == {("deadline", 5.0), ("refused", 5.0)}
