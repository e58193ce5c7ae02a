"""One exchange with a server: choose what to send, send it, and hold the reply against the question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.manifest import Manifest
from edgeexit.payload import pack_all
from edgeexit.policies import Policy
from edgeexit.tails import tail_name
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.offload.choice import Chooser, Payload, Wishes
from edgeexit_runtime.offload.counters import Counters
from edgeexit_runtime.offload.link import Link
from edgeexit_runtime.offload.servers import Offers, Servers
from edgeexit_runtime.offload.transport import OffloadError, Transport, TransportError
from edgeexit_runtime.offload.verdicts import Terms, check_reply, decided
from edgeexit_runtime.wire.messages import Question, Reply

__all__ = ["Exchange"]


class Exchange:
    """Asks a server once, and learns from it what the link and the server take.

    Args:
        transport: Carries questions to the server.
        manifest: The bundle's.
        policy: The bundle's, for servers that give logits alone.
        wishes: What may be sent.
        counters: Where to count what was sent.
        session: What the names of requests begin with.
        clock: Seconds.
        model: The bundle's name on the wire; the manifest's when None.

    Attributes:
        link: What the network takes.
    """

    def __init__(
        self,
        transport: Transport,
        manifest: Manifest,
        policy: Policy,
        wishes: Wishes,
        counters: Counters,
        *,
        session: str,
        clock: Callable[[], float],
        model: str | None = None,
    ) -> None:
        self.link = Link()
        self._transport = transport
        self._policy = policy
        self._exits = len(manifest.exits)
        self._classes = len(manifest.labels)
        self._chooser = Chooser(manifest, wishes, self.link)
        self._servers = Servers(transport, manifest, model, self.link, clock)
        self._counters = counters
        self._session = session
        self._requests = 0
        self._clock = clock

    async def once(self, k: int, arrays: Arrays, inputs: Arrays | None, deadline_s: float) -> Reply:
        """Ask about samples in front of segment k; see `Upstream.answer`.

        Raises:
            TransportError, OffloadError: There is no reply, or none that can be used.
        """
        offers = await self.learn_offers(k, arrays, inputs)
        payload = self._chooser.choose(k, arrays, inputs, {s: offer.precisions for s, offer in offers.items()})
        if payload is None:
            self._servers.forget()
            raise OffloadError("refused", "the server takes other tensors than those that may be sent")
        offer = offers[payload.source]
        first, tensors = (k, arrays) if payload.source == "boundary" or inputs is None else (0, inputs)
        packed = _packed(offer.wanted(tensors), payload.precision)
        self._counters.sending(payload.name, sum(array.nbytes for array in packed.values()))
        started_s = self._clock()
        question = self._question(first, packed, deadline_s - started_s, offer.logits_only)
        try:
            reply = await self._asked(question, payload)
        except (asyncio.CancelledError, TransportError) as error:
            if not isinstance(error, TransportError) or error.reason == "deadline":
                self.link.given_up(question.rows * payload.wire_bytes, self._clock() - started_s)
            raise
        elapsed_s = self._clock() - started_s
        reply = self._checked(reply, arrays, Terms(question.rows, first, self._exits, self._classes))
        self._learn(payload, first, reply, elapsed_s)
        return reply

    async def learn_offers(self, k: int, arrays: Arrays, inputs: Arrays | None) -> Offers:
        """What the server takes of such samples, asked once.

        Raises:
            TransportError: It does not say.
        """
        return await self._servers.offers(k, self._chooser.sources(k, inputs is not None), arrays)

    def close(self) -> None:
        """Ask nothing more about the server."""
        self._servers.close()

    def _question(self, first: int, packed: Arrays, timeout_s: float, wants_logits: bool) -> Question:
        self._requests += 1
        return Question(
            model=tail_name(self._servers.model, first),
            request_id=f"{self._session}-{self._requests}",
            arrays=packed,
            timeout_s=timeout_s,
            wants_logits=wants_logits,
        )

    async def _asked(self, question: Question, payload: Payload) -> object:
        assert question.timeout_s is not None
        try:
            return await self._transport.ask(question, question.timeout_s, compress=payload.compress)
        except TransportError as error:
            if error.reason == "refused":
                self._servers.forget()
            raise

    def _checked(self, reply: object, arrays: Arrays, terms: Terms) -> Reply:
        if not isinstance(reply, Reply):
            raise OffloadError("protocol", "the transport gave something that is no reply")
        if reply.logits is not None:
            reply = decided(reply, self._policy, arrays, terms)
        check_reply(reply, terms)
        return reply

    def _learn(self, payload: Payload, first: int, reply: Reply, elapsed_s: float) -> None:
        server_s = min(reply.server_ms / 1e3, elapsed_s)
        network_s = elapsed_s - server_s - payload.compressing_s(reply.rows)
        self.link.observe(reply.rows * payload.wire_bytes, network_s)
        self._chooser.observe_server(first, reply.exit.tolist(), server_s)


def _packed(arrays: Arrays, precision: str) -> dict[str, NDArray[Any]]:
    try:
        return pack_all(arrays, precision)
    except DataError:
        if precision != "uint8":
            raise OffloadError("refused", "the tensors cannot be sent") from None
        return pack_all(arrays, "fp32")  # values that cannot be quantised travel as they are
