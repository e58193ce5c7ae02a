"""An ONNX graph in a session of ONNX Runtime, on the CPU unless other providers are named.

Batches go through `InferenceSession.run`: binding new arrays for every batch costs more than it saves, and
`run_with_ort_values` costs most. Arrays that are bound once and for all save about 14 µs a run at batch 1.

All sessions of the process share one arena, and plan no memory pattern: then a segment's arrays lie where
those of the segment before it lay, in the cache. ResNet-56 in nine segments takes 1.02–1.04 of the time of the
whole model like this, and 1.05–1.11 with an arena each.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.precision import products_saturate
from edgeexit_runtime.backends.base import SessionSettings
from edgeexit_runtime.backends.bound_graph import BoundGraph
from edgeexit_runtime.backends.ort_errors import opening_error, running_error

__all__ = ["CPU_ONLY", "Graph", "Shape", "describe_shape", "trim_heap"]

CPU_ONLY = ("CPUExecutionProvider",)

ONNX_TYPES = {
    "bool": "bool",
    "double": "float64",
    "float": "float32",
    "float16": "float16",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
"""NumPy's name for what ONNX Runtime writes in the brackets of `tensor(…)`."""

FATAL_ONLY = 4

Shape = tuple[int | None, ...]
"""Lengths by axis; None stands for any length."""

Tensors = dict[str, tuple[str, Shape]]


class Graph:
    """An ONNX graph in a session of its own. Safe to run from several threads at once.

    Args:
        source: The graph's bytes, or the path of its file.
        name: What to call it in messages.
        settings: Threads and spinning.
        inputs: The inputs that `run` is given, in that order; the graph's own, without the constants, when None.
        outputs: The outputs that `run` returns, in that order; the graph's own when None.
        constants: Inputs that are bound once.
        providers: ONNX Runtime's execution providers, the preferred one first, with their options.

    Attributes:
        inputs: As above.
        outputs: As above.
        session: ONNX Runtime's session.

    Raises:
        BundleError: The graph cannot be read, or has other inputs or outputs than these.
        BackendError: This ONNX Runtime cannot run it.
    """

    def __init__(
        self,
        source: bytes | str,
        name: str,
        settings: SessionSettings,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        constants: Mapping[str, NDArray[Any]] | None = None,
        providers: Sequence[Any] = CPU_ONLY,
    ) -> None:
        self.name = name
        self.session, fed, made = _open_session(source, name, settings, providers)
        self._constants = {key: np.ascontiguousarray(value) for key, value in (constants or {}).items()}
        self.inputs = [key for key in fed if key not in self._constants] if inputs is None else list(inputs)
        self.outputs = list(made) if outputs is None else list(outputs)
        self._tensors = {**fed, **made}
        self._check("inputs", sorted(fed), sorted([*self.inputs, *self._constants]))
        self._check("outputs", sorted(set(made) & set(self.outputs)), sorted(self.outputs))

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once, with one array per input, for one array per output.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        feeds = self._constants.copy()
        feeds.update(zip(self.inputs, inputs, strict=True))
        try:
            results: list[NDArray[Any]] = self.session.run(self.outputs, feeds)
        except Exception as error:  # its exceptions have no common base below Exception
            raise running_error(self.name, error) from error
        return results

    def bound(self, arrays: Mapping[str, NDArray[Any]]) -> BoundGraph:
        """The graph on these very arrays.

        Args:
            arrays: C-contiguous arrays by name, for inputs to be read from and for every output to be
                written into. They have the shapes that the graph takes and gives. Inputs that are left
                out must be fed before it is run.
        """
        return BoundGraph(self.session, self.name, {**arrays, **self._constants}, self.outputs)

    def with_constants(self, constants: Mapping[str, NDArray[Any]]) -> Graph:
        """The same graph in the same session, with other values for the inputs that are bound once."""
        changed = copy(self)
        changed._constants = {key: np.ascontiguousarray(value) for key, value in constants.items()}
        return changed

    def tensor(self, name: str) -> tuple[str, Shape]:
        """The dtype, by NumPy's name, and the shape of an input or output. An unknown shape is ()."""
        return self._tensors[name]

    def expect(self, name: str, dtype: str, shape: Shape) -> None:
        """Refuse the graph unless an input or output has this dtype and shape.

        Raises:
            BundleError: It differs. What ONNX Runtime doesn't know of a shape is let pass.
        """
        found, lengths = self.tensor(name)
        same_rank = not lengths or len(lengths) == len(shape)
        pairs = zip(lengths, shape, strict=False)
        if found != dtype or not same_rank or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            raise BundleError(
                f"{self.name}: the tensor {name} is not what the manifest says",
                got=f"{found} {describe_shape(lengths)}",
                expected=f"{dtype} {describe_shape(shape)}",
            )

    def _check(self, what: str, found: list[str], expected: list[str]) -> None:
        if found != expected:
            raise BundleError(
                f"{self.name} has other {what} than the manifest says",
                got=", ".join(found) or "none",
                expected=", ".join(expected) or "none",
            )


