"""Another tier, as whoever hands samples on sees it."""

from __future__ import annotations

from typing import Protocol

from edgeexit_runtime.batches import Arrays, blank_batch
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Reply

__all__ = ["CONNECTING_S", "Answerer", "prepared"]

CONNECTING_S = 2.0
"""How long a server that starts waits for its next tier."""


class Answerer(Protocol):
    """Answers samples that this tier could not resolve; `offload.upstream.Upstream` is one.

    Its methods are called on one event loop.
    """

    async def answer(self, k: int, arrays: Arrays, inputs: Arrays | None, *, deadline_s: float) -> Reply:
        """Answer samples that stand in front of segment k.

        Args:
            k: The segment.
            arrays: (n, …) each, by the names of `Tail.takes`. They may not change until there is an answer.
            inputs: (n, …) each, the model's inputs of the same samples; None where they are not at hand.
            deadline_s: When the answer is needed, on the clock of the event loop.

        Raises:
            OffloadError: There is no answer; its `reason` says why.
        """

    async def prepare(self, k: int, arrays: Arrays, inputs: Arrays | None, *, timeout_s: float) -> bool:
        """Make ready for samples such as these, so that the first question need not wait for a connection.

        Returns:
            Whether it is ready. Nothing is raised.
        """


async def prepared(answerer: Answerer, tail: Tail, *, timeout_s: float) -> bool:
    """Whether another tier is ready for what `tail` leaves unresolved; see `Answerer.prepare`."""
    if tail.last + 1 == len(tail.manifest.segments):
        return True  # it leaves nothing
    inputs = blank_batch(tail.manifest.inputs, 1) if tail.first == 0 else None
    return await answerer.prepare(tail.last + 1, blank_batch(tail.takes(tail.last + 1), 1), inputs, timeout_s=timeout_s)
