"""An event loop in a thread of its own, for callers that know nothing of event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from edgeexit.errors import BackendError

__all__ = ["Background"]

T = TypeVar("T")


class Background:
    """Runs coroutines on an event loop in one daemon thread.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str = "edgeexit-offload") -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._running: set[Future[Any]] = set()  # the event loop alone would let them be collected
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def now_s(self) -> float:
        """The loop's clock, in seconds: what deadlines are counted on."""
        return self._loop.time()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop. Cancelling the future cancels the coroutine.

        Raises:
            BackendError: The loop is closed; the coroutine was not started.
        """
        with self._lock:
            if not self._closed:
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
                self._running.add(future)
                future.add_done_callback(self._running.discard)
                return future
        coroutine.close()
        raise BackendError("the background loop is closed")

    def close(self, patience_s: float = 1.0) -> None:
        """Cancel what runs, give it `patience_s` to end, and end the thread. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        ending = asyncio.run_coroutine_threadsafe(_cancel_all(patience_s), self._loop)
        ending.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        self._thread.join(patience_s + 5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


async def _cancel_all(patience_s: float) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=patience_s)
