"""Benchmark: the cascade against the whole model, the bare chain and the ideal, in one interleaved run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.contenders import Chain, Whole

__all__ = ["POOL_SAMPLES", "Contenders", "Row", "bench_batch", "mixed_pool"]

POOL_SAMPLES = 128
BLOCK_SAMPLES = 8
MIN_ROUNDS = 5

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Contenders:
    """What is compared. None: not to be had on this machine."""

    cascade: Cascade
    chain: Chain
    whole: Whole | None
    ideal: Chain | None


@dataclass(frozen=True)
class Row:
    """One batch size. Milliseconds are per batch; None: not to be had on this machine.

    Attributes:
        batch: Samples per batch.
        threads: CPU threads that one operator may use.
        full_ms: The whole model.
        chain_ms: The segments with every exit disabled.
        cascade_ms: The cascade.
        ideal_ms: What the same exits would cost with checks and compaction free.
        chain_over_full: Chain / whole: for each block of batches the median of the rounds' ratios;
            their mean, weighted by the blocks' times.
        cascade_over_full: Cascade / whole, likewise.
        realised_over_ideal: Ideal / cascade, likewise; 1 is perfect.
        rounds: How often everything was timed.
    """

    batch: int
    threads: int
    full_ms: float | None
    chain_ms: float | None
    cascade_ms: float | None
    ideal_ms: float | None
    chain_over_full: float | None
    cascade_over_full: float | None
    realised_over_ideal: float | None
    rounds: int


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


def bench_batch(
    contenders: Contenders,
    pool: Arrays,
    *,
    batch: int,
    threads: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Time all contenders on the same batches, round after round.

    A round goes once over the pool, in blocks of a few batches. Every contender takes a block before
    the next block begins, in an order that rotates, so that whatever else the machine does hits all
    alike. The first round is not counted.

    Args:
        contenders: What to compare.
        pool: At least `batch` samples; those that fill no whole batch are left out.
        batch: Samples per batch.
        threads: What the contenders were opened with.
        seconds: How long to go on; at least `MIN_ROUNDS` rounds are counted all the same.
        clock: Seconds.
    """
    batches = list(_batches(pool, batch))
    per_block = max(1, BLOCK_SAMPLES // batch)
    blocks = [range(start, min(start + per_block, len(batches))) for start in range(0, len(batches), per_block)]
    timed = _timed(contenders, batches, clock)
    rounds: list[list[list[float]]] = []
    start_s = clock()
    while len(rounds) <= MIN_ROUNDS or clock() - start_s < seconds:
        rounds.append(_round(list(timed.values()), blocks, len(rounds)))
    seconds_spent = np.array(rounds[1:]).transpose(2, 0, 1)
    return _row(dict(zip(timed, seconds_spent, strict=True)), batch, threads, len(batches))


Timed = Callable[[range], float]
"""Takes the batches of a block, and returns the seconds spent."""


def _round(timed: Sequence[Timed], blocks: Sequence[range], number: int) -> list[list[float]]:
    """Seconds by block and contender."""
    table = []
    for block in blocks:
        row = [0.0] * len(timed)
        for i in range(len(timed)):
            contender = (number + block.start + i) % len(timed)
            row[contender] = timed[contender](block)
        table.append(row)
    return table


def _batches(pool: Arrays, batch: int) -> Iterator[dict[str, NDArray[Any]]]:
    length = len(next(iter(pool.values())))
    for start in range(0, length - batch + 1, batch):
        yield {name: array[start : start + batch] for name, array in pool.items()}


def _timed(contenders: Contenders, batches: Sequence[Arrays], clock: Callable[[], float]) -> dict[str, Timed]:
    def whole_call(run: Callable[[Arrays], object]) -> Timed:
        def timed(block: range) -> float:
            start_s = clock()
            for i in block:
                run(batches[i])
            return clock() - start_s

        return timed

    timed = {"cascade": whole_call(contenders.cascade.run), "chain": whole_call(contenders.chain)}
    if contenders.whole is not None:
        timed["full"] = whole_call(contenders.whole)
    if contenders.ideal is not None:
        survivors_s = contenders.ideal.survivors_s
        exits = [contenders.cascade.run(batch).exit for batch in batches]
        timed["ideal"] = lambda block: sum(survivors_s(batches[i], exits[i], clock) for i in block)
    return timed


def _row(spent: Mapping[str, NDArray[np.float64]], batch: int, threads: int, batches: int) -> Row:
    """Medians over the rounds. `spent` has seconds (rounds, blocks) for each contender."""

    def ms(name: str) -> float | None:
        return 1e3 * float(np.median(spent[name], axis=0).sum()) / batches if name in spent else None

    def ratio(upper: str, lower: str) -> float | None:
        if upper not in spent or lower not in spent:
            return None
        weights = np.median(spent[lower], axis=0)
        return float(np.median(spent[upper] / spent[lower], axis=0) @ weights / weights.sum())

    return Row(
        batch=batch,
        threads=threads,
        full_ms=ms("full"),
        chain_ms=ms("chain"),
        cascade_ms=ms("cascade"),
        ideal_ms=ms("ideal"),
        chain_over_full=ratio("chain", "full"),
        cascade_over_full=ratio("cascade", "full"),
        realised_over_ideal=ratio("ideal", "cascade"),
        rounds=len(spent["cascade"]),
    )
