"""Over a WebSocket each sample's answer comes as soon as its exit gives it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")
pytest.importorskip("websockets", reason="needs edgeexit-runtime[websocket]")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from edgeexit.payload import pack_all
from edgeexit.tensors import save_tensors
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.security import Certificates, Tokens
from edgeexit_runtime.server.serving import TierServer
from runtime.cascades import CLASSES, batch_of, told_by_the_sample
from runtime.server.certificates import Authority
from runtime.server.tiers import SAFETY_S, fake_tail, serving

ANY = Address("127.0.0.1", 0)
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def server() -> Iterator[TierServer]:
    with serving(fake_tail(), websocket=ANY, max_queue_rows=16) as server:
        yield server


def connected(server: TierServer, k: int = 0, query: str = "", **options: Any) -> ClientConnection:
    scheme = "wss" if "ssl" in options else "ws"
    return connect(f"{scheme}://{server.websocket_address}/{server.models[k]}{query}", proxy=None, **options)


def message(*leaves_at: int, name: str = "x") -> bytes:
    return save_tensors({name: batch_of(*leaves_at)})


def received(connection: ClientConnection) -> Any:
    return json.loads(connection.recv(timeout=SAFETY_S))


def answers(connection: ClientConnection) -> list[Any]:
    """All lines of one message; the last says how it ended."""
    found = [received(connection)]
    while "row" in found[-1]:
        found.append(received(connection))
    return found


def test_a_line_comes_for_each_sample_and_one_when_all_are_answered(server: TierServer) -> None:
    with connected(server) as connection:
        connection.send(message(2, 0, 1))
        *rows, last = answers(connection)
    assert sorted((row["row"], row["exit"], row["class"], row["tier"]) for row in rows) == [
        (0, "last", 0, "server"),
        (1, "exit0", 1, "server"),
        (2, "exit1", 2, "server"),
    ]
    assert rows[0]["row"] == 1  # whoever left first came first
    assert last == {"message": 0, "rows": 3}


def test_a_sample_s_answer_does_not_wait_for_the_others(server: TierServer) -> None:
    release = Event()

    def waits(x: NDArray[np.float32]) -> Any:
        assert release.wait(SAFETY_S)
        return (), np.eye(CLASSES, dtype=np.float32)[[0] * len(x)] * 9

    tail = fake_tail(2, functions=[told_by_the_sample(0), waits])
    with serving(tail, websocket=ANY) as held, connected(held) as connection:
        connection.send(message(1, 0))
        assert received(connection)["row"] == 1  # while the other is inside the next segment
        release.set()
        assert [line.get("row") for line in answers(connection)] == [0, None]


def test_messages_of_one_connection_are_counted(server: TierServer) -> None:
    with connected(server) as connection:
        for leaves in (0, 1):
            connection.send(message(leaves))
        lines = [*answers(connection), *answers(connection)]
    assert [(line["message"], "row" in line) for line in sorted(lines, key=lambda line: line["message"])] == [
        (0, True),
        (0, False),
        (1, True),
        (1, False),
    ]


def test_a_later_tail_takes_rounded_payloads(server: TierServer) -> None:
    with connected(server, 1) as connection:
        connection.send(save_tensors(pack_all({"h0": batch_of(2)}, "fp16")))
        assert [line.get("exit") for line in answers(connection)] == ["last", None]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "INVALID_ARGUMENT"),
        (b"\xff" * 40, "INVALID_ARGUMENT"),
        ("text", "INVALID_ARGUMENT"),
        (message(0, name="y"), "INVALID_ARGUMENT"),
        (save_tensors({"x": np.zeros((1, 5), np.float32)}), "INVALID_ARGUMENT"),
        (save_tensors({"x": np.zeros((), np.float32)}), "INVALID_ARGUMENT"),
        (message(*[0] * 17), "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_is_not_fit_is_refused_and_the_connection_goes_on(
    server: TierServer, data: bytes | str, status: str
) -> None:
    with connected(server) as connection:
        connection.send(data)
        assert received(connection)["error"] == status
        connection.send(message(0))
        assert answers(connection)[-1] == {"message": 1, "rows": 1}


def test_a_message_beyond_the_limit_closes_the_connection(server: TierServer) -> None:
    with connected(server) as connection:
        connection.send(bytes(1 << 20))
        with pytest.raises(ConnectionClosed):
            received(connection)


def test_a_tail_that_is_not_there_and_a_timeout_that_is_none_are_refused(server: TierServer) -> None:
    url = f"ws://{server.websocket_address}"
    for path, status in (("/another__from_0", 404), ("/", 404), (f"/{server.models[0]}?timeout_ms=-1", 400)):
        with pytest.raises(InvalidStatus) as caught, connect(url + path, proxy=None):
            pass
        assert caught.value.response.status_code == status


def test_pages_are_let_in_only_where_they_are_named(server: TierServer) -> None:
    page = "https://example.org"
    with pytest.raises(InvalidStatus), connected(server, origin=page):
        pass
    with serving(fake_tail(), websocket=ANY, origins=(page,)) as open_to_it, connected(open_to_it, origin=page):
        pass


def test_a_token_is_asked_for_and_certificates_are_shown(tmp_path: Path) -> None:
    import ssl

    authority = Authority(tmp_path)
    guards = {
        "tokens": Tokens([sha256(TOKEN.encode()).digest()]),
        "certificates": Certificates(*authority.sign("server")),
    }
    context = ssl.create_default_context(cafile=str(authority.path))
    with serving(fake_tail(), websocket=ANY, **guards) as server:
        for headers in ({}, {"Authorization": "Bearer another-token-here"}):
            with (
                pytest.raises(InvalidStatus) as caught,
                connected(server, ssl=context, additional_headers=headers),
            ):
                pass
            assert caught.value.response.status_code == 401
        with connected(server, ssl=context, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as connection:
            connection.send(message(0))
            assert len(answers(connection)) == 2


def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    entered, release = Event(), Event()

    def waits(x: NDArray[np.float32]) -> Any:
        entered.set()
        assert release.wait(SAFETY_S)
        return told_by_the_sample(0)(x)

    with serving(fake_tail(1, functions=[waits]), websocket=ANY) as server:
        with connected(server) as connection:
            connection.send(message(0))
            assert entered.wait(SAFETY_S)
        release.set()
    assert server.scheduler.open_requests == 0


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_mutated_messages_bring_refusals_only(server: TierServer, data: st.DataObject) -> None:
    whole = bytearray(message(0, 1))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with connected(server) as connection:
        connection.send(bytes(whole))
        last = answers(connection)[-1]
    assert "rows" in last or last["error"] in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
