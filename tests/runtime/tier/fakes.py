"""Tiers to test with: fake tails whose samples say where they leave, and upstreams that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.bundles import bundle_parts
from edgeexit.manifest import Manifest
from edgeexit.policies import MaxProbability
from edgeexit_runtime import Cascade, FakeBackend
from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.tier.passage import passage
from edgeexit_runtime.wire.messages import Reply
from runtime.cascades import F32, float_spec, told_by_the_sample

SEGMENTS = 4
UPTO = 2
NEVER_MS = 60_000.0
"""A deadline that no test waits for."""

Arrays = Mapping[str, NDArray[Any]]


def fake_manifest(segments: int = SEGMENTS) -> Manifest:
    """A manifest whose segments all hand on (4,) float32."""
    manifest, _ = bundle_parts(segments)
    entries = [
        msgspec.structs.replace(
            entry,
            inputs=(float_spec("x" if k == 0 else f"h{k - 1}", 4),),
            outputs=(float_spec(f"h{k}", 4),) if k < segments - 1 else (),
        )
        for k, entry in enumerate(manifest.segments)
    ]
    return msgspec.structs.replace(manifest, segments=tuple(entries))


def fake_tail(first: int = 0, upto: int = SEGMENTS) -> Tail:
    """Segments `first` … `upto` − 1 of a fake cascade; samples are those of `runtime.cascades.sample`."""
    backend = FakeBackend([told_by_the_sample(k) for k in range(first, upto)])
    return Tail(fake_manifest(), policy(), backend, backend.segments, first)


def whole_cascade() -> Cascade:
    """All segments in one process."""
    backend = FakeBackend([told_by_the_sample(k) for k in range(SEGMENTS)])
    return Cascade(fake_manifest(), policy(), backend, backend.segments)


def policy() -> MaxProbability:
    return MaxProbability((1.0,) * SEGMENTS, (0.75,) * (SEGMENTS - 1) + (np.inf,))


def answered(tail: Tail, arrays: Arrays, *, name: str = "server") -> Reply:
    """What an honest tier that runs `tail` says of samples in front of its first segment."""
    group = tail.begin(arrays)
    label, exit_ = np.zeros(group.size, np.int64), np.zeros(group.size, np.int64)
    probability, score = np.zeros(group.size, F32), np.zeros(group.size, F32)
    for part in passage(tail, group):
        assert isinstance(part, Resolved)
        label[part.rows], probability[part.rows], exit_[part.rows], score[part.rows] = (
            part.decision.label,
            part.decision.probability,
            part.exit,
            part.decision.score,
        )
    return Reply(label, probability, exit_, score, np.zeros(group.size, np.bool_), (name,) * group.size)


class Upstream:
    """Answers with a function of (k, arrays), which may be a coroutine function, and may raise.

    Attributes:
        asked: For each question its segment, its rows and its deadline.
        prepared: For each call of `prepare` the segment, and how long it may take.
    """

    def __init__(self, function: Callable[[int, Arrays], Reply | Awaitable[Reply]]) -> None:
        self.function = function
        self.asked: list[tuple[int, int, float]] = []
        self.prepared: list[tuple[int, float]] = []

    async def answer(self, k: int, arrays: Arrays, inputs: Arrays | None, *, deadline_s: float) -> Reply:
        """See `Answerer`."""
        assert inputs is not None
        self.asked.append((k, len(inputs["x"]), deadline_s))
        found = self.function(k, arrays)
        return await found if isinstance(found, Awaitable) else found

    async def prepare(self, k: int, arrays: Arrays, inputs: Arrays | None, *, timeout_s: float) -> bool:
        """See `Answerer`."""
        self.prepared.append((k, timeout_s))
        return True


def honest() -> Upstream:
    """Answers as the later segments do."""
    tail = fake_tail(UPTO)
    return Upstream(lambda k, arrays: answered(tail, arrays))


def failing(error: Exception) -> Upstream:
    """Answers nobody."""

    def refuse(k: int, arrays: Arrays) -> Reply:
        raise error

    return Upstream(refuse)


def silent() -> Upstream:
    """Takes questions and says nothing."""

    async def wait(k: int, arrays: Arrays) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    return Upstream(wait)


def cut(x: NDArray[np.float32], sizes: Sequence[int]) -> list[NDArray[np.float32]]:
    """Batches of these sizes, and one of the rest."""
    return np.split(x, np.cumsum(sizes))
