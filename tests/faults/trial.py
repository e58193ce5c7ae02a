"""A trial: a stream through a tier whose way upstream is faulty, held against one cascade in one process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit_runtime.answers import Answers
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.offload.background import Background
from edgeexit_runtime.offload.choice import Wishes
from edgeexit_runtime.offload.opening import open_upstream
from edgeexit_runtime.offload.upstream import UpstreamSettings
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.tier import Tier
from faults.proxy import Address

__all__ = ["Outcome", "Served", "expected_answers", "trial"]

READY_S = 60
GRACE_MS = 50.0


class Served:
    """`edgeexit serve` in a process of its own, on a free port of this machine.

    Args:
        bundle: The bundle.
        *options: Further options.

    Attributes:
        address: Where it listens.
    """

    def __init__(self, bundle: Path, *options: object) -> None:
        self._scheme = "grpcs" if "--tls-cert" in options else "grpc"
        line = [sys.executable, "-m", "edgeexit", "serve", str(bundle), "--listen", "127.0.0.1:0", "--json"]
        self._process = subprocess.Popen(
            [*line, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        out: IO[str] | None = self._process.stdout
        assert out is not None
        said = out.readline()
        if not said:
            raise AssertionError(self._process.communicate()[1])
        host, _, port = json.loads(said)["listening"].rpartition(":")
        self.address: Address = (host, int(port))

    @property
    def url(self) -> str:
        """The address as clients take it."""
        return self.through(self.address)

    def through(self, proxy: Address) -> str:
        """The address of a proxy as clients take it."""
        return f"{self._scheme}://{proxy[0]}:{proxy[1]}"

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.communicate(timeout=READY_S)

    def kill(self) -> None:
        """End it at once: connections are reset, and nothing is answered any more."""
        self._process.kill()
        self._process.communicate(timeout=READY_S)

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        self._process.terminate()
        return self._process.wait(READY_S)


@dataclass
class Outcome:
    """What became of a stream.

    Attributes:
        samples: How many there were.
        tiers: How many each tier answered without being degraded.
        reasons: How many were degraded, by reason.
        twice, lost, wrong: How many were answered more than once, never, or undegraded with another label or exit
            than one cascade gives; degraded with another than its local exit gives counts as wrong too.
        beyond: How many were answered more than `GRACE_MS` after their deadline.
        late_ms: The longest time by which an answer came after its deadline; below 0: none did.
        latest_ms: The longest time from the start of a sample's batch to its answer.
    """

    samples: int = 0
    tiers: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    lost: int = 0
    wrong: int = 0
    beyond: int = 0
    late_ms: float = 0.0
    latest_ms: float = 0.0


def expected_answers(bundle: Path, x: NDArray[Any], upto: int) -> tuple[Answers, Answers]:
    """What one cascade says of all samples, and what its first segments alone do."""
    parts = np.array_split(x, max(1, len(x) // 256))
    return tuple(_joined([cascade.run(part) for part in parts]) for cascade in _cascades(bundle, upto))  # type: ignore[return-value]


def trial(
    bundle: Path,
    url: str,
    batches: Iterable[NDArray[Any]],
    expected: tuple[Answers, Answers],
    *,
    upto: int,
    deadline_ms: float,
    in_flight: int = 8,
    payload: str = "boundary",
    finish: bool = False,
    ca: Path | None = None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Stream batches through a tier that runs the first segments, with fp32 payloads, and hold the answers against
    what is expected of sample i modulo its length. `outcome` is kept up to date while the stream runs.
    """
    outcome = Outcome() if outcome is None else outcome
    opened = Bundle.open(bundle)
    settings = UpstreamSettings(wishes=Wishes(payload, "fp32", "off"), deadline_ms=deadline_ms)
    upstream = open_upstream(url, opened.manifest, opened.policy(), settings, ca=ca)
    starts: list[int] = []
    starts_s: list[float] = []

    def timed() -> Iterator[NDArray[Any]]:
        start = 0
        for batch in batches:
            starts_s.append(time.perf_counter())
            starts.append(start)
            start += len(batch)
            yield batch
        starts_s.append(time.perf_counter())
        starts.append(start)

    seen = Counter[int]()
    later = Tail.open(opened, first=upto) if finish else None
    with Background() as background:
        tail = Tail.open(opened, upto=upto)
        settled: dict[str, Any] = {"deadline_ms": deadline_ms, "in_flight": in_flight, "background": background}
        with Tier(tail, upstream, finish_locally=later, **settled) as tier:
            tier.warm_up()
            for a in tier.stream(timed()):
                took_ms = 1e3 * (time.perf_counter() - starts_s[bisect(starts, a.index) - 1])
                outcome.latest_ms = max(outcome.latest_ms, took_ms)
                outcome.beyond += took_ms > deadline_ms + GRACE_MS
                seen[a.index] += 1
                outcome.wrong += not _right(a, expected, upto)
                (outcome.reasons if a.degraded else outcome.tiers)[a.reason or a.tier] += 1
        background.submit(upstream.close()).result(10)
    outcome.samples = starts[-1]
    outcome.twice = sum(count > 1 for count in seen.values())
    outcome.lost = outcome.samples - len(seen)
    outcome.late_ms = outcome.latest_ms - deadline_ms
    return outcome


def _right(answer: Any, expected: tuple[Answers, Answers], upto: int) -> bool:
    whole, local = expected
    wanted = local if answer.degraded and answer.exit == upto - 1 else whole
    i = answer.index % len(wanted)
    label, exit_ = int(wanted.label[i]), int(wanted.exit[i])
    return bool(
        (answer.label, answer.exit) == (label, exit_) and abs(answer.probability - wanted.probability[i]) < 1e-3
    )


def _cascades(bundle: Path, upto: int) -> Iterator[Cascade]:
    yield Cascade.open(bundle)
    yield Cascade.open(bundle, upto=upto)


def _joined(parts: list[Answers]) -> Answers:
    names = ("label", "probability", "exit", "score", "degraded")
    return Answers(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
