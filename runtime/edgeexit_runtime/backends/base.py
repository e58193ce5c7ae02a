"""What a backend is: it opens segments, runs them, and keeps boundary tensors wherever it likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError, UsageError
from edgeexit.manifest import SegmentEntry, TensorSpec

__all__ = ["Backend", "Handle", "Lane", "Segment", "SessionSettings", "policy_tensors"]

Handle = Any
"""A tensor that belongs to a backend. Nobody else looks inside; axis 0 is the batch."""


@dataclass(frozen=True)
class SessionSettings:
    """How segments are run.

    Args:
        threads: CPU threads that one operator may use, at least 1.
        spinning: Whether idle threads burn their core while they wait. Several segments with
            spinning threads hinder one another.
        arena: Whether memory is kept for the next run instead of being handed back to the system.
        memory_pattern: Whether memory is planned beforehand for every shape of input. Segments then do
            not find their inputs in the cache, because each has memory of its own.
        shared_pool: Whether all segments share one pool of threads, which then is the process's: ONNX Runtime
            refuses sessions with threads of their own beside it, also those of other code.

    Raises:
        UsageError: `threads` is below 1.
    """

    threads: int = 1
    spinning: bool = False
    arena: bool = True
    memory_pattern: bool = False
    shared_pool: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError("the number of threads is too small", got=self.threads, expected="at least 1")


class Segment(Protocol):
    """An opened segment, its policy tensors bound."""

    def run(self, inputs: Sequence[Handle]) -> tuple[Sequence[Handle], NDArray[np.float32]]:
        """Run once.

        Args:
            inputs: One handle per entry of `SegmentEntry.inputs`, in that order, of n samples each.

        Returns:
            One handle per entry of `SegmentEntry.outputs`, in that order, and the exit's logits on
            the host, (n, classes) float32.

        Raises:
            BackendError: The device failed.
        """


class Lane(Protocol):
    """The way of some samples through a chain of segments, in memory that may be laid out beforehand.

    Around a segment that takes little time every bit of work counts, so a lane does none that could have
    been done when it was made. A lane serves one batch at a time.
    """

    def start(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Take samples: one array (n, …) per input of the model, in the order of the manifest.

        The arrays are not written to, and may not change before `stop`.
        """

    def run(self, index: int) -> NDArray[np.float32]:
        """Run segment `index`, after all those before it, on all rows.

        Returns:
            The exit's logits, (rows, classes) float32. They hold until `start` is called again.

        Raises:
            BackendError: The device failed.
        """

    def keep(self, leave: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Compaction: let go of the rows in `leave`, (rows,), which are not all.

        Returns:
            Where the rows that are left were, (m,): the first row is now what row `order[0]` was. The lane
            chooses the order.
        """

    def stop(self) -> None:
        """Let go of the samples, wherever they are. Memory that was laid out beforehand stays."""


class Backend(Protocol):
    """A library that runs segments. Its tensors are only ever given to its own segments."""

    name: str

    def open(
        self, data: bytes, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]], settings: SessionSettings
    ) -> Segment:
        """Build a segment from the ONNX bytes of a bundle.

        Args:
            data: The graph, its hash checked already.
            entry: What the manifest says about it; the graph must agree.
            tensors: The policy tensors by name, at least those of `entry.policy_inputs`.
            settings: How to run it.

        Raises:
            BundleError: The graph cannot be read, or contradicts the manifest.
            BackendError: This backend cannot run it.
        """

    def rebound(self, segment: Any, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]) -> Segment:
        """A segment that this backend opened, with other policy tensors and nothing built again.

        The segment given stays as it is.

        Args:
            segment: The segment.
            entry: What the manifest says about it.
            tensors: The policy tensors by name, at least those of `entry.policy_inputs`.

        Raises:
            BundleError: A tensor is missing, or differs from the manifest.
        """

    def lane(
        self,
        segments: Sequence[Any],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: int,
        capacity: int = 1,
    ) -> Lane:
        """A lane through segments that this backend opened, in order, each with its entry.

        Args:
            segments: The segments, from the model's inputs on.
            entries: What the manifest says about each.
            inputs: The model's inputs.
            classes: The number of classes.
            capacity: The most samples that `start` will be given.
        """

    def take(self, handle: Handle, rows: NDArray[np.intp]) -> Handle:
        """The samples at `rows`, (m,) strictly increasing positions on axis 0."""

    def concat(self, handles: Sequence[Handle]) -> Handle:
        """The samples of several handles of one tensor in a row, at least one handle."""

    def to_device(self, array: NDArray[Any]) -> Handle:
        """Give a C-contiguous host array to the backend. The array may not change while it is in use."""

    def to_host(self, handle: Handle) -> NDArray[Any]:
        """A host array of the tensor; it may share memory with the handle."""


def policy_tensors(entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The tensors that a segment binds once, out of all those of `exits.safetensors`.

    Raises:
        BundleError: One is missing, or differs from the manifest.
    """
    bound = {}
    for spec in entry.policy_inputs:
        tensor = tensors.get(spec.name)
        if tensor is None or str(tensor.dtype) != spec.dtype or tensor.shape != spec.shape:
            raise BundleError(
                f"exits.safetensors does not hold what {entry.file.path} takes as {spec.name}",
                got=None if tensor is None else f"{tensor.dtype} {tensor.shape}",
                expected=f"{spec.dtype} {spec.shape}",
            )
        bound[spec.name] = tensor
    return bound
