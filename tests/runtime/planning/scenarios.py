"""Scenarios to test plans with, and a walk of one sample through the tiers, segment by segment."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import strategies as st

from edgeexit_runtime.planning import INPUT, Link, Payload, Scenario, TierCosts
from edgeexit_runtime.planning.alternatives import MESSAGE_BYTES, Alternative

MS = st.floats(0.01, 100)


def tier(name: str, *segments_ms: float, energy: bool = False) -> TierCosts:
    """A tier with these milliseconds a segment; batched it is twice as quick, and takes 3 W."""
    exits_ms = tuple(accumulate(segments_ms))
    busy = tuple(ms / 2 for ms in segments_ms)
    return TierCosts(name, exits_ms, busy, 16, tuple(3 * ms for ms in exits_ms) if energy else None)


def scenario(
    *,
    shares: tuple[float, ...] = (0.5, 0.3, 0.2),
    device: tuple[float, ...] = (4.0, 8.0, 16.0),
    server: tuple[float, ...] = (1.0, 2.0, 4.0),
    link: Link | None = None,
    boundaries: tuple[int, ...] = (2000, 500),
    input_bytes: int = 1000,
    radio_watts: float = 0.0,
) -> Scenario:
    """A device and a server, three segments."""
    inputs = Payload(INPUT, input_bytes)
    return Scenario(
        exits=tuple(f"exit{k}" for k in range(len(shares))),
        shares=shares,
        tiers=(tier("device", *device, energy=True), tier("server", *server)),
        links=(link or Link(1.0, 10.0),),
        payloads=((inputs,), *((inputs, Payload("fp16", size)) for size in boundaries)),
        radio_watts=radio_watts,
    )


@st.composite
def scenarios(draw: st.DrawFn, tiers: int | None = None) -> Scenario:
    """Any scenario of two or three tiers and up to five segments."""
    count = draw(st.integers(1, 5))
    many = tiers or draw(st.integers(2, 3))
    weights = draw(st.lists(st.floats(0.01, 1), min_size=count, max_size=count))
    sizes = st.integers(1, 100_000)
    inputs = Payload(INPUT, draw(sizes))
    return Scenario(
        exits=tuple(map(str, range(count))),
        shares=tuple(weight / sum(weights) for weight in weights),
        tiers=tuple(
            tier(str(number), *draw(st.lists(MS, min_size=count, max_size=count)), energy=True)
            for number in range(many)
        ),
        links=tuple(Link(draw(st.floats(0.1, 1000)), draw(st.floats(0, 100))) for _ in range(many - 1)),
        payloads=(
            (inputs,),
            *((inputs, Payload("fp32", draw(sizes)), Payload("fp16", draw(sizes))) for _ in range(count - 1)),
        ),
        radio_watts=draw(st.floats(0, 5)),
    )


def walked_ms(of: Scenario, one: Alternative, exit_index: int) -> float:
    """One sample that leaves at an exit, followed through every tier and link."""
    ms = 0.0
    for number, (tier, (first, end)) in enumerate(zip(of.tiers, one.spans(of.count), strict=True)):
        begins = first
        if number:
            payload, link = one.payloads[number - 1], of.links[number - 1]
            if payload is None or exit_index < first:
                break
            ms += link.rtt_ms + (payload.size_bytes + MESSAGE_BYTES) * 8 / (link.bandwidth_mbit * 1e6) * 1e3
            begins = 0 if payload.precision == INPUT else first
        if first < end:
            for k in range(begins, min(exit_index + 1, end)):
                ms += tier.exits_ms[k] - (tier.exits_ms[k - 1] if k else 0.0)
    return ms
