from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from edgeexit.manifest import TensorSpec
from edgeexit.policies import Patience
from edgeexit_runtime.offload.choice import Wishes
from edgeexit_runtime.offload.fake import FakeTransport, our_metadata
from edgeexit_runtime.offload.transport import TransportError
from edgeexit_runtime.offload.upstream import UpstreamSettings
from edgeexit_runtime.wire.messages import PLATFORM, ModelMetadata, Question, Reply
from runtime.offload.upstreams import BUDGET_S, CLASSES, EXITS, F32, ask, boundary, now_s, passing, reply_to, upstream


def spec(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def foreign(*inputs: TensorSpec) -> Any:
    """What a server says that runs tails to the end and knows no policy."""
    return lambda model: ModelMetadata(model, "onnxruntime_onnx", inputs, (spec("logits", "float32", -1, CLASSES),))


def logits(question: Question) -> Reply:
    return Reply.of_logits(np.zeros((question.rows, EXITS - 1, CLASSES), F32), tier="triton")


def test_the_metadata_of_a_tail_is_asked_for_once() -> None:
    asked: list[str] = []

    def metadata(model: str) -> ModelMetadata:
        asked.append(model)
        return our_metadata(model)

    async def story() -> None:
        up = upstream(FakeTransport(reply_to, metadata), model="net")
        for _ in range(3):
            await ask(up)
        await ask(up, k=2)

    passing(story())
    assert asked == ["net__from_1", "net__from_2"]


def test_after_a_refusal_it_is_asked_for_again() -> None:
    asked: list[str] = []

    def metadata(model: str) -> ModelMetadata:
        asked.append(model)
        return our_metadata(model)

    def answer(question: Question) -> Reply:
        raise TransportError(False, "NOT_FOUND")

    async def story() -> None:
        up = upstream(FakeTransport(answer, metadata))
        for _ in range(2):
            assert await ask(up) == "refused"

    passing(story())
    assert len(asked) == 2


@pytest.mark.parametrize(("dtype", "sent"), [("float32", "boundary fp32"), ("float16", "boundary fp16")])
def test_another_server_gets_exactly_the_type_that_it_declares(dtype: str, sent: str) -> None:
    transport = FakeTransport(logits, foreign(spec("h", dtype, 4)))
    up = upstream(transport)
    assert isinstance(passing(ask(up)), Reply)
    assert dict(up._counters.sent) == {sent: 1}
    assert transport.questions[0].arrays["h"].dtype == dtype
    assert transport.questions[0].wants_logits


@pytest.mark.parametrize(
    "declared",
    [spec("h", "float32", 5), spec("h", "float32", 4, 1), spec("other", "float32", 4), spec("h", "int64", 4)],
)
@pytest.mark.parametrize("platform", [PLATFORM, "onnxruntime_onnx"])
def test_a_server_whose_tensors_are_others_is_asked_nothing(declared: TensorSpec, platform: str) -> None:
    transport = FakeTransport(reply_to, lambda model: ModelMetadata(model, platform, (declared,), ()))
    assert passing(ask(upstream(transport))) == "refused"
    assert transport.questions == []


def test_an_axis_of_any_length_fits() -> None:
    up = upstream(FakeTransport(logits, foreign(spec("h", "float32", -1))))
    assert isinstance(passing(ask(up)), Reply)


def test_the_policys_state_goes_to_servers_that_take_it_and_stays_here_otherwise() -> None:
    policy = Patience((1.0,) * EXITS, (9.0, 9.0, np.inf))
    state = {f"policy.state.{i}": array for i, array in enumerate(policy.start(1, CLASSES))}
    state_specs = [spec(name, "float32") for name in state]

    def sent(transport: FakeTransport) -> list[str]:
        async def once() -> None:
            await upstream(transport, policy=policy).answer(1, {**boundary(), **state}, None, now_s() + 1)

        passing(once())
        return sorted(transport.questions[0].arrays)

    assert sent(FakeTransport(reply_to)) == ["h", "policy.state.0", "policy.state.1"]
    assert sent(FakeTransport(logits, foreign(spec("h", "float32", 4)))) == ["h"]
    takes_all = foreign(spec("h", "float32", 4), *state_specs)
    assert sent(FakeTransport(logits, takes_all)) == ["h", "policy.state.0", "policy.state.1"]


def only(*tails: str) -> Any:
    """Metadata of a server that has these tails."""

    def metadata(model: str) -> ModelMetadata:
        if model not in tails:
            raise TransportError(False, "NOT_FOUND")
        return our_metadata(model)

    return metadata


def asked_with_inputs(transport: FakeTransport, source: str = "auto") -> list[str]:
    async def once() -> list[str]:
        up = upstream(transport, UpstreamSettings(wishes=Wishes(source)), model="net")
        await up.answer(1, boundary(width=400), {"x": np.zeros((1, 4), F32)}, now_s() + 1)
        return [question.model for question in transport.questions]

    return passing(once())


def test_without_a_tail_from_the_first_segment_the_boundary_goes() -> None:
    assert asked_with_inputs(FakeTransport(reply_to, only("net__from_1"))) == ["net__from_1"]


def test_without_a_tail_from_here_the_inputs_go() -> None:
    assert asked_with_inputs(FakeTransport(reply_to, only("net__from_0"))) == ["net__from_0"]


def test_without_any_tail_the_samples_are_refused() -> None:
    assert passing(ask(upstream(FakeTransport(reply_to, only())))) == "refused"


def test_what_is_not_to_be_sent_is_not_asked_about() -> None:
    transport = FakeTransport(reply_to, only("net__from_0"))
    assert asked_with_inputs(transport, "input") == ["net__from_0"]


def test_a_server_that_is_not_there_yet_is_asked_again_within_the_deadline() -> None:
    tries: list[str] = []

    def metadata(model: str) -> ModelMetadata:
        tries.append(model)
        if len(tries) < 3:
            raise TransportError(True, "UNAVAILABLE")
        return our_metadata(model)

    assert isinstance(passing(ask(upstream(FakeTransport(reply_to, metadata)))), Reply)


def slow_to_tell(asked: list[str]) -> FakeTransport:
    """Takes longer to say what it takes than a question may."""

    async def metadata(model: str) -> ModelMetadata:
        asked.append(model)
        await asyncio.sleep(2.5 * BUDGET_S)
        return our_metadata(model)

    return FakeTransport(reply_to, metadata)


def test_what_the_server_takes_is_learned_beyond_the_deadline_of_the_question_that_asked() -> None:
    asked: list[str] = []

    async def story() -> list[object]:
        up = upstream(slow_to_tell(asked))
        return [await ask(up) for _ in range(3)]

    first, second, third = passing(story())
    assert (first, second) == ("deadline", "deadline")
    assert isinstance(third, Reply)
    assert len(asked) == 1


def test_preparing_learns_it_before_the_first_question() -> None:
    asked: list[str] = []

    async def story() -> list[object]:
        up = upstream(slow_to_tell(asked))
        prepared = [await up.prepare(1, boundary(), timeout_s=0.1), await up.prepare(1, boundary())]
        return [*prepared, await ask(up)]

    early, prepared, reply = passing(story())
    assert (early, prepared) == (False, True)
    assert isinstance(reply, Reply)
    assert len(asked) == 1


def test_a_ping_tells_the_round_trip() -> None:
    class Slow(FakeTransport):
        async def ready(self, timeout_s: float = 1.0) -> bool:
            await asyncio.sleep(0.03)
            return True

    async def slow(question: Question) -> Reply:
        await asyncio.sleep(0.05)
        return reply_to(question)

    async def story() -> Any:
        up = upstream(Slow(slow))
        await up.answer(1, boundary(width=1000), None, now_s() + 1)
        return up.snapshot().rtt_ms

    assert passing(story()) == pytest.approx(30)
