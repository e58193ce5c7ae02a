"""Backends: one file each behind the protocol in `base`, one row each in `table`."""

from __future__ import annotations

from edgeexit_runtime.backends.base import Backend, Handle, Lane, Segment, SessionSettings
from edgeexit_runtime.backends.fake import FakeBackend, FakeSegment
from edgeexit_runtime.backends.table import BACKENDS, load_backend

__all__ = [
    "BACKENDS",
    "Backend",
    "FakeBackend",
    "FakeSegment",
    "Handle",
    "Lane",
    "Segment",
    "SessionSettings",
    "load_backend",
]
