from __future__ import annotations

import asyncio
import queue
import socket
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc")

import grpc
from tritonclient.grpc import service_pb2

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.addresses import Tls
from edgeexit_runtime.offload.background import Background
from edgeexit_runtime.offload.choice import Wishes
from edgeexit_runtime.offload.grpc_transport import GrpcTransport
from edgeexit_runtime.offload.retries import Backoff
from edgeexit_runtime.offload.transport import TransportError
from edgeexit_runtime.offload.upstream import UpstreamSettings
from edgeexit_runtime.wire.limits import Limits
from edgeexit_runtime.wire.messages import Question, Reply
from runtime.offload.grpc_servers import Authority, Servicer, answered, serving, within
from runtime.offload.upstreams import ask, boundary, upstream

NET_S = 30.0


def question(rows: int = 2, width: int = 4) -> Question:
    return Question("net__from_1", "r-1", boundary(rows, width), 5.0)


async def asked(
    servicer: Servicer, sent: Question | None = None, timeout_s: float = 10.0, compress: bool = False, **how: Any
) -> Reply | TransportError:
    """What a server's answer becomes."""
    async with serving(servicer) as port:
        transport = GrpcTransport(f"grpc://127.0.0.1:{port}", **how)
        try:
            return await transport.ask(sent or question(), timeout_s, compress=compress)
        except TransportError as error:
            return error
        finally:
            await transport.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- one question


def test_a_question_crosses_and_the_reply_comes_back() -> None:
    servicer = Servicer()
    reply = within(NET_S, asked(servicer, timeout_s=10.0))
    assert isinstance(reply, Reply)
    assert reply.label.tolist() == [0, 1]
    assert reply.tier == ("cloud", "cloud")
    assert 0 < servicer.remaining_s[0] <= 10.2  # gRPC rounds what is left up, from ten seconds on to a tenth


def test_a_question_may_be_compressed() -> None:
    servicer = Servicer()
    assert isinstance(within(NET_S, asked(servicer, question(width=10_000), compress=True)), Reply)
    plain = Servicer()
    within(NET_S, asked(plain, question(width=10_000)))


def test_a_token_goes_with_every_call() -> None:
    servicer = Servicer()
    within(NET_S, asked(servicer, token="s3cret"))
    assert servicer.headers[0]["authorization"] == "Bearer s3cret"


def test_a_message_larger_than_four_mebibytes_crosses() -> None:
    async def crossing() -> Reply:
        limit = 8 << 20
        async with serving(Servicer(), **{"grpc.max_receive_message_length": limit}) as port:
            transport = GrpcTransport(f"grpc://127.0.0.1:{port}")
            try:
                return await transport.ask(question(width=700_000), 20.0)
            finally:
                await transport.close()

    assert within(NET_S, crossing()).rows == 2


def test_a_question_beyond_the_limit_is_refused_before_it_is_sent() -> None:
    servicer = Servicer()
    error = within(NET_S, asked(servicer, question(width=1000), limits=Limits(message_bytes=4000)))
    assert isinstance(error, TransportError)
    assert (error.transient, error.reason) == (False, "refused")
    assert servicer.headers == []


def test_a_server_with_a_smaller_limit_is_not_asked_again() -> None:
    async def refused() -> TransportError:
        async with serving(Servicer(), **{"grpc.max_receive_message_length": 4000}) as port:
            transport = GrpcTransport(f"grpc://127.0.0.1:{port}")
            with pytest.raises(TransportError) as caught:
                await transport.ask(question(width=1000), 10.0)
            await transport.close()
            return caught.value

    error = within(NET_S, refused())
    assert (error.transient, error.reason) == (False, "refused")


@pytest.mark.parametrize(
    ("status", "transient", "reason"),
    [
        ("UNAVAILABLE", True, "unavailable"),
        ("RESOURCE_EXHAUSTED", True, "overloaded"),
        ("INVALID_ARGUMENT", False, "refused"),
        ("UNAUTHENTICATED", False, "refused"),
        ("UNIMPLEMENTED", False, "refused"),
        ("INTERNAL", False, "unavailable"),
        ("DATA_LOSS", True, "protocol"),
        ("DEADLINE_EXCEEDED", False, "deadline"),
    ],
)
def test_a_status_becomes_an_error_of_ours(status: str, transient: bool, reason: str) -> None:
    async def abort(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode[status], "because")

    error = within(NET_S, asked(Servicer(abort)))
    assert isinstance(error, TransportError)
    assert (error.transient, error.status, error.reason) == (transient, status, reason)
    assert error.message == "because"


