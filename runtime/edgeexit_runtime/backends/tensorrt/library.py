"""TensorRT itself: its versions, its log, its dtypes. `trt` is the module `tensorrt`, or a fake."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from edgeexit.errors import BackendError, MissingPartError
from edgeexit_runtime.backends.tensorrt.memory import OutOfDeviceMemoryError

__all__ = [
    "BELOW",
    "MINIMUM",
    "RAISED",
    "check_version",
    "data_types",
    "failure",
    "import_tensorrt",
    "make_log",
    "translated",
]

MINIMUM = (10, 3)
BELOW = (12, 0)

RAISED = (RuntimeError, TypeError, ValueError, MemoryError)
"""What the bindings raise: TypeError where TensorRT gives no object, RuntimeError where it refuses."""

KEPT_LINES = 20
NO_ROOM = re.compile(r"out ?of ?(device |gpu )?memory|memoryallocation|insufficient (workspace|memory)", re.IGNORECASE)


def import_tensorrt() -> Any:
    """The module `tensorrt`. Check the driver first.

    Raises:
        MissingPartError: It is not installed, or without its libraries.
        BackendError: It is of a version that this backend is not written for.
    """
    try:
        trt: Any = import_module("tensorrt")
    except (ImportError, OSError) as error:  # OSError: its libraries are missing
        raise MissingPartError(
            "TensorRT cannot be imported",
            got=error,
            remedy="on a Jetson apt install python3-libnvinfer, elsewhere pip install tensorrt",
        ) from error
    except RuntimeError as error:  # the package of PyPI that fetches the libraries says so in this way
        raise MissingPartError("TensorRT cannot be imported", got=error) from error
    check_version(trt)
    return trt


def check_version(trt: Any) -> None:
    """Refuse a TensorRT that this backend is not written for.

    Raises:
        BackendError: It is older than 10.3, or 12 or newer.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", trt.__version__)[:2])
    if not MINIMUM <= version < BELOW:
        raise BackendError(
            "this version of TensorRT is not supported",
            got=trt.__version__,
            expected="10.3 or newer, below 12",
            remedy="edgeexit doctor",
        )


def data_types(trt: Any) -> dict[Any, str]:
    """NumPy's name of each dtype that a tensor between segments may have."""
    return {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.INT8: "int8",
        trt.DataType.UINT8: "uint8",
        trt.DataType.INT32: "int32",
        trt.DataType.INT64: "int64",
        trt.DataType.BOOL: "bool",
    }


def make_log(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last errors, in `lines`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=KEPT_LINES)
            self.kept = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        def log(self, severity: Any, msg: str) -> None:
            if severity in self.kept:
                self.lines.append(str(msg).strip())

    return Log()


@contextmanager
def translated(log: Any, problem: str) -> Iterator[None]:
    """Raise an error of ours for what the bindings raise."""
    try:
        yield
    except RAISED as error:
        raise failure(log, problem, error) from error


def failure(log: Any, problem: str, error: Exception | None = None) -> BackendError:
    """The error to raise when TensorRT said no, with what it logged; the log begins anew.

    Args:
        log: See `make_log`.
        problem: What could not be done.
        error: What the bindings raised, if they did. It says less than the log does.
    """
    lines = [*([str(error)] if error else []), *log.lines]
    log.lines.clear()
    if any(NO_ROOM.search(line) for line in lines):
        return OutOfDeviceMemoryError(
            problem,
            got=next(line for line in lines if NO_ROOM.search(line)),
            expected="enough device memory",
            remedy="end other programs that use the GPU, smaller --batches, or a smaller --workspace",
        )
    return BackendError(problem, got=lines[-1] if lines else "TensorRT gave no reason")
