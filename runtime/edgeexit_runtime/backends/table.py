"""The backends by name. A vendor's library is imported when its backend is first asked for."""

from __future__ import annotations

from collections.abc import Callable

from edgeexit.errors import MissingPartError, UsageError
from edgeexit_runtime.backends.base import Backend

__all__ = ["BACKENDS", "load_backend"]


def _onnxruntime() -> Backend:
    try:
        from edgeexit_runtime.backends.onnxruntime import OnnxRuntimeBackend
    except ImportError as error:
        raise MissingPartError.package("the onnxruntime backend", "onnxruntime") from error
    return OnnxRuntimeBackend()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "onnxruntime": _onnxruntime,
}


def load_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: No such backend.
        MissingPartError: Its library is not installed.
    """
    factory = BACKENDS.get(name)
    if factory is None:
        raise UsageError("there is no such backend", got=name, expected=" or ".join(sorted(BACKENDS)))
    return factory()