@pytest.mark.parametrize(
    ("status", "message"), [("INTERNAL", "Received RST_STREAM with error code 2"), ("CANCELLED", "CANCELLED")]
)
def test_a_call_that_was_cut_off_is_a_transient_failure_whatever_its_status(status: str, message: str) -> None:
    async def abort(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode[status], message)

    error = within(NET_S, asked(Servicer(abort)))
    assert isinstance(error, TransportError)
    assert (error.transient, error.reason) == (True, "unavailable")


def test_a_server_that_is_not_there_is_a_transient_failure() -> None:
    async def nobody() -> TransportError:
        transport = GrpcTransport(f"grpc://127.0.0.1:{free_port()}")
        with pytest.raises(TransportError) as caught:
            await transport.ask(question(), 10.0)
        await transport.close()
        return caught.value

    error = within(NET_S, nobody())
    assert (error.transient, error.status) == (True, "UNAVAILABLE")


async def of_another_request(request: Any, context: Any) -> Any:
    return await answered(request, context, request_id="r-2")


async def of_another_model(request: Any, context: Any) -> Any:
    return await answered(request, context, model="other")


async def with_a_shape_beyond_its_bytes(request: Any, context: Any) -> Any:
    response = await answered(request, context)
    response.outputs[0].shape[0] = 10**12
    return response


async def empty(request: Any, context: Any) -> Any:
    return service_pb2.ModelInferResponse(id=request.id, model_name=request.model_name)


@pytest.mark.parametrize("infer", [of_another_request, of_another_model, with_a_shape_beyond_its_bytes, empty])
def test_a_reply_that_is_not_as_agreed_is_an_error(infer: Any) -> None:
    error = within(NET_S, asked(Servicer(infer)))
    assert isinstance(error, TransportError)
    assert (error.transient, error.reason) == (False, "protocol")


def test_a_reply_that_was_damaged_on_its_way_may_be_asked_for_again() -> None:
    async def damaged(request: Any, context: Any) -> Any:
        response = await answered(request, context)
        raw = bytearray(response.raw_output_contents[0])
        raw[0] ^= 1
        response.raw_output_contents[0] = bytes(raw)
        return response

    error = within(NET_S, asked(Servicer(damaged)))
    assert isinstance(error, TransportError)
    assert (error.transient, error.reason) == (True, "protocol")


# --- metadata and readiness


def test_the_metadata_of_a_tail_is_read_and_a_tail_that_is_not_there_is_not_found() -> None:
    async def story() -> tuple[Any, TransportError]:
        async with serving(Servicer()) as port:
            transport = GrpcTransport(f"grpc://127.0.0.1:{port}")
            found = await transport.metadata("net__from_1")
            with pytest.raises(TransportError) as caught:
                await transport.metadata("net")
            await transport.close()
            return found, caught.value

    found, error = within(NET_S, story())
    assert found.ours
    assert found.inputs[0].name == "h"
    assert error.status == "NOT_FOUND"


def test_a_server_is_ready_when_it_says_so() -> None:
    async def story() -> list[bool]:
        async with serving(Servicer()) as port:
            there = GrpcTransport(f"grpc://127.0.0.1:{port}")
            nowhere = GrpcTransport(f"grpc://127.0.0.1:{free_port()}")
            found = [await there.ready(10.0), await nowhere.ready(0.5)]
            await there.close()
            await nowhere.close()
            return [*found, await there.ready()]

    assert within(NET_S, story()) == [True, False, False]


# --- connections


def test_a_server_that_comes_back_is_found_by_the_same_transport() -> None:
    async def story() -> list[bool]:
        servicer = Servicer()
        async with serving(servicer) as port:
            up = upstream(
                GrpcTransport(f"grpc://127.0.0.1:{port}"),
                UpstreamSettings(backoff=Backoff(first_s=0.2, longest_s=0.2, attempts=100), retry_tokens=(1e6, 1.0)),
            )
            found = [isinstance(await ask(up, budget_s=10.0), Reply)]
        async with serving(servicer, port=port):
            found.append(isinstance(await ask(up, budget_s=20.0), Reply))
        await up.close()
        return found

    assert within(NET_S, story()) == [True, True]


