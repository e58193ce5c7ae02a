"""`edgeexit plan`: where to cut a bundle between tiers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from edgeexit.bundle import Bundle
from edgeexit.console import Coloured, emit_json, human_bytes, print_table, say
from edgeexit.errors import UsageError
from edgeexit.payload import PRECISIONS
from edgeexit.profiles import read_profile
from edgeexit_runtime.planning import (
    GOALS,
    Alternative,
    Goal,
    Link,
    Payload,
    Scenario,
    alternatives,
    best,
    best_of_each,
    gather,
)
from edgeexit_runtime.planning.assumptions import assumptions
from edgeexit_runtime.planning.document import document
from edgeexit_runtime.planning.recipe import recipe

__all__ = ["plan"]

EXAMPLES = """\b
Examples:
  edgeexit plan model.eexit --profile pi.json --profile server.json --bandwidth 10 --rtt 20
  edgeexit plan model.eexit --profile pi.json --profile server.json --bandwidth 10 --rtt 20 \\
      --goal server-cost --max-latency 30
  edgeexit plan model.eexit --profile pi.json --profile gateway.json --profile server.json \\
      --bandwidth 10 --bandwidth 100 --rtt 2 --rtt 30 --json
"""

ROWS = 12
"""How many alternatives of three or more tiers are shown."""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option(
    "--profile",
    "profiles",
    required=True,
    multiple=True,
    type=click.Path(),
    help="What edgeexit profile wrote on a tier; once for each, the device first.",
)
@click.option(
    "--bandwidth",
    required=True,
    multiple=True,
    type=float,
    metavar="MBIT",
    help="Mbit/s towards the next tier; once for all links, or once for each.",
)
@click.option(
    "--rtt", required=True, multiple=True, type=float, metavar="MS", help="Round trip of a link, once or for each."
)
@click.option(
    "--goal", type=click.Choice(list(GOALS)), default="latency", show_default=True, help="What to make small."
)
@click.option(
    "--max-latency", type=click.FloatRange(0, min_open=True), metavar="MS", help="How long the mean sample may take."
)
@click.option(
    "--payload-precision",
    type=click.Choice(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="What boundary tensors are sent in; auto takes the best that was measured to do no harm.",
)
@click.option(
    "--radio-watts",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="What the device draws, beyond what it draws anyway, while it sends.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(
    bundle: str,
    profiles: tuple[str, ...],
    bandwidth: tuple[float, ...],
    rtt: tuple[float, ...],
    goal: Goal,
    max_latency: float | None,
    payload_precision: str,
    radio_watts: float,
    as_json: bool,
) -> None:
    """Find where to cut BUNDLE between a device and one to three tiers behind it.

    The table has a row for each way to cut: latency is the mean sample's time until its answer, and the sum of what
    the tiers and the network take of it; sent is the share of samples that go on; bytes a sample are those on the
    network, spread over all samples. What a sample takes along, boundary tensors or the model's input, and in
    which precision, is chosen for the goal.

    Energy and server cost are least where everything is done elsewhere, so they need --max-latency to mean much.
    Nothing is run: the figures follow from the profiles, the exits' shares on the calibration split and the links.
    What is assumed is said below the table.
    """
    opened = Bundle.open(bundle)
    measured = [read_profile(path, opened) for path in profiles]
    scenario = gather(
        opened,
        measured,
        _links(bandwidth, rtt),
        precision=None if payload_precision == "auto" else payload_precision,
        radio_watts=radio_watts,
    )
    found = alternatives(scenario)
    chosen = best(found, goal, max_latency)
    rows = best_of_each(found, goal, max_latency)
    commands, said = recipe(bundle, scenario, chosen), assumptions(scenario, opened.manifest)
    if as_json:
        emit_json(document(bundle, scenario, measured, goal, max_latency, rows, chosen, commands, said))
        return
    _show(scenario, goal, rows, chosen)
    for name, command in commands.items():
        say(f"{name}: {command}")
    say("Assumed:")
    for sentence in said:
        say(f"- {sentence}")


def _links(bandwidth: Sequence[float], rtt: Sequence[float]) -> list[Link]:
    count = max(len(bandwidth), len(rtt))
    if not {len(bandwidth), len(rtt)} <= {1, count}:
        raise UsageError(
            "--bandwidth and --rtt do not fit",
            got=f"{len(bandwidth)} and {len(rtt)}",
            expected="each once, or once for each link",
        )
    rates, trips = (list(values) * (count if len(values) == 1 else 1) for values in (bandwidth, rtt))
    return [Link(*pair) for pair in zip(rates, trips, strict=True)]


def _show(scenario: Scenario, goal: Goal, rows: Sequence[Alternative], chosen: Alternative) -> None:
    ranked = sorted(rows, key=lambda one: (one is not chosen, len(_parts(scenario, one)) > 1, one.latency_ms))
    kept = set(map(id, rows if len(scenario.links) == 1 else ranked[:ROWS]))
    shown = [one for one in rows if id(one) in kept]
    energy = scenario.tiers[0].energy_mj is not None
    columns = [
        "segments",
        "<sends",
        "latency ms",
        *(f"{tier.name} ms" for tier in scenario.tiers),
        "network ms",
        "last exit ms",
        "sent",
        "bytes a sample",
        "server cost ms",
        *(["device mJ"] if energy else []),
        "<",
    ]
    table = [_row(scenario, one, energy, one is chosen) for one in shown]
    print_table(columns, table, title=f"best for {GOALS[goal]}")
    if len(shown) < len(rows):
        print(f"{len(rows) - len(shown)} other ways to cut are left out; --json has all")


def _row(scenario: Scenario, one: Alternative, energy: bool, chosen: bool) -> list[object]:
    cells = [
        _where(scenario, one),
        "; ".join(_sends(payload) for payload in one.payloads),
        f"{one.latency_ms:.2f}",
        *(f"{ms:.2f}" for ms in one.tier_ms),
        f"{one.network_ms:.2f}",
        f"{one.last_ms:.2f}",
        " / ".join(f"{share:.1%}" for share in one.sent),
        human_bytes(round(sum(one.sent_bytes))),
        f"{one.server_ms:.3f}",
        *([f"{one.device_mj:.3g}"] if energy else []),
        "best" if chosen else "",
    ]
    return [Coloured(cell, "bold green") if chosen else cell for cell in cells]


def _sends(payload: Payload | None) -> str:
    return "–" if payload is None else f"{payload.precision}, {human_bytes(payload.size_bytes)}"


def _parts(scenario: Scenario, one: Alternative) -> list[tuple[str, int, int]]:
    """The tiers that get segments, each with the first and the first that it does not get."""
    spans = zip(scenario.tiers, one.spans(scenario.count), strict=True)
    return [(tier.name, first, end) for tier, (first, end) in spans if first < end]


def _where(scenario: Scenario, one: Alternative) -> str:
    parts = _parts(scenario, one)
    if len(parts) == 1:
        return f"all on the {parts[0][0]}"
    return ", ".join(
        f"{name} {first}" if end == first + 1 else f"{name} {first}–{end - 1}" for name, first, end in parts
    )
