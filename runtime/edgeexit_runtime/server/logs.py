"""What happens to a server, one JSON document a line."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TextIO

__all__ = ["Log"]

QUIET_S = 10.0
"""Failures of one kind are written once in this time, with how many there were: a log is no place to be filled."""


class Log:
    """Writes events.

    Args:
        stream: Where to; standard error when None.
        wall: Seconds since 1970, for the lines.
        clock: Seconds, for what is left out.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._wall = wall
        self._clock = clock
        self._last_s: dict[tuple[str, str], float] = {}
        self._unwritten: dict[tuple[str, str], int] = {}

    def event(self, name: str, **details: object) -> None:
        """Write that something happened.

        Args:
            name: What.
            **details: Whatever JSON knows.
        """
        when = datetime.fromtimestamp(self._wall(), timezone.utc).isoformat(timespec="milliseconds")
        stream = sys.stderr if self._stream is None else self._stream
        print(json.dumps({"time": when, "event": name, **details}), file=stream, flush=True)

    def failure(self, where: str, error: BaseException) -> None:
        """Write what went wrong, with its place in the code: here it helps, and never leaves the machine."""
        kind = (where, type(error).__name__)
        now_s = self._clock()
        if now_s - self._last_s.get(kind, -QUIET_S) < QUIET_S:
            self._unwritten[kind] = self._unwritten.get(kind, 0) + 1
            return
        self._last_s[kind] = now_s
        frames = traceback.extract_tb(error.__traceback__)
        self.event(
            "failure",
            where=where,
            error=kind[1],
            message=str(error),
            at=[f"{frame.name}:{frame.lineno}" for frame in frames[-5:]],
            unwritten=self._unwritten.pop(kind, 0),
        )