def _open_session(
    source: bytes | str, name: str, settings: SessionSettings, providers: Sequence[Any]
) -> tuple[Any, Tensors, Tensors]:
    """A session on a graph's bytes or on the file at a path, with its inputs and outputs."""
    options = ort.SessionOptions()
    if _shared_threads or (settings.shared_pool and settings.threads > 1 and _share_threads(settings.threads)):
        options.use_per_session_threads = False
        options.add_session_config_entry("session.force_spinning_stop", "0" if settings.spinning else "1")
    else:
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = FATAL_ONLY
    options.enable_mem_pattern = settings.memory_pattern
    options.enable_cpu_mem_arena = settings.arena
    if settings.arena and _share_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    if products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        # without the fallback, which would try once more and print on standard output
        session = ort.InferenceSession(source, options, providers=list(providers), enable_fallback=0)
        if hasattr(session, "_model_bytes"):
            session._model_bytes = None  # kept for a fallback that is off: the whole graph a second time
        trim_heap()
        return session, _tensors(session.get_inputs()), _tensors(session.get_outputs())
    except Exception as error:  # five types, UnicodeDecodeError among them, and no common base
        raise opening_error(name, error) from error


def trim_heap() -> None:
    """Hand back what opening a graph left behind: 0.1 ms for several MB that the C library would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc
        trim(0)


_shared_threads: list[int] = []
"""How many threads the process's pool has, once there is one."""


def _share_threads(threads: int) -> bool:
    """Make the process's pool; whether that was possible.

    Threads of several pools hinder one another while they wait. On two cores a chain of five segments took 1.9 ms
    with one pool for all, 2.7 ms with a pool each whose threads sleep, and 11 ms where they spin.
    """
    try:
        ort.set_global_thread_pool_sizes(threads, 1)
    except Exception:  # somebody else in this process was first, or this ONNX Runtime is too old for it
        return False
    _shared_threads.append(threads)
    return True


@cache
def _share_arena() -> bool:
    """Make the process's arena, once; whether there is one."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(memory, None)
    except Exception:  # somebody else in this process was first, or this build has none: each session gets its own
        return False
    return True


def _tensors(nodes: Sequence[ort.NodeArg]) -> Tensors:
    """Dtype, by NumPy's name, and shape by tensor. An unknown shape is ()."""
    return {
        node.name: (
            ONNX_TYPES.get(node.type.removeprefix("tensor(").removesuffix(")"), node.type),
            tuple(length if isinstance(length, int) else None for length in node.shape),
        )
        for node in nodes
    }


def describe_shape(shape: Shape) -> str:
    """How a shape is written in messages."""
    return f"({', '.join('n' if length is None else str(length) for length in shape)})"
