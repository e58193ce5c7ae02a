"""`edgeexit report`: one page about a bundle on labelled data, and its table of savings."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, say
from edgeexit.contenders import find_contenders
from edgeexit.errors import UsageError
from edgeexit.reports.page import check_parts, render
from edgeexit_runtime.commands.budgets import parse_budgets
from edgeexit_runtime.gathering import Labels
from edgeexit_runtime.reporting import Order, collect

__all__ = ["report"]

MOST_SAMPLES = 20_000
NO_POLICIES = "none"

EXAMPLES = """\b
Examples:
  edgeexit report model.eexit --data test --calibration calibration -o report.html
  edgeexit report model.eexit --data test --policies none -o report.html --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help="A folder with a subfolder per class, or an .npz.")
@click.option("--calibration", type=click.Path(), help="What policies are fitted on; if not given, halves of --data.")
@click.option(
    "--budgets",
    default="0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    show_default=True,
    callback=parse_budgets,
    help="Mean costs to compare policies at, as shares of the whole model's MACs.",
)
@click.option(
    "--policies",
    default="all",
    show_default=True,
    help="What to compare, separated by commas, as for edgeexit compare; none leaves the comparison out.",
)
@click.option(
    "--labels",
    type=click.Choice(["data", "model"]),
    default="data",
    show_default=True,
    help="What is right: the data's labels, or the whole model's own answers.",
)
@click.option(
    "--samples",
    default=MOST_SAMPLES,
    show_default=True,
    type=click.IntRange(10),
    help="Of more data than that, so many samples are drawn at random.",
)
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The page, an .html file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def report(
    bundle: str,
    data: str,
    calibration: str | None,
    budgets: tuple[float, ...],
    policies: str,
    labels: Labels,
    samples: int,
    batch: int,
    threads: int,
    output: Path,
    as_json: bool,
) -> None:
    """Write one HTML page about BUNDLE on labelled data, and print what its exits save.

    The page is one file that loads nothing and runs no script: accuracy against cost for every policy, who leaves
    where and with which score, how reliable each exit is, who is right where the exits and the whole model differ,
    what is confused, pictures that leave first and last, and a table of savings in multiply-accumulates.

    Every sample runs to the end once. Policies are fitted on --calibration and measured on --data; without
    --calibration they are fitted on one half of --data and measured on the other, and the other way round. Fitting
    them all takes minutes; --policies chooses some.
    """
    contenders = [] if policies == NO_POLICIES else find_contenders([word.strip() for word in policies.split(",")])
    order = Order(data, calibration, tuple(sorted(budgets)), tuple(contenders), labels, samples, batch)
    _check_output(output)
    check_parts()
    found = collect(Bundle.open(bundle), order, threads=threads)
    page = render(found)
    output.write_text(page, encoding="utf-8")
    if as_json:
        rows = [asdict(row) for row in found.rows]
        size_bytes = len(page.encode())
        emit_json({"bundle": bundle, "page": output, "page_bytes": size_bytes, **found.document(), "rows": rows})
    else:
        print(found.savings.text())
        say(f"wrote {output}")


def _check_output(output: Path) -> None:
    """Refuse a place that cannot be written to, before anything runs."""
    folder = output.parent
    if output.is_dir() or not folder.is_dir() or not os.access(output if output.exists() else folder, os.W_OK):
        raise UsageError(
            f"{output} cannot be written",
            got="a folder" if output.is_dir() else None if folder.is_dir() else f"no folder {folder}",
            expected="the name of a file in a folder that can be written to",
        )
