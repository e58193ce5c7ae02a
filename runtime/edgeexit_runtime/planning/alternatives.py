"""Alternatives: every way to cut a bundle between the tiers of a scenario, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

from edgeexit_runtime.planning.scenario import Payload, Scenario

__all__ = ["MESSAGE_BYTES", "Alternative", "alternatives", "evaluate"]

MESSAGE_BYTES = 300
"""What is assumed around the tensors of a message: the protocol's fields, and the headers of HTTP/2, TCP and IP."""


@dataclass(frozen=True)
class Alternative:
    """One way to cut. All figures but `last_ms` are means over all samples, those included that are not sent.

    Attributes:
        cuts: For each tier but the first, its first segment; the number of segments where it gets nothing.
        payloads: For each link, what crosses; None where nothing does.
        sent: For each link, the share of samples that cross it.
        sent_bytes: For each link, bytes a sample.
        tier_ms: For each tier, milliseconds a sample that is run alone.
        network_ms: On the links.
        latency_ms: Of all tiers and links.
        last_ms: Latency of a sample that leaves at the last exit.
        busy_ms: For each tier, milliseconds a sample when it runs batches.
        device_mj: What the device spends on running and sending; None where its profile does not tell.
    """

    cuts: tuple[int, ...]
    payloads: tuple[Payload | None, ...]
    sent: tuple[float, ...]
    sent_bytes: tuple[float, ...]
    tier_ms: tuple[float, ...]
    network_ms: float
    latency_ms: float
    last_ms: float
    busy_ms: tuple[float, ...]
    device_mj: float | None

    @property
    def server_ms(self) -> float:
        """What all tiers but the device spend on a sample when they run batches."""
        return sum(self.busy_ms[1:])

    def spans(self, segments: int) -> tuple[tuple[int, int], ...]:
        """For each tier the first segment that it answers for, and the first that it does not."""
        return tuple(zip((0, *self.cuts), (*self.cuts, segments), strict=True))


def alternatives(scenario: Scenario) -> tuple[Alternative, ...]:
    """Every row of cuts with every choice of payloads; cuts rise, all on the last tier comes first."""
    cuts = combinations_with_replacement(range(scenario.count + 1), len(scenario.tiers) - 1)
    return tuple(evaluate(scenario, row, payloads) for row in cuts for payloads in _payloads(scenario, row))


def evaluate(scenario: Scenario, cuts: tuple[int, ...], payloads: tuple[Payload | None, ...]) -> Alternative:
    """Reckon one alternative.

    A sample is alone: it waits for nobody, on no tier and no link. A tier that gets no segments passes on what it
    gets. What crosses a link has crossed it as a whole before the next tier begins.

    Args:
        scenario: The tiers, links and shares.
        cuts: As `Alternative.cuts`.
        payloads: As `Alternative.payloads`.
    """
    spans = _spans(scenario, cuts, payloads)
    shares, links = scenario.shares, scenario.links
    sizes = [0 if payload is None else payload.size_bytes + MESSAGE_BYTES for payload in payloads]
    sent = tuple(scenario.reaching(cut) for cut in cuts)
    tier_ms, busy_ms = [], []
    for tier, span in zip(scenario.tiers, spans, strict=True):
        ends = [] if span is None else [(share, span.last(e)) for e, share in enumerate(shares) if e >= span.reached]
        first = 0 if span is None else span.first
        tier_ms.append(sum(share * tier.latency_ms(first, last) for share, last in ends))
        busy_ms.append(sum(share * sum(tier.busy_ms[first : last + 1]) for share, last in ends))
    crossing = [0.0 if p is None else link.crossing_ms(s) for p, link, s in zip(payloads, links, sizes, strict=True)]
    network_ms = sum(share * ms for share, ms in zip(sent, crossing, strict=True))
    longest = sum(
        tier.latency_ms(span.first, span.last(scenario.count - 1))
        for tier, span in zip(scenario.tiers, spans, strict=True)
        if span is not None
    )
    return Alternative(
        cuts=cuts,
        payloads=payloads,
        sent=sent,
        sent_bytes=tuple(share * size for share, size in zip(sent, sizes, strict=True)),
        tier_ms=tuple(tier_ms),
        network_ms=network_ms,
        latency_ms=sum(tier_ms) + network_ms,
        last_ms=longest + sum(crossing),
        busy_ms=tuple(busy_ms),
        device_mj=_energy(scenario, spans[0], sent, sizes),
    )


@dataclass(frozen=True)
class _Span:
    """What a tier runs: from `first` to `end` − 1, of samples that reach segment `reached`."""

    first: int
    reached: int
    end: int

    def last(self, exit_index: int) -> int:
        """The last segment that it runs of a sample that leaves at an exit, there or later."""
        return min(exit_index, self.end - 1)


def _spans(scenario: Scenario, cuts: tuple[int, ...], payloads: tuple[Payload | None, ...]) -> list[_Span | None]:
    starts = (0, *cuts)
    found: list[_Span | None] = []
    for number, (reached, end) in enumerate(zip(starts, (*cuts, scenario.count), strict=True)):
        received = payloads[number - 1] if number else None
        again = received is not None and received.is_input
        found.append(None if reached >= end else _Span(0 if again else reached, reached, end))
    return found


def _payloads(
    scenario: Scenario, cuts: tuple[int, ...], chosen: tuple[Payload | None, ...] = ()
) -> Iterator[tuple[Payload | None, ...]]:
    """Every choice of what to send, one after another link."""
    number = len(chosen)
    if number == len(cuts):
        yield chosen
        return
    cut = cuts[number]
    options: tuple[Payload | None, ...]
    if cut == scenario.count:
        options = (None,)
    elif number and cuts[number - 1] == cut:
        options = (chosen[-1],)
    else:
        has_input = all(payload is not None and payload.is_input for payload in chosen)
        options = scenario.payloads[cut][0 if has_input else 1 :]
    for option in options:
        yield from _payloads(scenario, cuts, (*chosen, option))


def _energy(scenario: Scenario, span: _Span | None, sent: tuple[float, ...], sizes: list[int]) -> float | None:
    """Running, and sending over the first link: watts times milliseconds are millijoules."""
    energy = scenario.tiers[0].energy_mj
    if energy is None:
        return None
    running = 0.0 if span is None else sum(s * energy[span.last(e)] for e, s in enumerate(scenario.shares))
    sending = scenario.links[0].sending_ms(sizes[0]) * sent[0] if sizes else 0.0
    return running + scenario.radio_watts * sending
