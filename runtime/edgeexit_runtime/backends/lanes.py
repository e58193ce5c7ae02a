"""The lane of ONNX Runtime on the CPU: arrays that are laid out once, and graphs that are bound to them.

`InferenceSession.run` makes new arrays for its outputs and copies into them; for boundary tensors that is
memory the cache has never seen. A lane's segments write where the segment before the last wrote, so what
one hands to the next is still in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.backends.bound_graph import BoundGraph
from edgeexit_runtime.backends.onnx_graph import Graph

__all__ = ["OnnxRuntimeLane"]

_ALIGNMENT = 64
_COPIED_BYTES = 32 * 1024


class OnnxRuntimeLane:
    """See `Lane`.

    Args:
        graphs: One per segment.
        entries: The segments' entries; their outputs are the boundary tensors.
        inputs: The model's inputs.
        classes: Per segment the number of classes, or None where the graph gives no logits.
        capacity: The most samples at once.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        entries: Sequence[SegmentEntry],
        inputs: Sequence[TensorSpec],
        classes: Sequence[int | None],
        capacity: int = 1,
    ) -> None:
        self._graphs = graphs
        self._entries = entries
        self._specs = {spec.name: spec for spec in (*inputs, *(spec for entry in entries for spec in entry.outputs))}
        last_use = {spec.name: k for k, entry in enumerate(entries) for spec in entry.inputs}
        self._fed = [spec.name for spec in inputs]
        self._direct = {s.name for s in inputs if last_use.get(s.name, 0) == 0 and s.size_bytes > _COPIED_BYTES}
        places = _places(inputs, entries, last_use, self._direct)
        sizes: dict[int, int] = {}
        for name, place in places.items():
            sizes[place] = max(sizes.get(place, 0), self._specs[name].size_bytes)
        memory = {place: _aligned(size * capacity) for place, size in sizes.items()}
        self._memory = {name: memory[place] for name, place in places.items()}
        self._logits = [np.zeros((capacity, count or 0), np.float32) for count in classes]
        self._has_logits = [count is not None for count in classes]
        self._carried = [
            [name for name in places if _made(name, entries) <= k < last_use.get(name, -1)] for k in range(len(entries))
        ]
        self._starts: dict[int, list[tuple[NDArray[Any], int]]] = {}
        self._bound: dict[tuple[int, int], BoundGraph] = {}
        self._given: Mapping[str, NDArray[Any]] = {}
        self._rows = 0
        self._index = 0

    def start(self, arrays: Sequence[NDArray[Any]]) -> None:
        """See `Lane.start`."""
        rows = self._rows = len(arrays[0])
        if self._direct:
            self._given = {name: array for name, array in zip(self._fed, arrays, strict=True) if name in self._direct}
        for view, position in self._copies(rows):
            view[...] = arrays[position]

    def run(self, index: int) -> NDArray[np.float32]:
        """See `Lane.run`."""
        self._index = index
        rows = self._rows
        bound = self._bound.get((index, rows))
        if bound is None:
            bound = self._bound[index, rows] = self._bind(index, rows)
        if index == 0 and self._given:
            bound.feed(self._given)
        bound()
        logits = self._logits[index]
        return logits if len(logits) == rows else logits[:rows]

    def keep(self, leave: NDArray[np.bool_]) -> NDArray[np.intp]:
        """See `Lane.keep`. Rows that stay move into the places of rows that leave, and no others move."""
        rows = self._rows
        staying = rows - int(np.count_nonzero(leave))
        places = leave[:staying].nonzero()[0]
        movers = (~leave[staying:]).nonzero()[0] + staying
        order = np.arange(staying)
        if len(places):
            order[places] = movers
            for name in self._carried[self._index]:
                view = self._view(name, rows)
                view[places] = view[movers]
        self._rows = staying
        return order

    def stop(self) -> None:
        """See `Lane.stop`."""
        self._given = {}

    def _copies(self, rows: int) -> list[tuple[NDArray[Any], int]]:
        """The arrays that samples are copied into, each with the position of its input."""
        copies = self._starts.get(rows)
        if copies is None:
            places = [(name, i) for i, name in enumerate(self._fed) if name in self._memory]
            copies = self._starts[rows] = [(self._view(name, rows), i) for name, i in places]
        return copies

    def _view(self, name: str, rows: int) -> NDArray[Any]:
        spec = self._specs[name]
        view: NDArray[Any] = np.ndarray((rows, *spec.shape), spec.dtype, buffer=self._memory[name])
        return view

    def _bind(self, index: int, rows: int) -> BoundGraph:
        entry = self._entries[index]
        names = [*(spec.name for spec in entry.inputs), *(spec.name for spec in entry.outputs)]
        arrays = {name: self._view(name, rows) for name in names if name not in self._direct}
        if self._has_logits[index]:
            arrays[entry.logits] = self._logits[index][:rows]
        return self._graphs[index].bound(arrays)


def _made(name: str, entries: Sequence[SegmentEntry]) -> int:
    """The segment that makes a tensor; the model's inputs are there before the first."""
    return next((k for k, entry in enumerate(entries) if any(spec.name == name for spec in entry.outputs)), -1)


def _places(
    inputs: Sequence[TensorSpec], entries: Sequence[SegmentEntry], last_use: Mapping[str, int], without: set[str]
) -> dict[str, int]:
    """A place in memory for every tensor; tensors that are never needed together may share one."""
    places: dict[str, int] = {}
    live = {spec.name for spec in inputs if spec.name not in without and spec.name in last_use}
    for number, name in enumerate(sorted(live)):
        places[name] = number
    for k, entry in enumerate(entries):
        for spec in entry.outputs:
            taken = {places[name] for name in live}
            places[spec.name] = next(place for place in range(len(places) + 1) if place not in taken)
            live.add(spec.name)
        live = {name for name in live if last_use.get(name, -1) > k}
    return places


def _aligned(size_bytes: int) -> NDArray[np.uint8]:
    memory = np.zeros(size_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size_bytes]
