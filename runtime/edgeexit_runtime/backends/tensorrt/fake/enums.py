"""Enumerations of TensorRT, as far as they are used."""

from __future__ import annotations

import enum

__all__ = [
    "BuilderFlag",
    "DataType",
    "ExecutionContextAllocationStrategy",
    "MemoryPoolType",
    "Severity",
    "TensorIOMode",
]


class Severity(enum.IntEnum):
    """Of a message to the logger."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class BuilderFlag(enum.Enum):
    """What the builder may do."""

    TF32 = 7


class DataType(enum.Enum):
    """Of a tensor; the value is NumPy's name."""

    FLOAT = "float32"
    HALF = "float16"
    INT8 = "int8"
    UINT8 = "uint8"
    INT32 = "int32"
    INT64 = "int64"
    BOOL = "bool"


class ExecutionContextAllocationStrategy(enum.Enum):
    """Who gives a context its memory."""

    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class MemoryPoolType(enum.Enum):
    """What a limit is for."""

    WORKSPACE = 0


class TensorIOMode(enum.Enum):
    """Whether an engine reads or writes a tensor."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2
