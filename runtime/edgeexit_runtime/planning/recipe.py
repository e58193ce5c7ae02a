"""A recipe: the commands that put an alternative to work."""

from __future__ import annotations

from shlex import quote

from edgeexit_runtime.planning.alternatives import Alternative
from edgeexit_runtime.planning.scenario import Payload, Scenario

__all__ = ["recipe"]


def recipe(bundle: str, scenario: Scenario, one: Alternative) -> dict[str, str]:
    """What to start on each tier, by its name; tiers that get no segments have nothing to start.

    Where the device runs no segments it is a plain client of the next tier, and has no command.

    Args:
        bundle: Its path.
        scenario: Of which `one` is an alternative.
        one: What to put to work.
    """
    busy = [(number, first, end) for number, (first, end) in enumerate(one.spans(scenario.count)) if first < end]
    found = {}
    for place, (number, first, end) in enumerate(busy):
        onward = busy[place + 1][0] if place + 1 < len(busy) else None
        words = [f"edgeexit run {quote(bundle)} PATH…"] if number == 0 else [f"edgeexit serve {quote(bundle)}"]
        if number:
            received = one.payloads[number - 1]
            words.append(f"--from {0 if received is not None and received.is_input else first}")
        if onward is not None:
            url = f"grpc://{scenario.tiers[onward].name.upper().replace(' ', '-')}:8001"
            words.append(f"--upto {end} --{'upstream' if number else 'offload'} {url}")
            words += [] if number else _payload(one.payloads[0])
        found[scenario.tiers[number].name] = " ".join(words)
    return found


def _payload(payload: Payload | None) -> list[str]:
    if payload is None or payload.is_input:
        return ["--payload input"]
    return ["--payload boundary", f"--payload-precision {payload.precision}"]
