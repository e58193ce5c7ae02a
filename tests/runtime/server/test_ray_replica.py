"""A replica answers as `edgeexit serve` does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tritonclient.grpc", reason="needs edgeexit-runtime[tiers]")

import grpc
from tritonclient.grpc import InferenceServerClient, InferenceServerException, InferInput
from tritonclient.grpc import service_pb2 as pb

from edgeexit.bundle import Bundle
from edgeexit.errors import UsageError
from edgeexit_runtime.offload.grpc_transport import GrpcTransport
from edgeexit_runtime.offload.upstream import Upstream, UpstreamSettings
from edgeexit_runtime.server.logs import Log
from edgeexit_runtime.server.ray import (
    RayTier,
    add_tier_to_server,
)
from edgeexit_runtime.server.ray.ingress import TIMEOUT_S
from edgeexit_runtime.server.ray.replica import TierReplica
from edgeexit_runtime.tail import Tail
from edgeexit_runtime.wire.messages import Reply
from edgeexit_runtime.wire.oip import decode_reply
from faults.trial import expected_answers
from runtime.cascades import EXITS, F32, write_tiny
from runtime.server.ray_proxy import SAFETY_S, Carried, infer_request, proxied, refused, tail_of

N = 200


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("ray") / "tiny")


@pytest.fixture(scope="module")
def samples() -> NDArray[np.float32]:
    return np.random.default_rng(4).standard_normal((N, 4)).astype(F32)


@pytest.fixture(scope="module")
def expected(bundle: Path, samples: Any) -> Any:
    found = expected_answers(bundle, samples, 1)
    assert set(found[0].exit.tolist()) == set(range(EXITS))
    return found


@pytest.fixture(scope="module")
def address(bundle: Path) -> Iterator[str]:
    """A replica behind as much of a proxy as it needs."""
    replica = TierReplica(RayTier(bundle=str(bundle)), Log(StringIO()))

    async def answer(call: str, data: bytes, context: Carried) -> Any:
        return await getattr(replica, call)(data, grpc_context=context)

    with proxied(add_tier_to_server, answer) as address:
        yield address


async def asked(address: str, bundle: Path, k: int, batch: NDArray[Any]) -> Reply:
    """What our client gets for samples in front of segment k."""
    opened = Bundle.open(bundle)
    name = Tail.open(opened, first=k).takes(k)[0].name
    settings = UpstreamSettings(deadline_ms=1e3 * SAFETY_S)
    upstream = Upstream(GrpcTransport(f"grpc://{address}"), opened.manifest, opened.policy(), settings)
    try:
        return await upstream.answer(k, {name: batch})
    finally:
        await upstream.close()


def test_a_range_of_segments_that_the_bundle_does_not_have_is_refused(bundle: Path) -> None:
    for options in ({"first": EXITS}, {"first": 1, "upto": 1}, {"upto": EXITS + 1}, {"first": -1}):
        with pytest.raises(UsageError, match="no such tail"):
            TierReplica(RayTier(bundle=str(bundle), **options))


def test_an_upstream_of_a_whole_tail_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="nothing is left"):
        TierReplica(RayTier(bundle=str(bundle), upstream="grpc://127.0.0.1:1"))


def test_triton_s_own_client_finds_the_tier_and_is_answered(address: str, bundle: Path, samples: Any) -> None:
    spec = Bundle.open(bundle).manifest.inputs[0]
    with InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata().name == "edgeexit"
        assert client.is_model_ready(tail_of(bundle, 0))
        assert not client.is_model_ready("another__from_0")
        assert [tensor.name for tensor in client.get_model_metadata(tail_of(bundle, 0)).inputs] == [spec.name]
        tensor = InferInput(spec.name, [3, 4], "FP32")
        tensor.set_data_from_numpy(samples[:3])
        found = client.infer(tail_of(bundle, 0), [tensor], client_timeout=SAFETY_S)
    assert found.as_numpy("label").shape == (3,)


def test_our_client_gets_the_answers_of_one_cascade(address: str, bundle: Path, samples: Any, expected: Any) -> None:
    reply = asyncio.run(asked(address, bundle, 0, samples))
    np.testing.assert_array_equal(reply.label, expected[0].label)
    np.testing.assert_array_equal(reply.exit, expected[0].exit)
    assert set(reply.tier) == {"server"}


def test_a_healthy_replica_says_so(bundle: Path) -> None:
    asyncio.run(TierReplica(RayTier(bundle=str(bundle)), Log(StringIO())).check_health())


def test_a_replica_tries_its_next_tier_before_the_first_request(bundle: Path) -> None:
    log = StringIO()
    replica = TierReplica(RayTier(bundle=str(bundle), upto=1, upstream="grpc://127.0.0.1:1"), Log(log))
    asyncio.run(replica.check_health())
    assert "next tier not reached" in log.getvalue()


def test_a_replica_hands_what_it_cannot_resolve_to_its_next_tier(
    address: str, bundle: Path, samples: Any, expected: Any
) -> None:
    tier = RayTier(bundle=str(bundle), upto=1, name="gateway", upstream=f"grpc://{address}")
    replica = TierReplica(tier, Log(StringIO()))
    context = Carried(SimpleNamespace(invocation_metadata=tuple))
    message = asyncio.run(replica.ModelInfer(infer_request(bundle, samples).SerializeToString(), grpc_context=context))
    reply = decode_reply(pb.ModelInferResponse.FromString(message.SerializeToString()))
    np.testing.assert_array_equal(reply.label, expected[0].label)
    np.testing.assert_array_equal(reply.exit, expected[0].exit)
    assert [tier == "gateway" for tier in reply.tier] == (expected[0].exit == 0).tolist()


def test_a_deadline_that_makes_no_sense_is_none(bundle: Path, samples: Any) -> None:
    replica = TierReplica(RayTier(bundle=str(bundle)), Log(StringIO()))
    for text in ("soon", "nan", "inf"):
        context = Carried(SimpleNamespace(invocation_metadata=lambda text=text: [(TIMEOUT_S, text)]))
        data = infer_request(bundle, samples[:1]).SerializeToString()
        assert asyncio.run(replica.ModelInfer(data, grpc_context=context)).SerializeToString()


def test_a_deadline_that_is_over_is_refused(bundle: Path, samples: Any) -> None:
    replica = TierReplica(RayTier(bundle=str(bundle)), Log(StringIO()))
    context = Carried(SimpleNamespace(invocation_metadata=lambda: [(TIMEOUT_S, "-0.1")]))
    data = infer_request(bundle, samples[:1]).SerializeToString()
    assert asyncio.run(replica.ModelInfer(data, grpc_context=context)).SerializeToString() == b""
    assert context._code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_what_the_replica_refuses_is_told_in_its_own_words(address: str, bundle: Path, samples: Any) -> None:
    error = refused(address, infer_request(bundle, samples[:1], "another__from_0").SerializeToString())
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "another__from_0" in error.details()
    assert not error.trailing_metadata()
    with InferenceServerClient(address) as client, pytest.raises(InferenceServerException, match="no model"):
        client.get_model_metadata("another__from_0")
