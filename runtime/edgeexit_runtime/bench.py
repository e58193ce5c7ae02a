"""Benchmark: the cascade against whatever else could be run, in one interleaved run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.bench_row import RIVAL, Row, row_of
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.contenders import Chain
from edgeexit_runtime.rivals import Rival
from edgeexit_runtime.whole import Whole

__all__ = ["POOL_SAMPLES", "Contenders", "Row", "bench_batch", "mixed_pool", "nobody_leaves"]

POOL_SAMPLES = 128
BLOCK_SAMPLES = 8
STREAM_BATCHES = 16
MIN_ROUNDS = 5
BEYOND_ANY_SCORE = 1e30
PAUSE_S = 0.02
"""Longer than idle threads of other libraries burn a core before they sleep."""


@dataclass(frozen=True)
class Contenders:
    """What is compared. None: not to be had on this machine, or not asked for.

    Attributes:
        cascade: The cascade.
        chain: The segments with every exit disabled.
        whole: The whole model, with the settings of the cascade's segments.
        ideal: The segments without their checks.
        default: The whole model, with the settings that ONNX Runtime has by itself.
        full_length: The cascade, with thresholds at which nobody leaves.
        stream: What runs batches one after another and pools the samples that stay.
        rivals: By name.
    """

    cascade: Cascade
    chain: Chain
    whole: Whole | None
    ideal: Chain | None
    default: Callable[[Arrays], object] | None = None
    full_length: Cascade | None = None
    stream: Callable[[Sequence[Arrays]], object] | None = None
    rivals: Mapping[str, Rival] = field(default_factory=dict)


def mixed_pool(
    samples: Arrays, exits: NDArray[np.int64], shares: Sequence[float], size: int
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """A pool in which the exits have given shares, as nearly as the samples allow; samples repeat.

    Shares of exits that no sample takes are spread over the others. The order is shuffled, always alike.

    Args:
        samples: m samples.
        exits: (m,) the exit that each takes.
        shares: One share per exit.
        size: How many samples the pool gets.

    Returns:
        The pool's samples and their exits, (size,).
    """
    random = np.random.default_rng(0)
    wanted = np.where(np.bincount(exits, minlength=len(shares)) > 0, np.asarray(shares, dtype=np.float64), 0.0)
    if wanted.sum() == 0:
        wanted = np.bincount(exits, minlength=len(shares)).astype(np.float64)
    exact = size * wanted / wanted.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    rows = np.concatenate(
        [np.resize(random.permutation(np.flatnonzero(exits == k)), count) for k, count in enumerate(counts) if count]
    )
    rows = random.permutation(rows)
    return {name: np.ascontiguousarray(array[rows]) for name, array in samples.items()}, exits[rows]


def nobody_leaves(cascade: Cascade) -> Cascade:
    """The same segments with thresholds above any score, so that every check is run and nobody leaves early."""
    return cascade.with_policy(cascade.policy.with_thresholds((BEYOND_ANY_SCORE,) * cascade.exits))


def bench_batch(
    contenders: Contenders,
    pool: Arrays,
    *,
    batch: int,
    threads: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> Row:
    """Time all contenders on the same batches, round after round.

    A round goes once over the pool, in blocks of a few batches. Every contender takes a block before
    the next block begins, in an order that is drawn anew, so that whatever else the machine does, and
    whatever a contender leaves in the cache, hits all alike. The first round is not counted.

    Args:
        contenders: What to compare.
        pool: At least `batch` samples; those that fill no whole batch are left out.
        batch: Samples per batch.
        threads: What the contenders were opened with.
        seconds: How long to go on; at least `MIN_ROUNDS` rounds are counted all the same.
        clock: Seconds.
        pause: Waits for so many seconds, after contenders whose threads go on spinning.
    """
    batches = list(_batches(pool, batch))
    per_block = max(1, BLOCK_SAMPLES // batch)
    blocks = [range(start, min(start + per_block, len(batches))) for start in range(0, len(batches), per_block)]
    timed = _timed(contenders, batches, clock, pause if threads > 1 else _no_pause)
    order = np.random.default_rng(0)
    for cascade in (contenders.cascade, contenders.full_length):
        _settle(cascade, batches)
    rounds: list[list[list[float]]] = []
    streams: list[float] = []
    start_s = clock()
    while len(rounds) <= MIN_ROUNDS or clock() - start_s < seconds:
        rounds.append(_round(list(timed.values()), blocks, order))
        if contenders.stream is not None:
            streams.append(_stream_s(contenders.stream, batches, clock))
    spent = dict(zip(timed, np.array(rounds[1:]).transpose(2, 0, 1), strict=True))
    missing = {
        name: f"takes at most {rival.largest_batch} samples"
        for name, rival in contenders.rivals.items()
        if not _takes(rival, batch)
    }
    return row_of(spent, np.array(streams[1:]), batch=batch, threads=threads, batches=len(batches), missing=missing)


def _settle(cascade: Cascade | None, batches: Sequence[Arrays]) -> None:
    """Let a cascade learn how to run such batches."""
    size = len(next(iter(batches[0].values())))
    number = 0
    while cascade is not None and not cascade.settled(size):
        cascade.run(batches[number % len(batches)])
        number += 1


Timed = Callable[[range], float]
"""Takes the batches of a block, and returns the seconds spent."""


def _no_pause(seconds: float) -> None:
    """Go on at once."""


def _round(timed: Sequence[Timed], blocks: Sequence[range], order: np.random.Generator) -> list[list[float]]:
    """Seconds by block and contender."""
    table = []
    for block in blocks:
        row = [0.0] * len(timed)
        for contender in order.permutation(len(timed)):
            row[contender] = timed[contender](block)
        table.append(row)
    return table


def _stream_s(
    stream: Callable[[Sequence[Arrays]], object], batches: Sequence[Arrays], clock: Callable[[], float]
) -> float:
    """Seconds per batch of a stream that is long enough to pool."""
    many = [batches[i % len(batches)] for i in range(max(STREAM_BATCHES, len(batches)))]
    start_s = clock()
    stream(many)
    return (clock() - start_s) / len(many)


def _batches(pool: Arrays, batch: int) -> Iterator[dict[str, NDArray[Any]]]:
    length = len(next(iter(pool.values())))
    for start in range(0, length - batch + 1, batch):
        yield {name: array[start : start + batch] for name, array in pool.items()}


def _timed(
    contenders: Contenders, batches: Sequence[Arrays], clock: Callable[[], float], pause: Callable[[float], None]
) -> dict[str, Timed]:
    def each(run: Callable[[int], object], pause_s: float = 0.0) -> Timed:
        def timed(block: range) -> float:
            start_s = clock()
            for i in block:
                run(i)
            spent_s = clock() - start_s
            if pause_s:
                pause(pause_s)
            return spent_s

        return timed

    def whole(run: Callable[[Arrays], object], pause_s: float = 0.0) -> Timed:
        return each(lambda i: run(batches[i]), pause_s)

    timed = {"cascade": whole(contenders.cascade.run), "chain": whole(contenders.chain)}
    if contenders.whole is not None:
        timed["full"] = whole(contenders.whole)
    if contenders.default is not None:
        timed["default"] = whole(contenders.default, PAUSE_S)
    if contenders.full_length is not None:
        timed["full_length"] = whole(contenders.full_length.run)
    if contenders.ideal is None and not contenders.rivals:
        return timed
    exits = [contenders.cascade.run(batch).exit for batch in batches]
    if contenders.ideal is not None:
        survivors_s = contenders.ideal.survivors_s
        timed["ideal"] = lambda block: sum(survivors_s(batches[i], exits[i], clock) for i in block)
    size = len(exits[0])
    for name, rival in contenders.rivals.items():
        if _takes(rival, size):
            timed[RIVAL + name] = each(lambda i, rival=rival: rival(batches[i], exits[i]), PAUSE_S)  # type: ignore[misc]
    return timed


def _takes(rival: Rival, batch: int) -> bool:
    return rival.largest_batch is None or batch <= rival.largest_batch
