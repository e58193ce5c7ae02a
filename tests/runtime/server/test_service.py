"""Any client of the Open Inference Protocol is answered, or refused with a status that says no more than it should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from io import StringIO
from threading import Event, Thread
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import grpc
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferenceServerException, InferInput, InferRequestedOutput
from tritonclient.grpc import service_pb2 as pb

from edgeexit.errors import BackendError
from edgeexit_runtime.batches import Arrays
from edgeexit_runtime.server.addresses import Address
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.serving import ServerSettings, TierServer
from edgeexit_runtime.wire.messages import Reply
from runtime.cascades import batch_of, told_by_the_sample
from runtime.server.tiers import SAFETY_S, fake_tail, serving

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def server() -> Iterator[TierServer]:
    with serving(fake_tail(), tier="gateway") as server:
        yield server


@pytest.fixture
def client(server: TierServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(str(server.address)) as client:
        yield client


def triton_input(batch: NDArray[Any], name: str = "x") -> InferInput:
    tensor = InferInput(name, batch.shape, {"float32": "FP32", "float16": "FP16"}[str(batch.dtype)])
    tensor.set_data_from_numpy(batch)
    return tensor


def request(batch: NDArray[Any], model: str, name: str = "x") -> Any:
    message = pb.ModelInferRequest(model_name=model, id="7")
    message.inputs.add(name=name, datatype="FP32", shape=batch.shape)
    message.raw_input_contents.append(batch.tobytes())
    return message


def bare_call(server: TierServer, data: bytes, *, timeout_s: float | None = SAFETY_S) -> bytes:
    """One call with nothing but grpcio."""
    with grpc.insecure_channel(str(server.address)) as channel:
        answer: bytes = channel.unary_unary(INFER)(data, timeout=timeout_s)
    return answer


def refused(server: TierServer, data: bytes) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        bare_call(server, data)
    return caught.value.code().name, caught.value.details()  # type: ignore[attr-defined]


def test_triton_s_own_client_finds_the_server_live_and_its_tails_ready(
    server: TierServer, client: InferenceServerClient
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata().name == "edgeexit"
    assert [client.is_model_ready(model) for model in server.models] == [True] * 3
    assert not client.is_model_ready("another__from_0")


def test_the_metadata_says_what_a_tail_takes_and_gives(server: TierServer, client: InferenceServerClient) -> None:
    found = client.get_model_metadata(server.models[1])
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found.inputs] == [("h0", "FP32", [-1, 4])]
    assert [tensor.name for tensor in found.outputs] == ["label", "probability", "exit", "score", "degraded"]


def test_triton_s_own_client_is_answered(server: TierServer, client: InferenceServerClient) -> None:
    result = client.infer(server.models[0], [triton_input(batch_of(2, 0, 1))], request_id="a", client_timeout=SAFETY_S)
    assert result.as_numpy("exit").tolist() == [2, 0, 1]
    assert result.as_numpy("label").tolist() == [0, 1, 2]
    assert result.as_numpy("degraded").tolist() == [False] * 3
    response = result.get_response()
    assert (response.id, response.parameters["tier"].string_param) == ("a", "gateway")


def test_a_client_gets_the_outputs_that_it_asks_for(server: TierServer, client: InferenceServerClient) -> None:
    outputs = [InferRequestedOutput("label")]
    result = client.infer(server.models[0], [triton_input(batch_of(1))], outputs=outputs, client_timeout=SAFETY_S)
    assert result.as_numpy("label").tolist() == [0]
    assert result.as_numpy("exit") is None


def test_a_payload_in_half_precision_is_taken(server: TierServer, client: InferenceServerClient) -> None:
    tensor = triton_input(batch_of(2, 1).astype(np.float16), "h0")
    result = client.infer(server.models[1], [tensor], client_timeout=SAFETY_S)
    assert result.as_numpy("exit").tolist() == [2, 1]


def test_one_call_of_bare_grpcio_is_answered(server: TierServer) -> None:
    data = request(batch_of(2), server.models[0]).SerializeToString()
    response = pb.ModelInferResponse.FromString(bare_call(server, data))
    names = [output.name for output in response.outputs]
    found = dict(zip(names, response.raw_output_contents, strict=True))
    assert np.frombuffer(found["exit"], np.int64).tolist() == [2]
    assert response.parameters["exit"].int64_param == 2


def test_a_call_without_a_deadline_is_answered(server: TierServer) -> None:
    data = request(batch_of(0), server.models[0]).SerializeToString()
    assert pb.ModelInferResponse.FromString(bare_call(server, data, timeout_s=None)).id == "7"


def test_many_clients_at_once_each_get_their_own_answers(server: TierServer) -> None:
    failures: list[object] = []

    def ask(seed: int) -> None:
        random = np.random.default_rng(seed)
        with grpc.insecure_channel(str(server.address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(INFER)
            for _ in range(20):
                leaves = random.integers(0, 3, random.integers(1, 9)).tolist()
                data = request(batch_of(*leaves), server.models[0]).SerializeToString()
                response = pb.ModelInferResponse.FromString(call(data, timeout=SAFETY_S))
                found = np.frombuffer(response.raw_output_contents[2], np.int64).tolist()
                if found != leaves:
                    failures.append((leaves, found))

    threads = [Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_what_is_not_there_is_not_found(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no model") as caught:
        client.infer("fake__from_9", [triton_input(batch_of(0))])
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="no model"):
        client.get_model_metadata("fake__from_9")


@pytest.mark.parametrize("call", ["get_model_repository_index", "get_trace_settings", "get_inference_statistics"])
def test_calls_that_a_tier_does_not_know_are_unimplemented(client: InferenceServerClient, call: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, call)()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_request_that_is_no_message_is_refused(server: TierServer) -> None:
    assert refused(server, b"\xff" * 40)[0] == "INVALID_ARGUMENT"
    for method in ("ModelMetadata", "ModelReady", "ServerReady"):
        with grpc.insecure_channel(str(server.address)) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER.replace("ModelInfer", method))(b"\x0a\xff", timeout=SAFETY_S)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_claim_of_ten_to_the_twelve_elements_is_refused_by_its_size(server: TierServer) -> None:
    message = request(batch_of(0), server.models[0])
    message.inputs[0].shape[:] = [10**6, 10**6]
    assert refused(server, message.SerializeToString())[0] in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


def test_more_samples_than_the_queue_holds_are_refused() -> None:
    with serving(fake_tail(), max_queue_rows=4) as server:
        data = request(batch_of(*[0] * 5), server.models[0]).SerializeToString()
        assert refused(server, data)[0] == "RESOURCE_EXHAUSTED"
        assert bare_call(server, request(batch_of(*[0] * 4), server.models[0]).SerializeToString())


def test_what_fails_inside_is_in_the_log_and_not_in_the_answer() -> None:
    def fails(x: NDArray[np.float32]) -> Any:
        raise BackendError("the file /home/someone/secret.onnx")

    lines = StringIO()
    with serving(fake_tail(1, functions=[fails]), log=Log(lines)) as server:
        status, message = refused(server, request(batch_of(0), server.models[0]).SerializeToString())
        assert status == "INTERNAL"
        assert "secret" not in message
        assert server.scheduler.counts.requests["INTERNAL"] == 1
    assert "secret.onnx" in lines.getvalue()


def test_a_stopping_server_answers_what_is_there_and_takes_nothing_more() -> None:
    entered, release = Event(), Event()

    def waits(x: NDArray[np.float32]) -> Any:
        entered.set()
        assert release.wait(SAFETY_S)
        return told_by_the_sample(0)(x)

    class ReleasedByDraining(StringIO):
        def write(self, text: str) -> int:
            if "draining" in text:
                release.set()
            return super().write(text)

    answers: list[bytes] = []
    with serving(fake_tail(1, functions=[waits]), log=Log(ReleasedByDraining())) as server:
        data = request(batch_of(0), server.models[0]).SerializeToString()
        asking = Thread(target=lambda: answers.append(bare_call(server, data)))
        asking.start()
        assert entered.wait(SAFETY_S)
    asking.join(SAFETY_S)
    assert pb.ModelInferResponse.FromString(answers[0]).id == "7"
    with pytest.raises(grpc.RpcError) as caught:
        bare_call(server, data, timeout_s=1.0)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    entered, release = Event(), Event()

    def waits(x: NDArray[np.float32]) -> Any:
        entered.set()
        assert release.wait(SAFETY_S)
        return told_by_the_sample(0)(x)

    with serving(fake_tail(1, functions=[waits])) as server:
        data = request(batch_of(0), server.models[0]).SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            bare_call(server, data, timeout_s=0.2)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert entered.wait(SAFETY_S)
        release.set()
        assert bare_call(server, data)
    assert server.scheduler.open_requests == 0


@pytest.fixture(scope="module")
def channel(server: TierServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(str(server.address)) as channel:
        yield channel


ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_requests_bring_protocol_errors_only(
    server: TierServer, channel: grpc.Channel, data: st.DataObject
) -> None:
    whole = bytearray(request(batch_of(0, 1), server.models[0]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    call = channel.unary_unary(INFER).future(bytes(whole), timeout=SAFETY_S)
    assert call.code().name in ALLOWED


@pytest.mark.parametrize(("reached", "events"), [(True, []), (False, ["next tier not reached"])])
def test_a_gateway_connects_before_its_first_request_and_serves_all_the_same(reached: bool, events: list[str]) -> None:
    asked: list[int] = []

    class Next:
        async def answer(self, *arguments: Any, **options: Any) -> Reply:
            raise NotImplementedError

        async def prepare(self, k: int, arrays: Arrays, inputs: Arrays | None, *, timeout_s: float) -> bool:
            asked.append(k)
            return reached

    lines = StringIO()
    server = TierServer(fake_tail(upto=2), ServerSettings(Address("127.0.0.1", 0)), onward=Next(), log=Log(lines))
    asyncio.run(server.warm_up())
    assert asked == [2]
    assert [json.loads(line)["event"] for line in lines.getvalue().splitlines()] == events
