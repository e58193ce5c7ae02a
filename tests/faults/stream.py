"""What the device does in a trial, to be run in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeexit.bundle import Bundle
from edgeexit.data import open_files
from faults.trial import Outcome, expected_answers, trial

__all__ = ["Stream"]


@dataclass(frozen=True)
class Stream:
    """What a device does: `samples` of them, `distinct` of which differ, in batches with pauses before each."""

    bundle: Path
    paths: tuple[str, ...]
    distinct: int
    samples: int
    batch: int
    pause_s: float
    url: str

    def run(self, *, upto: int, **settings: Any) -> Outcome:
        """Stream them, and hold the answers against those of one cascade."""
        x = _samples(self.bundle, self.paths, self.distinct)
        expected = expected_answers(self.bundle, x, upto)
        return trial(self.bundle, self.url, self._batches(x), expected, upto=upto, **settings)

    def _batches(self, x: Any) -> Iterator[Any]:
        for start in range(0, self.samples, self.batch):
            time.sleep(self.pause_s)
            yield x[np.arange(start, min(start + self.batch, self.samples)) % len(x)]


def _samples(bundle: Path, paths: tuple[str, ...], count: int) -> Any:
    manifest = Bundle.open(bundle).manifest
    dataset = open_files(paths, manifest.inputs, manifest.preprocessing)
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    (arrays,) = dataset.batches(len(chosen), chosen)
    return arrays[manifest.inputs[0].name]
