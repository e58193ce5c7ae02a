"""`edgeexit tune`: fit policy and thresholds of a bundle anew, to data and a goal."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeexit.bundle import Bundle, check_destination, write_bundle
from edgeexit.bundle.rewrite import rewrite
from edgeexit.cached import CachedLogits
from edgeexit.console import emit_json, print_table, progress, say
from edgeexit.errors import UsageError
from edgeexit.manifest import ExitEntry
from edgeexit.policies import AUTO, POLICIES
from edgeexit.replay import replay
from edgeexit.thresholds import BUDGET_RESERVE, DROP_RESERVE, METHODS
from edgeexit.tuning import Tuned, summarise
from edgeexit_runtime import evaluation
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.commands.backends import backend_option
from edgeexit_runtime.gathering import Labels, gather, open_for, within_memory
from edgeexit_runtime.retuning import FOR_A_BUDGET, FOR_A_LOSS, Unit, price_exits, requested, retune

__all__ = ["tune"]

EXAMPLES = """\b
Examples:
  edgeexit tune model.eexit --data calibration --max-drop 0.01 -o tuned.eexit
  edgeexit tune model.eexit --data calibration --max-drop 0.01 --delta 0.1 -o sure.eexit
  edgeexit tune model.eexit --data calibration --budget 0.5 -o half.eexit
  edgeexit tune model.eexit --data pictures --labels model --budget 12 --unit ms -o quick.eexit
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help="A folder with a subfolder per class, or an .npz.")
@click.option("--max-drop", type=click.FloatRange(0, 1, max_open=True), help="Largest loss of accuracy, as a share.")
@click.option(
    "--delta",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="With --max-drop: keep it with probability 1 − DELTA over the choice of the data.",
)
@click.option("--budget", type=float, help="Largest mean cost of a sample.")
@click.option(
    "--unit",
    type=click.Choice(["macs", "ms"]),
    help="Of the budget: a share of the whole model's MACs, or milliseconds here.  [default: macs]",
)
@click.option(
    "--policy",
    type=click.Choice(["auto", *POLICIES]),
    default="auto",
    show_default=True,
    help=f"When a sample leaves; auto takes what serves the goal best out of {', '.join(AUTO)}.",
)
@click.option(
    "--thresholds",
    type=click.Choice(list(METHODS)),
    help=f"How thresholds are found.  [default: {FOR_A_BUDGET} for a budget, {FOR_A_LOSS} for a loss]",
)
@click.option(
    "--labels",
    type=click.Choice(["data", "model"]),
    default="data",
    show_default=True,
    help="What is right: the data's labels, or the whole model's own answers.",
)
@click.option(
    "--reserve",
    type=click.FloatRange(0),
    help="Standard errors to keep back of what the goal limits.  "
    f"[default: {DROP_RESERVE:g} of the loss, {BUDGET_RESERVE:g} of the cost]",
)
@click.option("--profile", type=click.Path(path_type=Path), help="With --unit ms: the file of edgeexit profile.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@backend_option
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of everything random.")
@click.option("-o", "--output", required=True, type=click.Path(), help="A folder, or an archive if it ends in .eexit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tune(
    bundle: str,
    data: str,
    max_drop: float | None,
    delta: float | None,
    budget: float | None,
    unit: Unit | None,
    policy: str,
    thresholds: str | None,
    labels: Labels,
    reserve: float | None,
    profile: Path | None,
    batch: int,
    threads: int,
    backend: str,
    seed: int,
    output: str,
    as_json: bool,
) -> None:
    """Fit when samples leave BUNDLE anew, on data of yours, and write another bundle.

    Asked is either a largest loss of accuracy at the least cost (--max-drop) or a largest mean cost at the best
    accuracy (--budget). Segments and exits stay as they are. Use data that neither the model nor its exits were
    fitted on, such as will come; with --labels model they need no labels.

    Both are kept on the data with a reserve. On new data of the same kind a budget is then kept nearly always, a
    loss more often than not. With --delta the loss is guaranteed: over the choice of the data, and of as many new
    ones, it is larger than --max-drop with a probability of at most DELTA. A third of the data then fits the
    policy, and the rest certifies.

    With --unit macs a budget of 0.5 is half of the whole model's MACs, exits included. With --unit ms it is
    milliseconds a sample at batch 1 on this device. They are measured now, or read from the file that edgeexit
    profile wrote, here or on the device that the bundle is for. A budget that cannot be reached ends with exit
    code 5 and the range that can.
    """
    request = requested(
        max_drop=max_drop,
        delta=delta,
        budget=budget,
        unit=unit,
        method=thresholds,
        reserve=reserve,
        profile=profile,
    )
    _check_places(bundle, output)
    opened = Bundle.open(bundle)
    exits = opened.manifest.exits
    cascade = Cascade.open(opened, threads=threads, backend=backend)
    dataset = within_memory(open_for(opened.manifest, data, labels), cascade)
    prices = price_exits(request, cascade, dataset)
    with progress("running all exits", len(dataset)) as advance:
        cached = gather(cascade, dataset, batch=batch, labels=labels, advance=advance)
    cached.check(opened.manifest.labels, every_class=labels == "data")
    policies = AUTO if policy == "auto" else (policy,)
    say(f"fitting {', '.join(policies)}")
    tuned = retune(request, policies, cached, prices, seed=seed)
    shares = np.array([entry.cost for entry in exits])
    summary = summarise(tuned, cached, shares, request.goal, labels=labels, unit=request.unit, delta=delta)
    write_bundle(output, *rewrite(opened, policy=tuned.policy, calibration=summary))
    document = {
        "bundle": output,
        "policy": tuned.policy.name,
        "thresholds": tuned.method,
        "labels": labels,
        "max_drop": summary.max_drop,
        "delta": summary.delta,
        "budget": summary.budget,
        "unit": summary.unit,
        "times_from": prices.source,
        **_measured(exits, cached, tuned, in_ms=request.unit == "ms"),
    }
    if as_json:
        emit_json(document)
    else:
        _show(document)


def _check_places(bundle: str, output: str) -> None:
    """Refuse to write over the bundle that is read, or into it."""
    source, destination = Path(os.path.realpath(bundle)), check_destination(output)
    if destination == source or source in destination.parents:
        raise UsageError(
            "the bundle cannot be written over the one that it is made of", got=output, remedy="choose another name"
        )


def _measured(entries: tuple[ExitEntry, ...], cached: CachedLogits, tuned: Tuned, *, in_ms: bool) -> dict[str, Any]:
    """What the tuned cascade does on the data: as `edgeexit eval`, with thresholds."""
    answers = replay(tuned.policy, cached.logits)
    result = asdict(
        evaluation.summarise(
            entries,
            exits=answers.exit,
            right=answers.label == cached.labels,
            full_right=cached.logits[-1].argmax(axis=1) == cached.labels,
        )
    )
    exits = []
    for row, threshold, cost in zip(result.pop("exits"), tuned.policy.thresholds, tuned.costs, strict=True):
        exits.append({"name": row["name"], "threshold": threshold, **row, **({"ms": cost} if in_ms else {})})
    mean_ms = float(tuned.costs[answers.exit].mean()) if in_ms else None
    return {**result, "mean_ms": mean_ms, "exits": exits}


def _show(document: dict[str, Any]) -> None:
    in_ms = document["unit"] == "ms"
    rows = [
        (
            exit["name"],
            "nobody" if np.isinf(exit["threshold"]) else f"{exit['threshold']:.4f}",
            _percent(exit["share"]),
            _percent(exit["accuracy"]),
            f"{exit['cost']:.3f}",
            *([f"{exit['ms']:.2f}"] if in_ms else []),
        )
        for exit in document["exits"]
    ]
    rows[-1] = (rows[-1][0], "takes all", *rows[-1][2:])
    mean_ms = [f"{document['mean_ms']:.2f}"] if in_ms else []
    total = ("cascade", None, "100.0 %", _percent(document["accuracy"]), f"{document['mean_cost']:.3f}", *mean_ms)
    columns = ["exit", "threshold", "share", "accuracy", "cost", *(["ms"] if in_ms else [])]
    print_table(columns, [*rows, total], title=f"{document['bundle']}: {document['policy']}")
    what = "agreement with the whole model" if document["labels"] == "model" else "accuracy"
    print(
        f"{document['samples']} samples: {what} {100 * document['accuracy']:.2f} %, "
        f"without exits {100 * document['full_accuracy']:.2f} %"
    )
    if in_ms:
        print(f"{document['mean_ms']:.2f} ms a sample; times: {document['times_from']}")


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
