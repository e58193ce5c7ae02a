"""Replies: what came of a question to another tier, and the answers in it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

import numpy as np

from edgeexit_runtime.answers import Answer
from edgeexit_runtime.tier.ledger import Pending
from edgeexit_runtime.wire.messages import Reply

__all__ = ["DEGRADED", "FAILED", "TierAnswer", "from_here", "from_upstream", "outcome"]

FAILED = "failed"
"""The reason where something went wrong that states none."""

DEGRADED = "degraded upstream"
"""The reason where the other tier's answer is degraded and states none."""


@dataclass(frozen=True, slots=True)
class TierAnswer(Answer):
    """One sample's answer, and where it comes from."""

    tier: str  # the name of the tier that answered


def from_here(answers: Iterator[Answer], tier: str) -> Iterator[TierAnswer]:
    """Answers of this tier."""
    for a in answers:
        yield TierAnswer(a.index, a.label, a.probability, a.exit, a.score, a.degraded, a.reason, tier)


def from_upstream(pending: Pending, reply: Reply) -> Iterator[TierAnswer]:
    """Answers of another tier, of as many rows as were asked about."""
    columns = (pending.best.rows, reply.label, reply.probability, reply.exit, reply.score, reply.degraded)
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    for (row, label, probability, k, score, degraded), tier in zip(rows, reply.tier, strict=True):
        reason = (reply.reason or DEGRADED) if degraded else None
        yield TierAnswer(pending.start + row, label, probability, k, score, degraded, reason, tier)


def outcome(future: Future[Reply], rows: int) -> tuple[Reply | None, str]:
    """What came of a question about so many samples, asked long enough ago: a reply, or why there is none."""
    try:
        reply = future.result(timeout=0)
    except CancelledError:
        return None, "cancelled"
    except Exception as error:  # the device always answers
        return None, str(getattr(error, "reason", FAILED))
    columns = (reply.label, reply.probability, reply.exit, reply.score, reply.degraded, reply.tier)
    return (reply, "") if {len(column) for column in columns} == {rows} else (None, "protocol")
