"""Clients that attack, each with connections of its own."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from random import Random
from threading import Thread
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from hostile import sockets
from hostile.clients import INFER, SERVICE, channel_to
from hostile.flips import damaged
from hostile.honest import Honest
from hostile.http1 import METRICS, WEBSOCKET
from hostile.http2 import GRPC
from hostile.judge import KNOWN, OVERLOADED, Judge
from hostile.marks import mark
from hostile.structured import mutated
from hostile.tensors import nearly
from hostile.victim import Victim

__all__ = ["Attacker"]

WEIGHTS = {
    "structured": 40,
    "flips": 30,
    "calls": 8,
    "websocket": 10,
    "grpc socket": 5,
    "websocket socket": 3,
    "metrics socket": 3,
    "half-open": 1,
}
"""How often each kind of attack comes."""

ANSWERED = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")
CALLS = tuple(method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)
TIMEOUT_S = 20.0
ODD_S = (None, 1e9, 0.01, 0.001, 0.0, -1.0)
STREAM_S = 1.0
"""Of calls without a message: nobody answers them."""
HELD = 6
"""Half-open connections of one attacker at once."""


class Attacker(Thread):
    """Attacks until all attackers together have done enough.

    Args:
        victim: The server.
        requests: What is mutated; its own.
        judge: Judges the answers.
        random: Chooses.
        numbers: Counts, for all attackers.
        enough: Where to stop.
        kinds: Which attacks, of `WEIGHTS`.

    Attributes:
        done: How many attacks it made.
    """

    def __init__(
        self,
        victim: Victim,
        requests: Sequence[Honest],
        judge: Judge,
        random: Random,
        numbers: Iterator[int],
        enough: int,
        kinds: Sequence[str] = tuple(WEIGHTS),
    ) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self._victim = victim
        self._requests = requests
        self._judge = judge
        self._random = random
        self._numbers = numbers
        self._enough = enough
        self._kinds = kinds
        self._channel = channel_to(victim.grpc)
        self._connections = ExitStack()
        self._stream: Any = None
        self._streamed = victim.models[0]
        self._held: list[socket.socket] = []

    def run(self) -> None:
        """See `Thread`."""
        attacks = {
            "structured": self._structured,
            "flips": self._flips,
            "calls": self._calls,
            "websocket": self._websocket,
            "grpc socket": self._grpc_socket,
            "websocket socket": self._websocket_socket,
            "metrics socket": self._metrics_socket,
            "half-open": self._half_open,
        }
        weights = [WEIGHTS[kind] for kind in self._kinds]
        while next(self._numbers) < self._enough:
            (kind,) = self._random.choices(self._kinds, weights)
            try:
                attacks[kind](kind)
            except Exception as error:
                self._judge.finding(kind, f"the attacker itself: {type(error).__name__}: {error}")
            self.done += 1

    def close(self) -> list[socket.socket]:
        """Close what is no raw socket; the raw ones that are still open."""
        self._channel.close()
        self._connections.close()
        return self._held

    def _structured(self, kind: str) -> None:
        name, data = mutated(self._random.choice(self._requests), self._random)
        self._infer(f"{kind}:{name}", data)

    def _flips(self, kind: str) -> None:
        honest = self._random.choice(self._requests)
        name, data = damaged(honest.data if self._random.random() < 0.3 else honest.unsigned, self._random)
        self._infer(f"{kind}:{name}", data)

    def _infer(self, kind: str, data: bytes) -> None:
        random = self._random
        timeout_s = random.choice(ODD_S) if random.random() < 0.1 else TIMEOUT_S
        compression = grpc.Compression.Gzip if random.random() < 0.05 else None
        metadata: tuple[tuple[str, str | bytes], ...] = ()
        if random.random() < 0.05:
            metadata = (("x-odd", mark(random)), ("x-odd-bin", random.randbytes(50)))
        elif random.random() < 0.005:
            metadata = (("x-huge", "y" * 100_000),)
        try:
            answer = self._channel.unary_unary(INFER)(
                data, timeout=timeout_s, compression=compression, metadata=metadata
            )
        except grpc.RpcError as error:
            status, details = error.code().name, error.details() or ""
            self._judge.call(kind, status, details, data, KNOWN)
        else:
            self._judge.call(kind, "OK", answer, data, KNOWN)
            response = pb.ModelInferResponse.FromString(answer)
            if response.id.encode() not in data or response.model_name.encode() not in data:
                self._judge.finding(kind, f"the answer to {response.id!r} of {response.model_name!r}", data)

    def _calls(self, kind: str) -> None:
        random = self._random
        name = random.choice((*CALLS, *CALLS, "ModelInferX", "", "../ModelInfer", mark(random)))
        service = (
            SERVICE if random.random() < 0.9 else random.choice(("", "/grpc.health.v1.Health", f"/{mark(random)}"))
        )
        request = random.choice(self._requests)
        own = mark(random)
        data = random.choice(
            (b"", request.data, random.randbytes(30), pb.ModelMetadataRequest(name=own).SerializeToString(),
             pb.ModelReadyRequest(name=own, version=own).SerializeToString())
        )  # fmt: skip
        path, known = f"{service}/{name}", service == SERVICE and name in ANSWERED
        allowed = KNOWN if known else {"UNIMPLEMENTED"} | OVERLOADED
        sent = path.encode() + data
        way = random.choice(("unary_unary", "unary_stream", "stream_unary", "stream_stream"))
        messages = [data] * random.choice((0, 1, 1, 3))
        timeout_s = TIMEOUT_S if messages or way.startswith("unary") else STREAM_S
        call = getattr(self._channel, way)(path)
        try:
            answer = call(data if way.startswith("unary") else iter(messages), timeout=timeout_s)
            answer = b"".join(answer) if way.endswith("stream") else answer
        except grpc.RpcError as error:
            status, details = error.code().name, error.details() or ""
            self._judge.call(f"{kind}:{way} {path} {len(messages)}", status, details, sent, allowed)
        else:
            self._judge.call(f"{kind}:{way} {path} {len(messages)}", "OK", answer, sent, allowed)

    def _websocket(self, kind: str) -> None:
        assert self._victim.websocket is not None
        if self._stream is None or self._random.random() < 0.02:
            self._connections.close()
            self._streamed = self._random.choice(self._victim.models)
            url = "ws://{}:{}/{}".format(*self._victim.websocket, self._streamed)
            self._stream = self._connections.enter_context(connect(url, proxy=None))
        requests = [request for request in self._requests if request.model == self._streamed]
        name, data = nearly(self._random.choice(requests), self._random)
        own = data.encode() if isinstance(data, str) else data
        try:
            self._stream.send(data)
            status, last = "OK", {}
            while "rows" not in last and "error" not in last:
                line = self._stream.recv(timeout=TIMEOUT_S)
                self._judge.text(f"{kind}:{name}", line.encode(), own)
                last = json.loads(line)
            self._judge.call(f"{kind}:{name}", last.get("error", status), line, own, KNOWN)
        except ConnectionClosed as closed:
            self._stream = None
            code = None if closed.rcvd is None else closed.rcvd.code
            self._judge.count(kind, f"closed {code}")
            if code not in (1002, 1003, 1007, 1009):
                self._judge.finding(f"{kind}:{name}", f"closed with {closed}", own)

    def _grpc_socket(self, kind: str) -> None:
        self._raw(kind, self._victim.grpc, GRPC)

    def _websocket_socket(self, kind: str) -> None:
        assert self._victim.websocket is not None
        self._raw(kind, self._victim.websocket, WEBSOCKET)

    def _metrics_socket(self, kind: str) -> None:
        self._raw(kind, self._victim.metrics, METRICS)

    def _raw(self, kind: str, address: tuple[str, int], table: Any) -> None:
        name = self._random.choice(list(table))
        data = table[name](self._random).replace(b"/MODEL", b"/" + self._victim.models[0].encode())
        self._judge.page(f"{kind}:{name}", sockets.spoken(address, data, self._random), data)

    def _half_open(self, kind: str) -> None:
        victim = self._victim
        assert victim.websocket is not None
        address = self._random.choice((victim.grpc, victim.grpc, victim.metrics, victim.websocket))
        self._held.append(sockets.half_open(address, self._random))
        self._judge.count(kind, "open")
        if len(self._held) > HELD:
            self._held.pop(self._random.randrange(HELD)).close()
