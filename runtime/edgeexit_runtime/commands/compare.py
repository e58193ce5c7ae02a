"""`edgeexit compare`: every policy at the same budgets, on the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
import numpy as np

from edgeexit.bundle import Bundle
from edgeexit.cached import CachedLogits
from edgeexit.comparison import Row, compare, cross_fit
from edgeexit.console import emit_json, print_table, progress
from edgeexit.contenders import find_contenders
from edgeexit.errors import UnreachableError
from edgeexit.trials import FOLDS, steps
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.commands.budgets import parse_budgets
from edgeexit_runtime.gathering import Labels, gather, open_for, within_memory

__all__ = ["compare_command"]

EXAMPLES = """\b
Examples:
  edgeexit compare model.eexit --data test --calibration calibration --budgets 0.4,0.6,0.8
  edgeexit compare model.eexit --data test --policies max-probability,eenet,patience+joint --json
"""


@click.command("compare", epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help="What is measured on: a folder of classes, or an .npz.")
@click.option("--calibration", type=click.Path(), help="What is fitted on; the other folds of --data if not given.")
@click.option(
    "--budgets",
    default="0.4,0.6,0.8",
    show_default=True,
    callback=parse_budgets,
    help="Largest mean costs, as shares of the whole model's MACs.",
)
@click.option(
    "--policies",
    default="all",
    show_default=True,
    help="Separated by commas: policies, selfxit, or policy+method for other thresholds than its text's.",
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Fits where chance enters.")
@click.option(
    "--labels",
    type=click.Choice(["data", "model"]),
    default="data",
    show_default=True,
    help="What is right: the data's labels, or the whole model's own answers.",
)
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare_command(
    bundle: str,
    data: str,
    calibration: str | None,
    budgets: tuple[float, ...],
    policies: str,
    seeds: int,
    labels: Labels,
    batch: int,
    threads: int,
    as_json: bool,
) -> None:
    """Compare policies on BUNDLE: the accuracy of each within the same budgets.

    Every sample runs to the end once; each policy is then fitted and replayed on the same logits. With
    --calibration the policies and their thresholds are fitted there and measured on --data. Without, --data is
    cut into five folds, classes spread evenly: what was fitted on four is measured on the fifth, and the five
    are pooled.

    A policy's name stands for the policy with the thresholds of its own text: selfxit is max-probability with
    SelfXit's tolerance. Every policy is also tried as policy+joint, with the thresholds that EdgeExit searches,
    so that the gain of a score and that of its thresholds can be told apart. accuracy_error and cost_error are
    standard errors, over samples and, where chance enters the fit, over seeds. A budget that a policy cannot
    keep leaves its row empty, with a note; if none can keep any, the exit code is 5.
    """
    contenders = find_contenders([word.strip() for word in policies.split(",")])
    opened = Bundle.open(bundle)
    cascade = Cascade.open(opened, threads=threads)
    paths = [data] if calibration is None else [data, calibration]
    cached = [_gathered(opened, cascade, path, labels, batch) for path in paths]
    cached[-1].check(opened.manifest.labels, every_class=labels == "data")
    costs = np.array([entry.cost for entry in opened.manifest.exits])
    folds = FOLDS if calibration is None else 1
    how: Any = {"contenders": contenders, "seeds": seeds, "every_class": labels == "data"}
    with progress("fitting policies", folds * steps(contenders, budgets, seeds)) as advance:
        if calibration is None:
            rows = cross_fit(cached[0], costs, budgets, **how, advance=advance)
        else:
            rows = compare(cached[1], cached[0], costs, budgets, **how, advance=advance)
    if not any(row.reachable for row in rows):
        raise UnreachableError(
            "no policy keeps any of the budgets",
            got=", ".join(f"{budget:g}" for budget in budgets),
            expected=f"{costs.min():.4g} to {costs[-1]:.4g} of the whole model's MACs",
            remedy="allow a larger budget, or export with an earlier exit",
        )
    document = {
        "bundle": bundle,
        "samples": cached[0].samples,
        "fitted_on": f"the other {FOLDS - 1} of {FOLDS} folds" if calibration is None else calibration,
        "labels": labels,
        "full_accuracy": float((cached[0].logits[-1].argmax(axis=1) == cached[0].labels).mean()),
        "rows": [asdict(row) for row in rows],
    }
    if as_json:
        emit_json(document)
    else:
        _show(rows, budgets, f"{document['samples']} samples, fitted on {document['fitted_on']}")


def _gathered(bundle: Bundle, cascade: Cascade, path: str, labels: Labels, batch: int) -> CachedLogits:
    """The logits of a data set, checked."""
    dataset = within_memory(open_for(bundle.manifest, path, labels), cascade)
    with progress(f"running all exits on {path}", len(dataset)) as advance:
        return gather(cascade, dataset, batch=batch, labels=labels, advance=advance)


def _show(rows: Sequence[Row], budgets: Sequence[float], title: str) -> None:
    cells = {(row.policy, row.budget): row for row in rows}
    names = list(dict.fromkeys(row.policy for row in rows))
    best = {
        budget: max((row.accuracy for row in rows if row.budget == budget and row.accuracy is not None), default=None)
        for budget in budgets
    }

    def accuracy(row: Row) -> str | None:
        if row.accuracy is None or row.accuracy_error is None:
            return None
        mark = "*" if row.accuracy == best[row.budget] else " "
        return f"{100 * row.accuracy:.2f} ± {100 * row.accuracy_error:.2f}{mark}"

    def cost(row: Row) -> str | None:
        return None if row.cost is None else f"{row.cost:.3f}"

    for what, cell in (("accuracy, %; * is the best", accuracy), ("mean cost", cost)):
        table = [(name, *(cell(cells[name, budget]) for budget in budgets)) for name in names]
        print_table([what, *(f"≤ {budget:g}" for budget in budgets)], table, title=title)
        title = ""
        print()
    for note in dict.fromkeys(f"≤ {row.budget:g}: {row.note}" for row in rows if row.note):
        print(note)
