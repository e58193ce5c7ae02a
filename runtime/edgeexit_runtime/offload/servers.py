"""What the server says of its tails: asked once, remembered until it refuses something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeexit.manifest import Manifest, TensorSpec
from edgeexit.payload import PRECISIONS, STATE, packed_specs
from edgeexit.tails import model_name, tail_name
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.offload.choice import Source
from edgeexit_runtime.offload.link import Link
from edgeexit_runtime.offload.transport import Transport, TransportError
from edgeexit_runtime.wire.messages import ModelMetadata

__all__ = ["Offer", "Offers", "Servers"]

_PING_BYTES = 200
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Offer:
    """What a server's tail takes and gives.

    Attributes:
        precisions: Those of `PRECISIONS` that it takes; none where its tensors are others.
        logits_only: Whether it knows no policy.
        left_out: The policy's state that it does not take.
    """

    precisions: tuple[str, ...]
    logits_only: bool
    left_out: frozenset[str]

    @classmethod
    def of(cls, metadata: ModelMetadata, specs: Sequence[TensorSpec]) -> Offer:
        """What a server's metadata means for these tensors."""
        declared = {spec.name: spec for spec in metadata.inputs}
        left_out = frozenset(s.name for s in specs if s.name.startswith(STATE) and s.name not in declared)
        if metadata.ours:
            whole = not declared or all(_fits(spec, declared) for spec in specs)
            return cls(PRECISIONS if whole else (), False, frozenset())
        sent = [spec for spec in specs if spec.name not in left_out]
        taken = (p for p in PRECISIONS if all(_fits(part, declared) for s in sent for part in packed_specs(s, p)))
        return cls(tuple(taken), metadata.logits_only, left_out)

    def wanted(self, arrays: Arrays) -> Arrays:
        """Those of the tensors that it takes."""
        return {name: a for name, a in arrays.items() if name not in self.left_out} if self.left_out else arrays


Offers = dict[Source, Offer]
_Key = tuple[int, tuple[Source, ...]]


class Servers:
    """The tails of one server.

    Args:
        transport: Asks it.
        manifest: The bundle's.
        model: The bundle's name on the wire; the manifest's when None.
        link: Told what a round trip takes.
        clock: Seconds.

    Attributes:
        model: The bundle's name on the wire.
    """

    def __init__(
        self, transport: Transport, manifest: Manifest, model: str | None, link: Link, clock: Callable[[], float]
    ) -> None:
        self.model = model_name(manifest) if model is None else model
        self._transport = transport
        self._inputs = manifest.inputs
        self._link = link
        self._clock = clock
        self._known: dict[_Key, Offers] = {}
        self._asking: dict[_Key, asyncio.Task[Offers]] = {}

    async def offers(self, k: int, wanted: tuple[Source, ...], arrays: Arrays) -> Offers:
        """What the server takes of samples in front of segment k.

        The server is asked once for all who want to know, and for the next ones when nobody waits any more: a
        question's deadline may be shorter than making a connection takes.

        Args:
            k: The segment.
            wanted: What might be sent.
            arrays: (n, …) each, by the names of `Tail.takes`.

        Raises:
            TransportError: The server does not say, or has no tail for any of it.
        """
        key = (k, wanted)
        known = self._known.get(key)
        if known is not None:
            return known
        asking = self._asking.get(key)
        if asking is None:
            specs = [TensorSpec(name=name, dtype=a.dtype.name, shape=a.shape[1:]) for name, a in arrays.items()]
            asking = asyncio.get_running_loop().create_task(self._asked(key, specs))
            self._asking[key] = asking
            asking.add_done_callback(lambda task: self._heard(key, task))
        return await asyncio.shield(asking)

    def forget(self) -> None:
        """Ask anew before the next question: the server may have been replaced."""
        self._known.clear()

    def close(self) -> None:
        """Stop asking."""
        for asking in self._asking.values():
            asking.cancel()

    def _heard(self, key: _Key, task: asyncio.Task[Offers]) -> None:
        del self._asking[key]
        if not task.cancelled() and task.exception() is None:
            self._known[key] = task.result()

    async def _asked(self, key: _Key, boundary: Sequence[TensorSpec]) -> Offers:
        k, wanted = key
        found: Offers = {}
        missing: TransportError | None = None
        for source in wanted:
            first, specs = (k, boundary) if source == "boundary" else (0, self._inputs)
            try:
                metadata = await self._transport.metadata(tail_name(self.model, first), _TIMEOUT_S)
            except TransportError as error:
                if error.status != "NOT_FOUND":
                    raise
                missing = error
            else:
                found[source] = Offer.of(metadata, specs)
        if not found and missing is not None:
            raise missing
        await self._ping()
        return found

    async def _ping(self) -> None:
        """Measure a round trip, now that there is a connection."""
        started_s = self._clock()
        if await self._transport.ready(_TIMEOUT_S):
            self._link.observe(_PING_BYTES, self._clock() - started_s)


def _fits(spec: TensorSpec, declared: Mapping[str, TensorSpec]) -> bool:
    found = declared.get(spec.name)
    if found is None or found.dtype != spec.dtype or len(found.shape) != len(spec.shape):
        return False
    return all(theirs in (-1, ours) for theirs, ours in zip(found.shape, spec.shape, strict=True))