def test_several_questions_without_a_word_make_a_new_connection() -> None:
    async def silence(request: Any, context: Any) -> Any:
        await asyncio.sleep(NET_S)

    async def story() -> int:
        servicer = Servicer(silence)
        async with serving(servicer) as port:
            up = upstream(GrpcTransport(f"grpc://127.0.0.1:{port}"))
            for _ in range(3):
                assert await ask(up, budget_s=0.3) == "deadline"
            servicer.infer = answered
            await asyncio.sleep(0.1)  # the last call learns that it was given up
            assert isinstance(await ask(up, budget_s=10.0), Reply)
            await up.close()
            return len(servicer.peers)

    assert within(NET_S, story()) == 2


def test_a_closed_transport_refuses_questions() -> None:
    async def story() -> TransportError:
        transport = GrpcTransport("grpc://127.0.0.1:1")
        await transport.close()
        with pytest.raises(TransportError) as caught:
            await transport.ask(question(), 1.0)
        return caught.value

    assert not within(NET_S, story()).transient


def test_a_thread_without_an_event_loop_asks_through_the_background() -> None:
    with Background() as serving_loop, Background() as asking_loop:
        started: queue.Queue[int] = queue.Queue()

        async def serve() -> None:
            async with serving(Servicer()) as port:
                started.put(port)
                await asyncio.Event().wait()

        serving_loop.submit(serve())
        up = upstream(GrpcTransport(f"grpc://127.0.0.1:{started.get(timeout=NET_S)}"))
        replies = [
            asking_loop.submit(up.answer(1, boundary(rows), None, asking_loop.now_s() + NET_S)) for rows in (1, 2, 3)
        ]
        assert [reply.result(NET_S).rows for reply in replies] == [1, 2, 3]
        asking_loop.submit(up.close()).result(NET_S)


# --- TLS


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def over_tls(authority: Authority, tls: Tls, *, mutual: bool = False) -> object:
    mine = authority.identity()
    credentials = grpc.ssl_server_credentials(
        [(mine.key, mine.certificate)], authority.pem if mutual else None, require_client_auth=mutual
    )
    async with serving(Servicer(), credentials) as port:
        up = upstream(
            GrpcTransport(f"grpcs://127.0.0.1:{port}", tls=tls, token="t"),
            UpstreamSettings(wishes=Wishes(precision="fp32"), backoff=Backoff(attempts=1)),
        )
        found = await ask(up, budget_s=10.0)
        await up.close()
        return found


def test_a_server_with_a_certificate_of_the_authority_is_trusted(authority: Authority) -> None:
    assert isinstance(within(NET_S, over_tls(authority, Tls(authority.pem))), Reply)


def test_a_server_of_another_authority_is_not_asked(authority: Authority) -> None:
    assert within(NET_S, over_tls(authority, Tls(Authority("other").pem))) == "unavailable"


def test_with_mutual_tls_both_show_a_certificate(authority: Authority) -> None:
    mine = authority.identity("device")
    assert isinstance(
        within(NET_S, over_tls(authority, Tls(authority.pem, mine.certificate, mine.key), mutual=True)), Reply
    )
    assert within(NET_S, over_tls(authority, Tls(authority.pem), mutual=True)) == "unavailable"


# --- what goes with an address


def test_a_token_is_not_sent_in_the_clear_over_a_network() -> None:
    with pytest.raises(UsageError, match="in the clear"):
        GrpcTransport("grpc://10.0.0.1:8001", token="t")
    GrpcTransport("grpcs://10.0.0.1:8001", token="t")


@pytest.mark.parametrize("token", ["", "a\nb", "é"])
def test_what_is_no_token_is_refused_unprinted(token: str) -> None:
    with pytest.raises(UsageError, match="no token"):
        GrpcTransport("grpcs://10.0.0.1:8001", token=token)


def test_certificates_without_tls_are_refused() -> None:
    with pytest.raises(UsageError, match="TLS"):
        GrpcTransport("grpc://127.0.0.1:8001", tls=Tls(b"pem"))
