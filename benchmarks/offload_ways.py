"""Four ways to answer a sample, for `benchmarks/offload.py`.

local    all segments here
remote   the input is sent, all segments run on the server
cascade  the first segments here, what they leave unresolved is handed on, as by `edgeexit run --upto K --offload URL`
quicker  the same, with `--hand-on quicker`: samples are finished here where that takes less time
"""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.offload.background import Background
from edgeexit_runtime.offload.opening import open_upstream
from edgeexit_runtime.offload.upstream import Upstream, UpstreamSettings
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.tier import Tier

DEADLINE_MS = 30_000.0
Batch = dict[str, NDArray[Any]]
Told = tuple[int, int, str, bool]
"""Label, exit, tier, and whether the answer is degraded."""


class Way(Protocol):
    """One way to answer a sample."""

    upstream: Upstream | None

    def answer(self, batch: Batch) -> Told:
        """The answer to a batch of one sample."""

    def close(self) -> None:
        """End threads."""


class Local:
    upstream: Upstream | None = None

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade

    def answer(self, batch: Batch) -> Told:
        (found,) = self._cascade.stream([batch])
        return found.label, found.exit, "local", found.degraded

    def close(self) -> None:
        pass


class Remote:
    def __init__(self, bundle: Bundle, url: str, background: Background) -> None:
        self.upstream: Upstream | None = upstream_of(bundle, url)
        self._background = background

    def answer(self, batch: Batch) -> Told:
        assert self.upstream is not None
        reply = self._background.submit(self.upstream.answer(0, batch)).result()
        return int(reply.label[0]), int(reply.exit[0]), reply.tier[0], bool(reply.degraded[0])

    def close(self) -> None:
        assert self.upstream is not None
        self._background.submit(self.upstream.close()).result()


class Offloading:
    """A tier whose next sample comes when somebody wants its answer."""

    def __init__(
        self, bundle: Bundle, tails: tuple[Tail, Tail], url: str, background: Background, *, quicker: bool
    ) -> None:
        local, later = tails
        self.upstream: Upstream | None = upstream_of(bundle, url)
        self._background = background
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._tier = Tier(
            local,
            self.upstream,
            deadline_ms=DEADLINE_MS,
            finish_locally=later,
            quicker=quicker,
            background=background,
        )
        self._tier.warm_up()
        self._answers = self._tier.stream(iter(self._batches.get, None))

    def answer(self, batch: Batch) -> Told:
        self._batches.put(batch)
        found = next(self._answers)
        return found.label, found.exit, found.tier, found.degraded

    def close(self) -> None:
        assert self.upstream is not None
        self._batches.put(None)
        for _ in self._answers:
            pass
        self._tier.close()
        self._background.submit(self.upstream.close()).result()


def upstream_of(bundle: Bundle, url: str) -> Upstream:
    return open_upstream(url, bundle.manifest, bundle.policy(), UpstreamSettings(deadline_ms=DEADLINE_MS))
