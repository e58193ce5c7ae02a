"""Run segments one after the other on the workstation, everybody to the end: the exporter's own check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit_exporters.probe import session
from edgeexit_exporters.split import Segment

__all__ = ["Chain"]


class Chain:
    """The segments' graphs, opened in ONNX Runtime.

    Raises:
        ModelError: ONNX Runtime does not accept a segment.
    """

    def __init__(self, segments: Sequence[Segment], *, threads: int = 0) -> None:
        self._segments = segments
        self._sessions = [session(segment.model, threads=threads) for segment in segments]

    def logits(self, feeds: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        """Every exit's logits, E arrays of shape (n, C), for inputs with n rows."""
        known = dict(feeds)
        logits = []
        for segment, running in zip(self._segments, self._sessions, strict=True):
            head = segment.exit.head
            names = [*segment.outputs, head.logits]
            values = running.run(names, {name: known[name] for name in segment.inputs} | dict(head.policy))
            known |= zip(segment.outputs, values[:-1], strict=True)
            logits.append(values[-1])
        return logits
