"""The device of `benchmarks/offload.py`, as a process of its own: it answers the same samples in four ways.

`offload_ways.py` has the ways. One sample at a time, the next after the answer to the last; the ways take turns,
so that whatever disturbs the machine disturbs all of them. Orders come as lines of JSON on standard input, and are
answered with one each.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np
from links import UP, Counters, counters_here
from offload_ways import DEADLINE_MS, Batch, Local, Offloading, Remote, Told, Way, upstream_of

from edgeexit.bundle import Bundle
from edgeexit.data import Dataset, open_data, open_files
from edgeexit.errors import DataError
from edgeexit_runtime import profiling
from edgeexit_runtime.backends import load_backend
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.offload.background import Background
from edgeexit_runtime.offload.upstream import Upstream
from edgeexit_runtime.settings import session_settings
from edgeexit_runtime.tail import Tail

BLOCK = 10
"""Samples that one way answers before it is the next one's turn."""

WARM_UP = 4
ASKED, PROFILED, PACED = 40, 4, 20
SETTLING_S = 0.06
"""After that nothing more is said of an answer: acknowledgements wait for up to 40 ms."""

SEED = 0


@dataclass
class Record:
    """What one way took and said, a sample each, and the bytes of all of them together."""

    ms: list[float] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    exit: list[int] = field(default_factory=list)
    tier: list[str] = field(default_factory=list)
    degraded: list[bool] = field(default_factory=list)
    up_bytes: int = 0
    down_bytes: int = 0
    payloads: dict[str, int] = field(default_factory=dict)
    mbit_s: float | None = None  # what the upstream takes the bandwidth for

    def add(self, ms: float, told: Told) -> None:
        for column, value in zip((self.ms, self.label, self.exit, self.tier, self.degraded), (ms, *told), strict=True):
            column.append(value)  # type: ignore[attr-defined]

    def crossed(self, counters: Counters) -> None:
        self.up_bytes += counters.sent_bytes
        self.down_bytes += counters.received_bytes


