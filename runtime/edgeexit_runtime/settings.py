"""The settings that a device's target asks for, with what the user chose instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeexit_runtime.backends.base import SessionSettings

if TYPE_CHECKING:
    from edgeexit.targets import Target

__all__ = ["session_settings"]


def session_settings(
    target: Target | None, threads: int | None = None, *, shared_pool: bool = False
) -> SessionSettings:
    """How to open segments.

    Args:
        target: The device; None for the defaults.
        threads: CPU threads that one operator may use; the target's when None, else 1.
        shared_pool: See `SessionSettings`.

    Raises:
        UsageError: `threads` is below 1.
    """
    if target is None:
        return SessionSettings(threads=1 if threads is None else threads, shared_pool=shared_pool)
    return SessionSettings(
        threads=target.threads if threads is None else threads,
        spinning=target.spinning,
        arena=target.arena,
        memory_pattern=target.memory_pattern,
        shared_pool=shared_pool,
    )
