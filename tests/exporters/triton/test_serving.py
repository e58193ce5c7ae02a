"""A real Triton serves the tails: asked by Triton's own client, and by ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.payload import STATE
from edgeexit.tails import model_name, tail_name
from edgeexit_exporters.triton import Serving, write_repository
from edgeexit_runtime import Cascade
from exporters.triton.tails import Arrays, golden_inputs, handed_on, stopped
from triton_server import triton, triton_python

pytestmark = pytest.mark.slow

grpc = pytest.importorskip("tritonclient.grpc")


@pytest.fixture(scope="module")
def address(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Triton with all tails of a bundle whose policy has a state, and of one with a skipped segment."""
    triton_python()
    folder = tmp_path_factory.mktemp("serving")
    for kind in ("skipping", "int8 with a state"):
        write_repository(bundles[kind], folder / "written", Serving(delay_ms=1, max_queue=50))
    write_repository(bundles["class means"], folder / "written", Serving(payload="fp16"), tails=[1])
    with triton(folder / "written", folder) as address:
        yield address


@pytest.fixture(params=["skipping", "int8 with a state"])
def served(request: pytest.FixtureRequest, bundles: dict[str, Bundle]) -> Bundle:
    return bundles[request.param]


def tails(bundle: Bundle) -> list[str]:
    return [tail_name(model_name(bundle.manifest), k) for k in range(len(bundle.manifest.segments))]


def ask(client: Any, model: str, arrays: Arrays) -> NDArray[np.float32]:
    """One request of Triton's own client, with nothing of ours."""
    inputs = []
    for name, array in arrays.items():
        tensor = grpc.InferInput(name, list(array.shape), {"float32": "FP32", "uint8": "UINT8"}[array.dtype.name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return np.asarray(client.infer(model, inputs).as_numpy("logits"))


def test_triton_takes_the_configuration_as_it_is_written(address: str, served: Bundle) -> None:
    with grpc.InferenceServerClient(address) as client:
        for model in tails(served):
            assert client.is_model_ready(model)
            config = client.get_model_config(model).config
            assert config.dynamic_batching.max_queue_delay_microseconds == 1000
            assert config.dynamic_batching.default_queue_policy.max_queue_size == 50


def test_tritons_own_client_gets_the_cascades_answers(address: str, served: Bundle) -> None:
    inputs = golden_inputs(served)
    whole = Cascade.open(served).run(inputs)
    with grpc.InferenceServerClient(address) as client:
        for k, model in enumerate(tails(served)):
            found = handed_on(served, k, inputs, lambda arrays, model=model: ask(client, model, arrays))  # type: ignore[misc]
            np.testing.assert_array_equal(found.labels, whole.label)
            np.testing.assert_array_equal(found.exits, whole.exit)


def test_our_client_gets_the_cascades_answers(address: str, served: Bundle) -> None:
    pytest.importorskip("edgeexit_runtime.offload.grpc_transport")
    inputs = golden_inputs(served)
    whole = Cascade.open(served).run(inputs)
    for k in range(1, len(served.manifest.segments)):
        _, waiting = stopped(served, k, inputs)
        state = {f"{STATE}{i}": array for i, array in enumerate(waiting.state)}
        reply = asyncio.run(asked(address, served, k, {**waiting.arrays, **state}))
        np.testing.assert_array_equal(reply.label, whole.label[waiting.rows])
        np.testing.assert_array_equal(reply.exit, whole.exit[waiting.rows])


def test_our_client_rounds_what_a_tail_takes_rounded(address: str, bundles: dict[str, Bundle]) -> None:
    bundle = bundles["class means"]
    whole = Cascade.open(bundle).run(golden_inputs(bundle))
    _, waiting = stopped(bundle, 1, golden_inputs(bundle))
    reply = asyncio.run(asked(address, bundle, 1, waiting.arrays))
    np.testing.assert_array_equal(reply.label, whole.label[waiting.rows])


async def asked(address: str, bundle: Bundle, k: int, arrays: Arrays) -> Any:
    from edgeexit_runtime.offload.grpc_transport import GrpcTransport
    from edgeexit_runtime.offload.upstream import Upstream, UpstreamSettings

    transport = GrpcTransport(f"grpc://{address}")
    upstream = Upstream(transport, bundle.manifest, bundle.policy(), UpstreamSettings(deadline_ms=20_000))
    try:
        return await upstream.answer(k, arrays)
    finally:
        await transport.close()


def test_a_request_that_is_not_as_declared_is_refused(address: str, served: Bundle) -> None:
    with grpc.InferenceServerClient(address) as client, pytest.raises(Exception, match=r"INVALID_ARGUMENT|unexpected"):
        ask(client, tails(served)[0], {"other": np.zeros((1, 4), np.float32)})
