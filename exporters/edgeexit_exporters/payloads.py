"""What rounding does to samples that are handed on at a boundary: measured on the calibration split."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.console import progress
from edgeexit.errors import DataError
from edgeexit.manifest import PayloadEntry, TensorSpec
from edgeexit.payload import PRECISIONS, pack_all, packed_bytes, unpack_all
from edgeexit.policies import Policy, State
from edgeexit.replay import replay
from edgeexit_exporters.chain import Chain
from edgeexit_exporters.packing import Calibrated

__all__ = ["Payloads", "measure_payloads"]

Tensors = Mapping[str, NDArray[Any]]
Payloads = tuple[PayloadEntry, ...] | None
Visit = Callable[[int, NDArray[np.int64], Tensors, State], None]

_SAMPLES = 1024
_COMPRESSED_SAMPLES = 64
_BATCH = 64
_ROUNDED = PRECISIONS[1:]


@dataclass
class _Tally:
    """What was seen at one boundary in one precision."""

    size_bytes: int = 0
    compressed_bytes: int = 0
    compressed: int = 0
    changed: int = 0
    samples: int = 0
    usable: bool = True


def measure_payloads(
    cascade: Calibrated, *, threads: int = 0, seed: int = 0, quiet: bool = False
) -> tuple[Payloads, ...]:
    """Hand calibration samples on at every boundary, in every precision, and compare their answers.

    Args:
        cascade: With thresholds; its calibration samples are read again, at most 1024 for each boundary.
        threads: Of ONNX Runtime; 0 for its own choice.
        seed: Which samples are taken where there are more.
        quiet: Show no progress.

    Returns:
        For each segment, what the boundary in front of it takes in each precision; None for the first, and
        where no sample comes. A precision that the values cannot be written in is left out.
    """
    wanted = _wanted(cascade, seed)
    rows = np.flatnonzero(wanted.any(axis=0))
    measurement = _Measurement(Chain(cascade.segments, threads=threads), cascade.policy, len(cascade.segments))
    with progress("measuring payloads", len(rows), quiet=quiet) as advance:
        start = 0
        for feeds in cascade.data.batches(_BATCH, cascade.rows[rows]):
            size = len(next(iter(feeds.values())))
            classes = cascade.logits[0].shape[1]
            measurement.add(feeds, cascade.policy.start(size, classes), wanted[:, rows[start : start + size]])
            start += size
            advance(size)
    return measurement.entries()


def _wanted(cascade: Calibrated, seed: int) -> NDArray[np.bool_]:
    """(E, N) which samples are handed on at which boundary: mostly the same at all, so that few are run."""
    exits = replay(cascade.policy, cascade.logits).exit
    order = np.random.default_rng(seed).permutation(len(exits))
    wanted = np.zeros((len(cascade.segments), len(exits)), dtype=np.bool_)
    for k in range(1, len(cascade.segments)):
        wanted[k, order[exits[order] >= k][:_SAMPLES]] = True
    return wanted


class _Measurement:
    """Runs batches through the cascade, and from each boundary on once more in each precision."""

    def __init__(self, chain: Chain, policy: Policy, segments: int) -> None:
        self._chain = chain
        self._policy = policy
        self._tallies = [{precision: _Tally() for precision in PRECISIONS} for _ in range(segments)]

    def add(self, feeds: Tensors, state: State, wanted: NDArray[np.bool_]) -> None:
        """Samples (n, …) by input; `wanted` (E, n) says where they count."""
        visited: list[tuple[int, NDArray[np.int64], Tensors, State]] = []

        def visit(k: int, rows: NDArray[np.int64], tensors: Tensors, state: State) -> None:
            keep = wanted[k, rows]
            if keep.any():
                visited.append((k, rows[keep], *_kept(tensors, state, keep)))

        answers = self._finish(0, feeds, state, visit)
        for k, rows, tensors, before in visited:
            self._compare(k, tensors, before, answers[rows])

    def entries(self) -> tuple[Payloads, ...]:
        """What was measured, for each segment."""
        return tuple(_entries(tallies) for tallies in self._tallies)

    def _finish(self, k: int, tensors: Tensors, state: State, visit: Visit | None = None) -> NDArray[np.int64]:
        """(n, 2) label and exit of samples in front of segment k."""
        alive = np.arange(len(next(iter(tensors.values()))))
        answers = np.empty((len(alive), 2), dtype=np.int64)
        while len(alive):
            if visit is not None:
                visit(k, alive, tensors, state)
            tensors, logits = self._chain.step(k, tensors)
            decision, state = self._policy.decide(k, logits, state)
            answers[alive[decision.leave], 0] = decision.label[decision.leave]
            answers[alive[decision.leave], 1] = k
            alive = alive[~decision.leave]
            tensors, state = _kept(tensors, state, ~decision.leave)
            k += 1
        return answers

    def _compare(self, k: int, tensors: Tensors, state: State, answers: NDArray[np.int64]) -> None:
        specs = [TensorSpec(name=n, dtype=a.dtype.name, shape=a.shape[1:]) for n, a in tensors.items()]
        exact = _weigh(self._tallies[k]["fp32"], specs, "fp32", tensors)
        for precision in _ROUNDED:
            tally = self._tallies[k][precision]
            try:
                packed = pack_all(tensors, precision)
            except DataError:
                tally.usable = False
                continue
            _weigh(tally, specs, precision, packed)
            tally.samples += len(answers)
            if any(packed[name] is not exact[name] for name in exact):
                found = self._finish(k, unpack_all(packed, specs), state)
                tally.changed += int((found != answers).any(axis=1).sum())


def _kept(tensors: Tensors, state: State, rows: NDArray[np.bool_]) -> tuple[Tensors, State]:
    return {name: array[rows] for name, array in tensors.items()}, tuple(array[rows] for array in state)


def _weigh(tally: _Tally, specs: list[TensorSpec], precision: str, packed: Tensors) -> Tensors:
    """Note the bytes of a sample, compressed as gzip's quickest level does, on the first samples."""
    tally.size_bytes = sum(packed_bytes(spec, precision) for spec in specs)
    size = len(next(iter(packed.values())))
    for i in range(min(size, _COMPRESSED_SAMPLES - tally.compressed)):
        tally.compressed_bytes += len(zlib.compress(b"".join(part[i].tobytes() for part in packed.values()), 1))
        tally.compressed += 1
    return packed


def _entries(tallies: Mapping[str, _Tally]) -> Payloads:
    seen = {precision: tally for precision, tally in tallies.items() if tally.compressed and tally.usable}
    entries = tuple(
        PayloadEntry(
            precision=precision,  # type: ignore[arg-type]
            size_bytes=tally.size_bytes,
            compressed_bytes=round(tally.compressed_bytes / tally.compressed),
            changed=tally.changed / max(1, tally.samples),
        )
        for precision, tally in seen.items()
    )
    return entries or None
