"""Run segments one after the other on the workstation, everybody to the end: the exporter's own check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
        known: Mapping[str, NDArray[Any]] = feeds
        logits = []
        for k in range(len(self._segments)):
            known, at_exit = self.step(k, known)
            logits.append(at_exit)
        return logits

    def step(self, k: int, known: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Run segment k on n samples.

        Args:
            k: The segment.
            known: The tensors in front of it, (n, …), by name.

        Returns:
            The tensors behind it that later segments take, and the exit's logits (n, C).
        """
        segment = self._segments[k]
        head = segment.exit.head
        names = [*segment.outputs, head.logits]
        *outputs, logits = self._sessions[k].run(names, {n: known[n] for n in segment.inputs} | dict(head.policy))
        needed = {name for later in self._segments[k + 1 :] for name in later.inputs}
        behind = {**known, **dict(zip(segment.outputs, outputs, strict=True))}
        return {name: array for name, array in behind.items() if name in needed}, logits
