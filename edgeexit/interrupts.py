"""Ctrl-C that cannot get lost.

Python turns SIGINT into a `KeyboardInterrupt` wherever the main thread happens to be. If that is inside
a call from a library written in C that clears errors, the interrupt is gone and long work goes on. So
the command line remembers that the signal came, and long work asks at each step.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["check_interrupt", "remember_interrupts"]

_came = False


@contextmanager
def remember_interrupts() -> Iterator[None]:
    """Within this, SIGINT raises KeyboardInterrupt as ever and is remembered for `check_interrupt`.

    Only where Python's own handler is in place, and in the main thread; elsewhere nothing changes.
    """
    global _came  # noqa: PLW0603 a signal belongs to the process
    _came = False
    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, _handle)
    except ValueError:  # not the main thread
        ours = False
    try:
        yield
    finally:
        _came = False
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if SIGINT came, whether or not it was raised before."""
    if _came:
        raise KeyboardInterrupt


def _handle(number: int, frame: FrameType | None) -> None:
    global _came  # noqa: PLW0603
    _came = True
    raise KeyboardInterrupt
