from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest, PayloadEntry
from edgeexit.payload import PRECISIONS
from edgeexit_runtime.offload.choice import Chooser, Payload, Source, Wishes
from edgeexit_runtime.offload.fake import FakeTransport
from edgeexit_runtime.offload.link import Link
from edgeexit_runtime.offload.transport import OffloadError
from edgeexit_runtime.offload.upstream import UpstreamSettings
from edgeexit_runtime.wire.messages import Question, Reply
from runtime.offload.upstreams import F32, manifest, now_s, passing, reply_to, upstream

EVERYTHING: dict[Source, tuple[str, ...]] = {"boundary": PRECISIONS, "input": PRECISIONS}
BOUNDARY = {"h": np.zeros((1, 16, 32, 32), F32)}  # 65536 bytes
PICTURE = {"image": np.zeros((1, 32, 32, 3), np.uint8)}  # 3072 bytes
LARGE_PICTURE = {"image": np.zeros((1, 224, 224, 3), np.uint8)}  # 150528 bytes
LEAST = 65536 // 4 + 2 * 4 * 16  # bytes of the boundary as uint8

MEASURED = {"fp32": (65536, 40000, 0.0), "fp16": (32768, 16000, 0.0), "uint8": (LEAST, 5000, 0.001)}


def bundle(measured: dict[str, tuple[int, int, float]] | None = MEASURED, macs: int = 1_000_000) -> Manifest:
    """A manifest whose payloads in front of segment 1 were measured."""
    parts = manifest()
    entries = None
    if measured is not None:
        entries = tuple(
            PayloadEntry(precision=p, size_bytes=size, compressed_bytes=compressed, changed=changed)
            for p, (size, compressed, changed) in measured.items()
        )
    segments = [msgspec.structs.replace(segment, macs=macs, head_macs=0) for segment in parts.segments]
    segments[1] = msgspec.structs.replace(segments[1], payloads=entries)
    return msgspec.structs.replace(parts, segments=tuple(segments))


def link_of(mbit_per_s: float, rtt_s: float = 0.001) -> Link:
    link = Link()
    link.observe(200, rtt_s)
    link.observe(100_000, rtt_s + 100_000 * 8e-6 / mbit_per_s)
    return link


def chosen(
    wishes: Wishes = Wishes(compress="off"),  # noqa: B008
    link: Link | None = None,
    inputs: dict[str, np.ndarray[Any, Any]] | None = None,
    taken: dict[Source, tuple[str, ...]] = EVERYTHING,
    **parts: Any,
) -> Payload:
    found = Chooser(bundle(**parts), wishes, link or Link()).choose(1, BOUNDARY, inputs, taken)
    assert found is not None
    return found


def test_a_quick_link_carries_exact_tensors() -> None:
    assert chosen(link=link_of(10_000)).name == "boundary fp32"


def test_a_slower_link_carries_what_takes_least_time() -> None:
    assert chosen(link=link_of(10)).name == "boundary uint8"


def test_where_two_take_about_as_long_the_more_exact_one_goes() -> None:
    measured = {**MEASURED, "fp16": (32768, 32768, 0.0005)}
    assert chosen(link=link_of(1000), measured=measured).name == "boundary fp32"


def test_a_precision_that_changes_too_many_answers_is_not_taken_unless_asked_for() -> None:
    measured = {**MEASURED, "uint8": (LEAST, 5000, 0.01)}
    slow = link_of(1)
    assert chosen(link=slow, measured=measured).name == "boundary fp16"
    assert chosen(Wishes(compress="off", max_changed=0.02), slow, measured=measured).name == "boundary uint8"
    assert chosen(Wishes(precision="uint8", compress="off"), slow, measured=measured).name == "boundary uint8"


def test_where_nothing_was_measured_no_tensor_is_rounded_unless_asked_for() -> None:
    assert chosen(link=link_of(1), measured=None).name == "boundary fp32"
    assert chosen(Wishes(precision="fp16", compress="off"), link_of(1), measured=None).name == "boundary fp16"


def test_the_inputs_go_where_they_are_smaller_and_the_link_slow() -> None:
    assert chosen(link=link_of(10), inputs=PICTURE).name == "input fp32"
    assert chosen(link=link_of(10), inputs=LARGE_PICTURE).name == "boundary uint8"


def test_the_inputs_stay_where_the_server_would_take_longer_for_them_than_the_link_saves() -> None:
    parts = bundle(macs=1_000_000)
    chooser = Chooser(parts, Wishes(compress="off"), link_of(100))
    assert chooser.choose(1, BOUNDARY, PICTURE, EVERYTHING).name == "input fp32"  # type: ignore[union-attr]
    chooser.observe_server(1, [2], 0.1)  # two segments in 100 ms: the first would take 50
    assert chooser.choose(1, BOUNDARY, PICTURE, EVERYTHING).name == "boundary uint8"  # type: ignore[union-attr]


def test_a_servers_queues_do_not_make_it_look_slow_for_long() -> None:
    chooser = Chooser(bundle(), Wishes(), link_of(100))
    chooser.observe_server(1, [2], 5.0)
    chooser.observe_server(1, [2], 0.002)
    assert chooser._seconds_per_mac == pytest.approx(1e-9)


