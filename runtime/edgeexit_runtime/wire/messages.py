"""What is asked of a tier, and what it answers, without the protocol that carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.manifest import TensorSpec

__all__ = ["PLATFORM", "ModelMetadata", "Question", "Reply", "WireError"]

PLATFORM = "edgeexit"
"""The platform that a tier of ours states. It takes payloads in all precisions; others take what they declare."""

_MESSAGE_CHARS = 400


class WireError(Exception):
    """A message that is not as agreed. It never names files or code of this machine.

    Args:
        status: The name of a gRPC status: INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, ….
        message: One sentence for the other side, cut to 400 characters: statuses travel in headers.
    """

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        self.message = message[:_MESSAGE_CHARS]
        super().__init__(f"{status}: {self.message}")


@dataclass(frozen=True)
class Question:
    """Samples for a tail.

    Attributes:
        model: The tail's name, as `edgeexit.tails.tail_name` makes it.
        request_id: At most 256 characters; the answer carries it too.
        arrays: (n, …) each, by the names they travel under: what `edgeexit.payload.pack_all` gives.
        timeout_s: How long whoever asks will wait; None for no end.
        wants_logits: The answer shall hold logits: of servers that know no policy.
        outputs: The outputs that were asked for by name; empty for all.
    """

    model: str
    request_id: str
    arrays: Mapping[str, NDArray[Any]]
    timeout_s: float | None
    wants_logits: bool = False
    outputs: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many samples, n."""
        return len(next(iter(self.arrays.values()))) if self.arrays else 0


@dataclass(frozen=True)
class Reply:
    """A tier's answer to n samples.

    Attributes:
        label: int64 (n,).
        probability: float32 (n,), of the label, 0 to 1.
        exit: int64 (n,), index in the manifest.
        score: float32 (n,), the criterion's at that exit.
        degraded: bool (n,), True where a later tier should have answered and could not.
        tier: Which tier answered, for each row.
        reason: Why rows are degraded; None where none is.
        server_ms: Time between request and answer inside the server, queues included.
        logits: float32 (n, E, C), of the E exits of the tail, from servers that run it to the end; with them
            alone, the policy has still to be applied, and label and exit are −1.
    """

    label: NDArray[np.int64]
    probability: NDArray[np.float32]
    exit: NDArray[np.int64]
    score: NDArray[np.float32]
    degraded: NDArray[np.bool_]
    tier: tuple[str, ...]
    reason: str | None = None
    server_ms: float = 0.0
    logits: NDArray[np.float32] | None = None

    @classmethod
    def of_logits(cls, logits: NDArray[np.float32], *, tier: str = "upstream", server_ms: float = 0.0) -> Reply:
        """An answer of logits alone, (n, E, C): label and exit are −1, probability and score 0."""
        n = len(logits)
        return cls(
            label=np.full(n, -1, np.int64),
            probability=np.zeros(n, np.float32),
            exit=np.full(n, -1, np.int64),
            score=np.zeros(n, np.float32),
            degraded=np.zeros(n, np.bool_),
            tier=(tier,) * n,
            server_ms=server_ms,
            logits=logits,
        )

    @property
    def rows(self) -> int:
        """How many samples, n."""
        return len(self.label)


@dataclass(frozen=True)
class ModelMetadata:
    """What a server says of a tail.

    Attributes:
        name: The tail's name.
        platform: `PLATFORM` for a tier of ours.
        inputs: What it takes, without the batch axis.
        outputs: What it gives, without the batch axis; −1 for an axis of any length.
    """

    name: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def ours(self) -> bool:
        """Whether all precisions of payloads are taken, and the server applies the policy."""
        return self.platform == PLATFORM

    @property
    def logits_only(self) -> bool:
        """Whether the server gives logits and no labels."""
        return all(spec.name != "label" for spec in self.outputs)