class Device:
    """A bundle, samples, and a server at a URL."""

    def __init__(self, path: str, url: str, data: Sequence[str], samples: int) -> None:
        self._bundle = Bundle.open(path)
        self._url = url
        dataset = dataset_for(self._bundle, data)
        chosen = np.random.default_rng(SEED).permutation(len(dataset))[:samples]
        self._labels = None if dataset.labels is None else dataset.labels[chosen].tolist()
        self._samples = list(dataset.batches(1, chosen))
        self._cascade = Cascade.open(path, threads=1, lean=True, shared_pool=True)
        self._cascade.warm_up()
        self._tails = {
            k: (
                Tail.open(self._bundle, upto=k, threads=1, shared_pool=True),
                Tail.open(self._bundle, first=k, threads=1, shared_pool=True),
            )
            for k in range(1, len(self._bundle.manifest.segments))
        }
        self._subject = profiling.opened_subject(
            self._bundle, load_backend("onnxruntime"), session_settings(None, 1), largest=1, target=None
        )

    def profile(self, seconds: float) -> Any:
        """What `edgeexit profile --batch 1 --threads 1` measures."""
        inputs = self._bundle.manifest.inputs
        golden = {spec.name: self._bundle.check[f"input.{spec.name}"][:PROFILED] for spec in inputs}
        return msgspec.to_builtins(
            profiling.profile(
                self._subject, golden, (1,), seconds=seconds, meter=None, energy_note="", advance=lambda n=1: None
            )
        )

    def pace(self) -> float:
        """The mean time of the cascade, in ms, over a few samples, each the quicker of two tries."""
        least_ms = []
        for batch in self._samples[:PACED]:
            times_s = []
            for _ in range(2):
                start_s = time.perf_counter()
                list(self._cascade.stream([batch]))
                times_s.append(time.perf_counter() - start_s)
            least_ms.append(1e3 * min(times_s))
        return statistics.mean(least_ms)

    def overheads(self) -> dict[str, float]:
        """A round trip with nothing to carry, and what a sample takes beside the server's time; medians, in ms."""

        async def asked() -> dict[str, float]:
            upstream = upstream_of(self._bundle, self._url)
            await connected(upstream)
            trips, messages = [], []
            for batch in self._samples[:ASKED]:
                start_s = time.perf_counter()
                await upstream.ready(DEADLINE_MS / 1e3)
                between_s = time.perf_counter()
                reply = await upstream.answer(0, batch)
                trips.append(1e3 * (between_s - start_s))
                messages.append(1e3 * (time.perf_counter() - between_s) - reply.server_ms)
            await upstream.close()
            return {"rtt_ms": statistics.median(trips), "message_ms": statistics.median(messages)}

        with Background() as background:
            return background.submit(asked()).result()

    def measure(self, upto: int, seconds: float) -> dict[str, Any]:
        """Answer the samples in every way, with the first `upto` segments here where something is handed on.

        Samples are left out at the end where there is no time for them.
        """
        with ExitStack() as stack:
            background = stack.enter_context(Background())
            ways: dict[str, Way] = {
                "local": Local(self._cascade),
                "remote": Remote(self._bundle, self._url, background),
                "cascade": Offloading(self._bundle, self._tails[upto], self._url, background, quicker=False),
                "quicker": Offloading(self._bundle, self._tails[upto], self._url, background, quicker=True),
            }
            for way in ways.values():
                stack.callback(way.close)
                if way.upstream is not None:
                    background.submit(connected(way.upstream)).result()
            records = self._turns(ways, seconds)
            for name, way in ways.items():
                if way.upstream is not None:
                    snapshot = background.submit(state(way.upstream)).result()
                    records[name].payloads, records[name].mbit_s = dict(snapshot.sent), snapshot.mbit_per_s
        return {"labels": self._labels, "ways": {name: asdict(record) for name, record in records.items()}}

    def _turns(self, ways: Mapping[str, Way], seconds: float) -> dict[str, Record]:
        for batch in self._samples[-WARM_UP:]:
            for way in ways.values():
                way.answer(batch)
        records = {name: Record() for name in ways}
        until_s = time.perf_counter() + seconds
        before = settled()
        for turn, block in enumerate(blocks(self._samples)):
            names = list(ways)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                for batch in block:
                    start_s = time.perf_counter()
                    told = ways[name].answer(batch)
                    records[name].add(1e3 * (time.perf_counter() - start_s), told)
                after = settled()
                records[name].crossed(after - before)
                before = after
            if time.perf_counter() > until_s:
                break
        return records


async def connected(upstream: Upstream) -> None:
    """Wait for the connection, which a slow device may have to try more than once."""
    until_s = time.perf_counter() + DEADLINE_MS / 1e3
    while not await upstream.ready(DEADLINE_MS / 1e3):
        if time.perf_counter() > until_s:
            raise RuntimeError("the server is not ready")
        await asyncio.sleep(0.1)


async def state(upstream: Upstream) -> Any:
    return upstream.snapshot()


def settled() -> Counters:
    """What crossed the link, after the last word was said."""
    time.sleep(SETTLING_S)
    return counters_here(UP)


def blocks(samples: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    return (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))


def dataset_for(bundle: Bundle, folders: Sequence[str]) -> Dataset:
    """The first of the folders whose classes are the model's; else the pictures of the first, without labels."""
    manifest = bundle.manifest
    for folder in folders:
        try:
            return open_data(folder, manifest.inputs, manifest.preprocessing, manifest.labels)
        except DataError:
            continue
    return open_files(folders[:1], manifest.inputs, manifest.preprocessing)


def main() -> None:
    path, url, samples, *data = sys.argv[1:]
    device = Device(path, url, data, int(samples))
    orders: dict[str, Callable[..., Any]] = {
        "profile": device.profile,
        "pace": device.pace,
        "overheads": device.overheads,
        "measure": device.measure,
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order, options = json.loads(line)
        print(json.dumps(orders[order](**options)), flush=True)


if __name__ == "__main__":
    main()