def test_while_the_bandwidth_is_unknown_the_smallest_goes() -> None:
    assert chosen().name == "boundary uint8"
    assert chosen(inputs=PICTURE).name == "input fp32"


def test_compression_is_used_where_it_pays() -> None:
    auto = Wishes(precision="fp32")
    assert chosen(auto, link_of(1)).name == "boundary fp32 gzip"
    assert chosen(auto, link_of(1000)).name == "boundary fp32"
    incompressible = {"fp32": (65536, 65600, 0.0)}
    assert chosen(auto, link_of(1), measured=incompressible).name == "boundary fp32"


def test_what_is_wished_for_is_sent_whatever_it_takes() -> None:
    assert chosen(Wishes("boundary", "fp32", "off"), link_of(1), PICTURE).name == "boundary fp32"
    assert chosen(Wishes("input", "auto", "on"), link_of(1000), LARGE_PICTURE).name == "input fp32 gzip"
    assert chosen(Wishes("boundary", "fp16", "on"), link_of(1000)).name == "boundary fp16 gzip"


def test_only_what_the_server_takes_is_sent() -> None:
    assert chosen(link=link_of(1), inputs=PICTURE, taken={"boundary": ("fp32",)}).name == "boundary fp32"
    wishes = Wishes(precision="uint8")
    assert Chooser(bundle(), wishes, Link()).choose(1, BOUNDARY, None, {"boundary": ("fp32",)}) is None


def test_in_front_of_the_first_segment_the_inputs_travel_exactly() -> None:
    chooser = Chooser(bundle(), Wishes(), link_of(1))
    found = chooser.choose(0, {"x": np.zeros((1, 400), F32)}, None, EVERYTHING)
    assert found is not None
    assert found.name == "boundary fp32"


def test_the_sources_are_those_wished_for_and_at_hand() -> None:
    def sources(source: str, has_inputs: bool, k: int = 1) -> tuple[Source, ...]:
        return Chooser(bundle(), Wishes(source), Link()).sources(k, has_inputs)

    assert sources("auto", True) == ("boundary", "input")
    assert sources("auto", False) == ("boundary",)
    assert sources("boundary", True) == ("boundary",)
    assert sources("input", True) == ("input",)
    assert sources("input", False) == ()
    assert sources("input", True, k=0) == ("boundary",)


@pytest.mark.parametrize("wish", [{"source": "both"}, {"precision": "fp8"}, {"compress": "yes"}, {"max_changed": 2.0}])
def test_wishes_that_there_are_not_are_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Wishes(**wish)


# --- through an upstream


def sent(wishes: Wishes, inputs: dict[str, np.ndarray[Any, Any]] | None, transport: FakeTransport) -> Any:
    async def once() -> Any:
        up = upstream(transport, UpstreamSettings(wishes=wishes), model="net")
        await up.answer(1, BOUNDARY, inputs, now_s() + 1)
        return transport.questions[-1]

    return passing(once())


def test_inputs_go_to_the_tail_from_the_first_segment() -> None:
    question = sent(Wishes("input"), PICTURE, FakeTransport(reply_to))
    assert question.model == "net__from_0"
    assert question.arrays["image"] is PICTURE["image"]


def test_a_quantised_tensor_travels_with_its_scale_and_offset() -> None:
    question = sent(Wishes("boundary", "uint8"), None, FakeTransport(reply_to))
    assert sorted(question.arrays) == ["h", "h.offset", "h.scale"]
    assert question.model == "net__from_1"


def test_values_that_cannot_be_quantised_travel_as_they_are() -> None:
    async def once() -> Any:
        transport = FakeTransport(reply_to)
        h = np.full((1, 4), np.inf, F32)
        h[0, 0] = 1
        up = upstream(transport, UpstreamSettings(wishes=Wishes(precision="uint8")))
        await up.answer(1, {"h": h}, None, now_s() + 1)
        return transport.questions[-1]

    assert passing(once()).arrays["h"].dtype == F32


def test_compression_is_asked_of_the_transport() -> None:
    transport = FakeTransport(reply_to)
    sent(Wishes("boundary", compress="on"), None, transport)
    assert transport.compressed == [True]


def test_a_payload_that_the_link_cannot_carry_in_time_makes_way_for_a_smaller_one() -> None:
    async def narrow(question: Question) -> Reply:
        await asyncio.sleep(sum(array.nbytes for array in question.arrays.values()) / 1e5)
        return reply_to(question)

    async def story() -> list[str]:
        up = upstream(FakeTransport(narrow), UpstreamSettings(wishes=Wishes(compress="off")), parts=bundle())
        up.link.observe(100_000, 0.001)  # taken for a quick one
        seen = []
        for _ in range(8):
            try:
                reply = await up.answer(1, BOUNDARY, None, now_s() + 0.2)
                seen.append(reply.tier[0])
            except OffloadError as error:
                seen.append(error.reason)
            await asyncio.sleep(1)
        return seen

    seen = passing(story())
    assert seen[0] == "deadline"
    assert seen[-5:] == ["cloud"] * 5
