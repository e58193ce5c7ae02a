"""What an upstream did so far, for logs and reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Counters", "Snapshot"]


@dataclass
class Counters:
    """Running counts of questions, each of one or more samples."""

    asked: int = 0
    answered: int = 0
    retried: int = 0
    payload_bytes: int = 0  # of the tensors that were sent, before compression
    failed: Counter[str] = field(default_factory=Counter)  # questions by reason
    sent: Counter[str] = field(default_factory=Counter)  # attempts by payload, such as "boundary fp16"

    def sending(self, payload: str, size_bytes: int) -> None:
        """A question goes out."""
        self.sent[payload] += 1
        self.payload_bytes += size_bytes


@dataclass(frozen=True)
class Snapshot:
    """The state of an upstream at one moment. Every question that has ended is in `answered` or in `failed`."""

    asked: int
    answered: int
    retried: int
    payload_bytes: int
    failed: dict[str, int]
    sent: dict[str, int]
    in_flight: int
    breaker: str
    breaker_opened: int
    rtt_ms: float | None
    mbit_per_s: float | None
