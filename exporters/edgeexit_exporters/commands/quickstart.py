"""`edgeexit quickstart`: everything, once, on data that ships with scikit-learn."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeexit.console import emit_json, print_table, say
from edgeexit.errors import MissingPartError
from edgeexit_exporters.quickstart import Quickstart, run_quickstart
from edgeexit_exporters.two_tiers import TwoTiers, run_two_tiers

__all__ = ["quickstart", "show_quickstart"]

EXAMPLES = """\b
Examples:
  edgeexit quickstart
  edgeexit quickstart --out build/quickstart
"""


@click.command(epilog=EXAMPLES)
@click.option("--out", default="edgeexit-quickstart", show_default=True, metavar="DIR", help="Where the files go.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def quickstart(out: str, seed: int, as_json: bool) -> None:
    """Train a small network with three exits on handwritten digits, export it, and run it.

    The bundle is verified and measured by the device's runtime, in a process of its own that can
    import neither torch nor onnx. Then it is run on two tiers, a device's process and a server's.
    Takes well under a minute.
    """
    show_quickstart(run_quickstart(Path(out), seed=seed), as_json=as_json)


def show_quickstart(result: Quickstart, *, as_json: bool = False) -> None:
    """Print what came out, then what two tiers make of the same bundle, or why they are skipped.

    Raises:
        BackendError: A tier failed.
    """
    if not as_json:
        _show_exits(result.evaluation)
    tiers, skipped = None, None
    try:
        tiers = run_two_tiers(result.bundle, result.test_data)
    except MissingPartError as error:
        skipped = str(error)
    if as_json:
        document = {"bundle": result.bundle, "verified": result.verified, "evaluation": result.evaluation}
        emit_json({**document, "tiers": None if tiers is None else asdict(tiers), "tiers_skipped": skipped})
        return
    if tiers is not None:
        _show_tiers(tiers)
    else:
        say(f"The two tiers are skipped: {skipped}")
    _show_commands(result, tiers)


def _show_exits(evaluation: dict[str, Any]) -> None:
    rows = [
        (f"{number}. {exit_['name']}", f"{exit_['share']:.0%}", _percent(exit_["accuracy"]), f"{exit_['cost']:.0%}")
        for number, exit_ in enumerate(evaluation["exits"], start=1)
    ]
    print_table(
        ("exit", "samples that leave here", "of those right", "work spent, of the whole model"),
        rows,
        title=f"Handwritten digits: {evaluation['samples']} pictures the network has not seen",
    )
    print(f"The whole network is right on {evaluation['full_accuracy']:.1%} of them.", end=" ")
    print(f"Stopping early saves {1 - evaluation['mean_cost']:.0%} of its work", end=" ")
    print(f"and is right on {evaluation['accuracy']:.1%}.\n")


def _show_tiers(found: TwoTiers) -> None:
    rows = [(one.tier, ", ".join(map(str, one.segments)), one.samples, f"{one.share:.0%}") for one in found.tiers]
    if found.degraded:
        rows.append(("degraded", "", found.degraded, f"{found.degraded / found.samples:.0%}"))
    print_table(("tier", "segments", "samples it resolved", "share"), rows, title="The same pictures on two tiers")
    resolved = found.samples - found.degraded
    right = f"All {resolved}" if not found.differing else f"Only {resolved - found.differing} of {resolved}"
    degraded = "none was degraded"
    if found.degraded:
        degraded = f"degraded, with the device's own answer: {found.degraded} ({', '.join(found.reasons)})"
    print(f"{right} have the label and the exit that one process gives them; {degraded}.")


def _show_commands(result: Quickstart, tiers: TwoTiers | None) -> None:
    program, bundle, data = _program(), shlex.quote(str(result.bundle)), shlex.quote(str(result.test_data))
    say(
        f"\nThe bundle is {result.bundle}. To look around:\n"
        f"  {program} inspect {bundle}\n"
        f"  {program} bench {bundle} --data {data}\n"
        f"  {program} run {bundle} {data} | head"
    )
    if tiers is not None:
        say(
            "\nThe tiers by hand, each in a terminal of its own, the server first (Ctrl-C ends it):\n"
            f"  {program} serve {bundle} --from {tiers.cut}\n"
            f"  {program} run {bundle} {data} --upto {tiers.cut} --offload grpc://127.0.0.1:8001"
        )


def _program() -> str:
    """How this environment's `edgeexit` is called from here."""
    script = Path(sys.executable).with_name("edgeexit")
    found = shutil.which("edgeexit")
    if found is not None and Path(found).absolute() == script.absolute():
        return "edgeexit"
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m edgeexit"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
