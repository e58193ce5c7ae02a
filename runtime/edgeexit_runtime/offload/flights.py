"""What is under way: a bounded number of questions, each of which ends by its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from edgeexit_runtime.offload.transport import OffloadError, TransportError

__all__ = ["Flights"]

T = TypeVar("T")


class Flights:
    """Places for questions under way. Work that does not stop when it is told to keeps a place until it ends.

    Args:
        places: How many.
        clock: Seconds.

    """

    def __init__(self, places: int, clock: Callable[[], float]) -> None:
        self._asking = 0
        self._abandoned: set[asyncio.Task[Any]] = set()  # the event loop alone would let them be collected
        self._places = places
        self._clock = clock

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._asking + len(self._abandoned)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for as long as the context lasts.

        Raises:
            OffloadError: "in flight full".
        """
        if self.taken >= self._places:
            raise OffloadError("in flight full", f"{self.taken} questions are under way")
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    async def by(self, deadline_s: float, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, by the deadline, whether or not `work` lets itself be stopped.

        Raises:
            OffloadError: "deadline"; "unavailable" where `work` failed in a way of its own.
            TransportError: As `work` says.
        """
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_seen)  # whoever asked may be cancelled in the moment in which it fails
        try:
            await asyncio.wait((task,), timeout=deadline_s - self._clock())
        finally:
            if not task.done():
                self._abandon(task)
        if not task.done():
            raise OffloadError("deadline", "no answer in time")
        if task.cancelled():
            raise OffloadError("unavailable", "the transport gave up")
        try:
            return task.result()
        except (OffloadError, TransportError):
            raise
        except Exception as error:
            raise OffloadError("unavailable", f"the transport failed: {type(error).__name__}") from error

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)
        task.cancel()


def _seen(task: asyncio.Task[Any]) -> None:
    """Look at how a task failed, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
