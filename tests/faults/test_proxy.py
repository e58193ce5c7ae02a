"""The fault proxy does what it says: whoever trusts a test of faults has to trust it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from faults.proxy import Address, FaultProxy, Faults

TIMEOUT_S = 10
MESSAGE = bytes(range(200))


@pytest.fixture
def echo() -> Iterator[Address]:
    """A server that sends back what comes, until the other side has no more to say."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(65_536):
                        connection.sendall(data)
                except OSError:
                    pass

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()
        listening.shutdown(socket.SHUT_RDWR)


def connected(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(proxy.address, TIMEOUT_S)


def received(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or as many as come."""
    found = b""
    while len(found) < size and (data := connection.recv(size - len(found))):
        found += data
    return found


def test_without_faults_it_forwards_both_ways(echo: Address) -> None:
    with FaultProxy(echo) as proxy, connected(proxy) as connection:
        connection.sendall(MESSAGE)
        assert received(connection, 200) == MESSAGE
    assert proxy.counts == {"connections": 1}


def test_a_delayed_chunk_arrives(echo: Address) -> None:
    with FaultProxy(echo, Faults(delay=1, delay_s=0.01)) as proxy, connected(proxy) as connection:
        connection.sendall(MESSAGE)
        assert received(connection, 200) == MESSAGE
        assert proxy.counts["delay"] == 2


def test_a_dropped_chunk_is_missing_and_the_next_is_not(echo: Address) -> None:
    with FaultProxy(echo, Faults(drop=1)) as proxy, connected(proxy) as connection:
        connection.sendall(b"lost")
        while not proxy.counts["drop"]:
            time.sleep(0.001)
        proxy.faults = Faults()
        connection.sendall(MESSAGE)
        assert received(connection, 200) == MESSAGE


def test_a_reset_connection_is_reset(echo: Address) -> None:
    with FaultProxy(echo, Faults(reset=1)) as proxy, connected(proxy) as connection:
        connection.sendall(MESSAGE)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_in_a_black_hole_nothing_arrives_and_nothing_ends(echo: Address) -> None:
    with FaultProxy(echo, Faults(black_hole=1)) as proxy, connected(proxy) as connection:
        connection.sendall(MESSAGE)
        while not proxy.counts["black_hole"]:
            time.sleep(0.001)
        proxy.faults = Faults()
        connection.sendall(MESSAGE)
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_truncated_chunk_is_the_last(echo: Address) -> None:
    with FaultProxy(echo) as proxy, connected(proxy) as connection:
        connection.sendall(MESSAGE)
        received(connection, 200)
        proxy.faults = Faults(truncate=1)
        connection.sendall(MESSAGE)
        found = received(connection, 201)
        assert len(found) < 200
        assert MESSAGE.startswith(found)


def test_a_corrupted_chunk_has_other_bits_and_the_same_length(echo: Address) -> None:
    with FaultProxy(echo, Faults(corrupt=1)) as proxy, connected(proxy) as connection:
        connection.sendall(MESSAGE)
        found = received(connection, 200)
        differing = sum((a ^ b).bit_count() for a, b in zip(found, MESSAGE, strict=True))
        assert 1 <= differing <= 8


def test_a_duplicated_chunk_comes_again(echo: Address) -> None:
    with FaultProxy(echo) as proxy, connected(proxy) as connection:
        proxy.faults = Faults(duplicate=1)
        connection.sendall(MESSAGE)
        assert received(connection, 800)[:200] == MESSAGE
        assert proxy.counts["duplicate"] >= 2


def test_the_same_seed_has_the_same_faults(echo: Address) -> None:
    def faults(seed: int) -> bytes:
        with FaultProxy(echo, Faults(corrupt=0.5), seed=seed) as proxy, connected(proxy) as connection:
            found = b""
            for _ in range(20):
                connection.sendall(MESSAGE)
                found += received(connection, 200)
            return found

    assert faults(1) == faults(1) != faults(2)


def test_open_connections_can_be_severed_and_new_ones_go_elsewhere(echo: Address) -> None:
    with FaultProxy(echo) as proxy, connected(proxy) as connection:
        connection.sendall(MESSAGE)
        received(connection, 200)
        proxy.sever()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with closing(socket.create_server(("127.0.0.1", 0))) as other:
            proxy.target = other.getsockname()
            with connected(proxy):
                other.settimeout(TIMEOUT_S)
                other.accept()[0].close()


def test_a_server_that_is_gone_is_a_connection_that_is_reset() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        address = gone.getsockname()
    # The reset may come while the client still connects.
    with FaultProxy(address) as proxy, pytest.raises(ConnectionResetError), connected(proxy) as connection:
        connection.recv(1)
