"""A transport made of a function, for tests and trials without a network."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

from edgeexit.manifest import TensorSpec
from edgeexit_runtime.offload.transport import TransportError
from edgeexit_runtime.wire.messages import PLATFORM, ModelMetadata, Question, Reply

__all__ = ["FakeTransport", "MetadataFunction", "ReplyFunction", "our_metadata"]

ReplyFunction = Callable[[Question], "Reply | Awaitable[Reply]"]
MetadataFunction = Callable[[str], "ModelMetadata | Awaitable[ModelMetadata]"]


class FakeTransport:
    """Answers with a function, which may be a coroutine function, and may raise.

    Args:
        answer: The reply to a question.
        metadata: What is said of a tail; that of a tier of ours, with every tail, when None.

    Attributes:
        questions: What was asked, in order.
        compressed: For each question whether it was to be compressed.
        closed: Whether `close` was called.
    """

    def __init__(self, answer: ReplyFunction, metadata: MetadataFunction | None = None) -> None:
        self._answer = answer
        self._metadata = metadata or our_metadata
        self.questions: list[Question] = []
        self.compressed: list[bool] = []
        self.closed = False

    async def ask(self, question: Question, timeout_s: float, *, compress: bool = False) -> Reply:
        """See `Transport.ask`."""
        if self.closed:
            raise TransportError(False, "CANCELLED", "the transport is closed")
        self.questions.append(question)
        self.compressed.append(compress)
        found = self._answer(question)
        return await found if inspect.isawaitable(found) else found

    async def ready(self, timeout_s: float = 1.0) -> bool:
        """See `Transport.ready`."""
        return not self.closed

    async def metadata(self, model: str, timeout_s: float = 5.0) -> ModelMetadata:
        """See `Transport.metadata`."""
        found = self._metadata(model)
        return await found if inspect.isawaitable(found) else found

    async def close(self) -> None:
        """See `Transport.close`."""
        self.closed = True


def our_metadata(model: str) -> ModelMetadata:
    """What a tier of ours says of a tail, its inputs left out."""
    label = TensorSpec(name="label", dtype="int64", shape=())
    return ModelMetadata(name=model, platform=PLATFORM, inputs=(), outputs=(label,))
