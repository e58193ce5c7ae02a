"""Spooling: samples that were not answered upstream go to a spool, and nobody's answer waits for the disk."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from edgeexit_runtime.offload.spool import Note, Spool
from edgeexit_runtime.tier.ledger import Pending

__all__ = ["Spooling"]

BACKLOG = 64


class Spooling:
    """Writes in a thread of its own.

    Args:
        spool: Where to.
        backlog: How many groups of samples may wait for the disk; those beyond are lost.
        unix_clock: Seconds since 1970.

    Attributes:
        lost: How many samples were not kept because the disk was too slow for them. What the spool itself
            drops and loses is in its own counts.
    """

    def __init__(self, spool: Spool, *, backlog: int = BACKLOG, unix_clock: Callable[[], float] = time.time) -> None:
        self.lost = 0
        self._spool = spool
        self._unix_clock = unix_clock
        self._waiting: queue.Queue[tuple[Pending, str, Sequence[str] | None] | None] = queue.Queue(backlog)
        self._thread = threading.Thread(target=self._write, name="edgeexit-spool", daemon=True)
        self._thread.start()

    def keep(self, pending: Pending, reason: str, names: Sequence[str] | None) -> None:
        """Keep samples, sooner or later.

        Args:
            pending: They, with the best local answers.
            reason: Why they were not answered upstream.
            names: Of all samples of the stream; their positions when None.
        """
        try:
            self._waiting.put_nowait((pending, reason, names))
        except queue.Full:
            self.lost += len(pending)

    def close(self) -> None:
        """Write what waits, and end the thread. The spool stays open."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (item := self._waiting.get()) is not None:
            pending, reason, names = item
            for row, answer in enumerate(pending.answers(reason)):
                note = Note(
                    name=str(answer.index) if names is None else names[answer.index],
                    reason=reason,
                    label=answer.label,
                    probability=answer.probability,
                    exit=answer.exit,
                    unix_s=self._unix_clock(),
                )
                self._spool.put({name: array[row : row + 1] for name, array in pending.inputs.items()}, note)
