"""Samples that this tier could not resolve, on their way to the next and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeexit_runtime.offload.answerer import Answerer
from edgeexit_runtime.offload.transport import OffloadError
from edgeexit_runtime.server.jobs import Job, Row, Wave
from edgeexit_runtime.tail import Tail

__all__ = ["HandingOn"]

MARGIN_S = 0.01
"""How long before its deadline a request stops waiting for the next tier."""


class HandingOn:
    """Asks the next tier, request by request: no two share a message.

    Args:
        tail: The segments of this tier.
        onward: The next tier.
        put: Takes the answers.
        on_failure: Told of what nobody expects.
    """

    def __init__(
        self,
        tail: Tail,
        onward: Answerer,
        put: Callable[[Job, Row], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._tail = tail
        self._onward = onward
        self._put = put
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    def hand_on(self, wave: Wave, local: Mapping[Job, Sequence[Row]]) -> None:
        """Ask about samples behind the tail's last segment.

        Args:
            wave: The samples, as host arrays.
            local: For each request this tier's own answers to its samples, in the same order: what holds
                when the next tier is silent.
        """
        positions: dict[Job, list[int]] = {job: [] for job in local}
        for i, job in enumerate(wave.jobs):
            positions[job].append(i)
        for job, rows in local.items():
            if job.wanted:
                part = wave.keep(np.array(positions[job], np.intp))
                task = asyncio.get_running_loop().create_task(self._ask(job, part, rows))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _ask(self, job: Job, wave: Wave, local: Sequence[Row]) -> None:
        try:
            rows = await self._answers(job, wave)
        except OffloadError as error:
            rows = [row._replace(reason=f"next tier: {error.reason}") for row in local]
        except Exception as error:
            self._on_failure(error)
            rows = [row._replace(reason="next tier: failed") for row in local]
        for row in rows:
            self._put(job, row)

    async def _answers(self, job: Job, wave: Wave) -> list[Row]:
        k = self._tail.last + 1
        inputs = None if job.inputs is None else {name: array[wave.rows] for name, array in job.inputs.items()}
        reply = await self._onward.answer(k, wave.arrays(), inputs, deadline_s=job.deadline_s - MARGIN_S)
        columns = (reply.label, reply.probability, reply.exit, reply.score, reply.degraded)
        values = zip(wave.rows, *(column.tolist() for column in columns), reply.tier, strict=True)
        return [
            Row(row, label, probability, exit_, score, degraded, tier, reply.reason if degraded else None)
            for row, label, probability, exit_, score, degraded, tier in values
        ]
