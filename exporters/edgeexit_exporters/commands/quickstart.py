"""`edgeexit quickstart`: everything, once, on data that ships with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeexit.console import emit_json, print_table, say
from edgeexit_exporters.quickstart import Quickstart, run_quickstart

__all__ = ["quickstart"]

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
    import neither torch nor onnx. Takes well under a minute.
    """
    result = run_quickstart(Path(out), seed=seed)
    if as_json:
        emit_json({"bundle": str(result.bundle), "verified": result.verified, "evaluation": result.evaluation})
    else:
        _show(result)


def _show(result: Quickstart) -> None:
    evaluation: dict[str, Any] = result.evaluation
    rows = [
        (f"{number}. {exit_['name']}", f"{exit_['share']:.0%}", _percent(exit_["accuracy"]), f"{exit_['cost']:.0%}")
        for number, exit_ in enumerate(evaluation["exits"], start=1)
    ]
    print_table(
        ("exit", "samples that leave here", "of those right", "work spent, of the whole model"),
        rows,
        title=f"Handwritten digits: {evaluation['samples']} pictures the network has not seen",
    )
    saved = 1 - evaluation["mean_cost"]
    drop = evaluation["accuracy_drop"]
    loss = (
        "at no loss of accuracy" if drop == 0 else f"for {abs(drop) * 100:.1f} points {'less' if drop > 0 else 'more'}"
    )
    print(f"The whole network is right on {evaluation['full_accuracy']:.1%} of them; stopping early saves", end=" ")
    print(f"{saved:.0%} of its work {loss} ({evaluation['accuracy']:.1%} right).")
    say(
        f"\nThe bundle is {result.bundle}. To look around:\n"
        f"  edgeexit inspect {result.bundle}\n"
        f"  edgeexit bench {result.bundle} --data {result.test_data}\n"
        f"  edgeexit run {result.bundle} {result.test_data} | head"
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
