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


def _cuda() -> Backend:
    try:
        from edgeexit_runtime.backends.cuda import CudaBackend
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingPartError.package("the cuda backend", "onnxruntime-gpu") from error
    return CudaBackend()


def _tensorrt() -> Backend:
    from edgeexit_runtime.backends.tensorrt.opening import on_this_machine

    return on_this_machine()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "onnxruntime": _onnxruntime,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
}


def load_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UsageError: No such backend.
        MissingPartError: Its library is not installed.
        BackendError: It cannot be used on this machine; the message says why.
    """
    factory = BACKENDS.get(name)
    if factory is None:
        raise UsageError("there is no such backend", got=name, expected=" or ".join(sorted(BACKENDS)))
    return factory()
