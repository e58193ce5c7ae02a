"""Retries: when a question that failed is asked again, and after which pause."""

from __future__ import annotations

from dataclasses import dataclass

from edgeexit.errors import UsageError

__all__ = ["Backoff", "RetryBudget"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses with full jitter: between 0 and a bound that doubles with every attempt.

    Attributes:
        first_s: The bound in front of the first retry, in seconds.
        longest_s: No bound is larger.
        attempts: How often a question is asked at most, the first time included.
    """

    first_s: float = 0.01
    longest_s: float = 0.5
    attempts: int = 4

    def __post_init__(self) -> None:
        if self.first_s <= 0 or self.longest_s < self.first_s or self.attempts < 1:
            raise UsageError("these pauses between retries make no sense", got=self)

    def pause_s(self, retry: int, chance: float) -> float:
        """The pause in front of a retry.

        Args:
            retry: 0 for the first.
            chance: Uniform in [0, 1).
        """
        return chance * min(self.longest_s, self.first_s * 2.0 ** min(retry, 60))


class RetryBudget:
    """Tokens for retries: each takes one, each answer gives a part of one back.

    So a short fault is bridged, and a server in trouble is asked at most (1 + `refund`) times as often as it
    answers, instead of many times as often.

    Args:
        capacity: Tokens at most, and at the start.
        refund: What an answered question gives back.
    """

    def __init__(self, capacity: float = 10.0, refund: float = 0.1) -> None:
        if capacity < 0 or refund < 0:
            raise UsageError("a budget of retries cannot be negative", got=f"{capacity}, {refund}")
        self._capacity = capacity
        self._refund = refund
        self._tokens = capacity

    def take(self) -> bool:
        """Whether one more retry is within the budget; it is then spent."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def answered(self) -> None:
        """A question was answered."""
        self._tokens = min(self._capacity, self._tokens + self._refund)
