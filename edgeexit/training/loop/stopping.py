"""Stopping: Ctrl-C and SIGTERM wait until a step is done, so that there is something whole to keep."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "deferred_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, object] = {}

    def deliver(self) -> None:
        """Send the signal to whom it was meant for.

        Raises:
            KeyboardInterrupt: Always, unless the process ends.
        """
        number = self.asked
        assert number is not None
        self._put_back()
        signal.raise_signal(number)
        raise KeyboardInterrupt  # it was SIGTERM, and its handler returned

    def _take(self) -> None:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):
                signal.signal(number, self._note)
                self._before[number] = before

    def _put_back(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]  # as getsignal gave it

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:  # asked twice: at once
            self.asked = number
            self.deliver()
        self.asked = number


@contextmanager
def deferred_signals() -> Iterator[Stop]:
    """Within this SIGINT and SIGTERM are noted in `Stop.asked`; a second one acts at once.

    Only in the main thread; elsewhere nothing changes, and nothing is noted.
    """
    stop = Stop()
    try:
        stop._take()
    except ValueError:  # not the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        stop._put_back()
