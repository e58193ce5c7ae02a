"""What carries questions to another tier, and what can go wrong on the way."""

from __future__ import annotations

from typing import Protocol

from edgeexit.errors import BackendError
from edgeexit_runtime.wire.messages import ModelMetadata, Question, Reply

__all__ = ["REASONS", "TRANSIENT", "OffloadError", "Transport", "TransportError"]

REASONS = ("deadline", "unavailable", "refused", "overloaded", "circuit open", "protocol", "in flight full")
"""Why a sample was not answered upstream."""

TRANSIENT = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DATA_LOSS"})
"""Names of gRPC statuses after which the same question may succeed. DATA_LOSS: it was damaged on its way."""

_REASONS = {
    "DEADLINE_EXCEEDED": "deadline",
    "RESOURCE_EXHAUSTED": "overloaded",
    "DATA_LOSS": "protocol",
    **dict.fromkeys(("ABORTED", "CANCELLED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"), "unavailable"),
}


class TransportError(Exception):
    """A question that was not answered.

    Args:
        transient: Whether the same question may succeed a moment later.
        status: The name of a gRPC status, such as UNAVAILABLE.
        message: What the other side or the network said.
    """

    def __init__(self, transient: bool, status: str, message: str = "") -> None:
        self.transient = transient
        self.status = status
        self.message = message
        super().__init__(f"{status}: {message}" if message else status)

    @property
    def reason(self) -> str:
        """One of `REASONS`."""
        return _REASONS.get(self.status, "refused")


class OffloadError(BackendError):
    """Samples that were not answered upstream; whoever asked has to answer.

    Args:
        reason: One of `REASONS`.
        detail: What happened, for a log.
    """

    def __init__(self, reason: str, detail: str | None = None) -> None:
        self.reason = reason
        super().__init__(f"not answered upstream: {reason}", got=detail)


class Transport(Protocol):
    """Asks one server. All its methods are called on one event loop; each may be cancelled."""

    async def ask(self, question: Question, timeout_s: float, *, compress: bool = False) -> Reply:
        """Carry a question there and the reply back.

        Args:
            question: What to ask.
            timeout_s: After so long nobody wants the reply any more; the server is told.
            compress: Whether to compress the question on its way.

        Raises:
            TransportError: There is no reply, or it cannot be read.
        """

    async def ready(self, timeout_s: float = 1.0) -> bool:
        """Whether the server says, within `timeout_s`, that it takes questions. Nothing is raised."""

    async def metadata(self, model: str, timeout_s: float = 5.0) -> ModelMetadata:
        """What the server says of a tail.

        Raises:
            TransportError: It says nothing; NOT_FOUND where it has no such tail.
        """

    async def close(self) -> None:
        """Give up the connection. Questions under way fail."""
