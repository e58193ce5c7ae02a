"""Good clients, who go on asking while others attack, and hold each answer against the engine's."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any

import grpc
from websockets.sync.client import connect

from edgeexit.bundle import Bundle
from edgeexit.tensors import save_tensors
from hostile.honest import Honest
from hostile.judge import OVERLOADED, Judge

__all__ = ["GoodClient", "ask", "channel_to", "streamed"]

INFER = "/inference.GRPCInferenceService/ModelInfer"
SERVICE = INFER.rpartition("/")[0]
TIMEOUT_S = 20.0
AGAIN_S = 0.05

Address = tuple[str, int]


def channel_to(address: Address) -> Any:
    """A connection of one's own."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    return grpc.insecure_channel("{}:{}".format(*address), options)


def ask(channel: Any, honest: Honest) -> tuple[str, str | None]:
    """Send an honest request; its status, and what is wrong with the answer."""
    try:
        data = channel.unary_unary(INFER)(honest.data, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return error.code().name, None
    return "OK", honest.misfit(data)


def streamed(connection: Any, honest: Honest, bundle: Bundle) -> tuple[str, str | None]:
    """The same over a WebSocket."""
    connection.send(save_tensors(honest.arrays))
    exits = [entry.name for entry in bundle.manifest.exits]
    rows: dict[int, tuple[int, int, float]] = {}
    while True:
        line = json.loads(connection.recv(timeout=TIMEOUT_S))
        if "row" not in line:
            break
        if line["row"] in rows:
            return "OK", f"row {line['row']} came twice"
        rows[line["row"]] = (line["class"], exits.index(line["exit"]), line["probability"])
    if "error" in line:
        return line["error"], None
    return "OK", honest.difference([rows[row] for row in sorted(rows)])


class GoodClient(Thread):
    """Asks until told to stop.

    Args:
        name: Its name, in the findings.
        requests: Its own.
        connected: Opens a connection; what closes it is a context manager.
        asked: Sends a request over it.
        judge: Told of what is wrong.
        over: Set to stop.
        pause_s: Between two requests.

    Attributes:
        statuses: How its requests ended.
        took_s: How long each took that was answered.
    """

    def __init__(
        self,
        name: str,
        requests: Sequence[Honest],
        connected: Callable[[str], Any],
        asked: Callable[[Any, Honest], tuple[str, str | None]],
        judge: Judge,
        over: Event,
        pause_s: float,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.statuses: Counter[str] = Counter()
        self.took_s: list[float] = []
        self._requests = requests
        self._connected = connected
        self._asked = asked
        self._judge = judge
        self._over = over
        self._pause_s = pause_s

    def run(self) -> None:
        """See `Thread`."""
        number = 0
        while not self._over.is_set():
            try:
                model = self._requests[number % len(self._requests)].model
                own = [honest for honest in self._requests if honest.model == model]
                with self._connected(model) as connection:
                    for _ in range(20):
                        if self._over.is_set():
                            return
                        self._once(connection, own[number % len(own)])
                        number += 1
            except Exception as error:
                self._judge.finding(self.name, f"a good client failed: {type(error).__name__}: {error}")
                self._over.wait(1.0)

    def _once(self, connection: Any, honest: Honest) -> None:
        started_s = time.perf_counter()
        status, misfit = self._asked(connection, honest)
        self.statuses[status] += 1
        if misfit is not None:
            self._judge.finding(self.name, f"a wrong answer to {honest.request_id} for {honest.model}: {misfit}")
        if status == "OK":
            self.took_s.append(time.perf_counter() - started_s)
        elif status not in OVERLOADED:
            self._judge.finding(self.name, f"a good request ended with {status}")
        self._over.wait(self._pause_s if status == "OK" else AGAIN_S)


def over_websocket(address: Address) -> Callable[[str], Any]:
    """Opens a WebSocket for a tail."""
    return lambda model: connect("ws://{}:{}/{}".format(*address, model), proxy=None)
