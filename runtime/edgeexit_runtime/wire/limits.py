"""What a message may hold at most. Both sides set the same limits, and check them before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

from edgeexit.errors import UsageError

__all__ = [
    "DEFAULT",
    "MAX_MESSAGE_BYTES",
    "MAX_NAME_CHARS",
    "MAX_ROWS",
    "MAX_TENSORS",
    "MAX_TEXT_CHARS",
    "Limits",
    "check_tier_name",
]

MAX_MESSAGE_BYTES = 64 << 20
MAX_ROWS = 1024
MAX_TENSORS = 256
MAX_NAME_CHARS = 256
"""Of the names of models, tensors and requests."""
_MAX_TIER_CHARS = 64
MAX_TEXT_CHARS = 65_536
"""Of a parameter: the names of the tiers that answered, or a reason."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one side.

    Attributes:
        message_bytes: Of a message, as it is after decompression.
        rows: Samples in a message.
        tensors: Arrays in a message.
    """

    message_bytes: int = MAX_MESSAGE_BYTES
    rows: int = MAX_ROWS
    tensors: int = MAX_TENSORS

    def grpc_options(self) -> list[tuple[str, int]]:
        """Options of a gRPC channel or server: the message limit, in both directions."""
        return [
            ("grpc.max_send_message_length", self.message_bytes),
            ("grpc.max_receive_message_length", self.message_bytes),
        ]


DEFAULT = Limits()


def check_tier_name(name: str) -> None:
    """Refuse a tier's name that could not be told from two, or is too long to send with each sample.

    Raises:
        UsageError: It is empty, has a comma, or more than 64 characters.
    """
    if not name or "," in name or len(name) > _MAX_TIER_CHARS:
        raise UsageError("that is no name for a tier", got=name, expected="1 to 64 characters, no comma")
