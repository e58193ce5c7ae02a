"""The line-up of a benchmark: a bundle and everything that it is compared with, opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.data import open_data
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.bench import Contenders, mixed_pool, nobody_leaves
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.contenders import bare_chain, ideal_chain
from edgeexit_runtime.evaluation import choose_samples
from edgeexit_runtime.rivals import Rivals
from edgeexit_runtime.whole import as_it_comes, merged_whole, whole_from_file

__all__ = ["Samples", "choose_pool", "line_up"]


@dataclass(frozen=True)
class Samples:
    """What to draw batches from.

    Attributes:
        arrays: m samples, by the inputs' names.
        exits: (m,) the exit that each takes.
        shares: The share that each exit should get.
    """

    arrays: Arrays
    exits: NDArray[np.int64]
    shares: tuple[float, ...]

    def pool(self, size: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
        """`size` samples in that mix, and the share that each exit got. See `mixed_pool`."""
        arrays, exits = mixed_pool(self.arrays, self.exits, self.shares, size)
        return arrays, np.bincount(exits, minlength=len(self.shares)) / size


def line_up(
    bundle: Bundle,
    rivals: Rivals,
    *,
    threads: int,
    whole: Path | None = None,
    profile: str | Path | None = None,
    shared_pool: bool = False,
    full_length: bool = False,
    stream_wait_ms: float | None = None,
) -> Contenders:
    """Open everything.

    Args:
        bundle: The bundle.
        rivals: Made beforehand.
        threads: CPU threads that one operator may use.
        whole: The whole model's file; it is merged from the segments when None.
        profile: See `Cascade.open`.
        shared_pool: See `Cascade.open`. The model as it comes has threads of its own, so it is not timed then.
        full_length: Whether to time the cascade that nobody leaves early.
        stream_wait_ms: How long samples may wait in `Cascade.stream`; it is not timed when None.

    Raises:
        EdgeExitError: Something cannot be opened.
    """
    settings = SessionSettings(threads=threads, shared_pool=shared_pool)
    common: dict[str, Any] = {"threads": threads, "profile": profile, "shared_pool": shared_pool}
    cascade = Cascade.open(bundle, **common, lean=True)  # as edgeexit run opens it
    model = merged_whole(bundle, settings) if whole is None else whole_from_file(whole, bundle, settings)

    def streamed(batches: Sequence[Arrays]) -> int:
        return sum(1 for _ in cascade.stream(batches, wait_ms=stream_wait_ms))

    return Contenders(
        cascade=cascade,
        chain=bare_chain(bundle, settings),
        whole=model,
        ideal=ideal_chain(bundle, settings),
        default=None if model is None or shared_pool else as_it_comes(model, threads),
        full_length=nobody_leaves(Cascade.open(bundle, **common)) if full_length else None,
        stream=None if stream_wait_ms is None else streamed,
        rivals=rivals.ready,
    )


def choose_pool(bundle: Bundle, cascade: Cascade, data: str | Path | None, count: int) -> Samples:
    """The golden samples with the shares of the calibration split; or `count` samples of a data set with its own.

    Raises:
        DataError: The data cannot be used.
    """
    manifest = bundle.manifest
    if data is None:
        samples = {spec.name: bundle.check[f"input.{spec.name}"] for spec in manifest.inputs}
        return Samples(samples, cascade.run(samples).exit, manifest.calibration.exit_shares)
    dataset = open_data(data, manifest.inputs, manifest.preprocessing, manifest.labels)
    chosen = choose_samples(dataset, count)
    samples = next(dataset.batches(len(chosen), chosen))
    exits = cascade.run(samples).exit
    shares = np.bincount(exits, minlength=len(manifest.exits)) / len(exits)
    return Samples(samples, exits, tuple(map(float, shares)))
