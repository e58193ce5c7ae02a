"""`edgeexit eval`: what a bundle answers, costs and takes on labelled data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, print_table, progress
from edgeexit.data import Dataset, open_data
from edgeexit.precision import precision_of
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.commands.backends import DEFAULT_BACKEND, backend_option
from edgeexit_runtime.evaluation import choose_samples, evaluate, time_samples

__all__ = ["eval_command"]

EXAMPLES = """\b
Examples:
  edgeexit eval model.eexit --data test
  edgeexit eval model.eexit --data test.npz --json
"""


@click.command("eval", epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help="A folder with a subfolder per class, or an .npz.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@click.option(
    "--timing-samples",
    default=200,
    show_default=True,
    type=click.IntRange(0),
    help="Samples to time, drawn from all over the data; 0 leaves the times out.",
)
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def eval_command(
    bundle: str, data: str, batch: int, threads: int, timing_samples: int, backend: str, as_json: bool
) -> None:
    """Evaluate BUNDLE on labelled data.

    The cascade answers every sample, and so does the whole model: the same segments with every exit
    disabled. Cost is the mean over the samples of what is spent until the exit that each took, heads
    included, as a fraction of the whole model's MACs. Times are milliseconds per sample at batch 1 over
    some of the samples, the cascade and the whole model in turn, three times each. The whole model is
    merged from the segments where onnx is installed; otherwise, and with other backends than the default,
    its time is that of the segments with all their heads, and full_ms_from says so.

    Where the export changed the model's precision, the model as it was before is not in the bundle:
    its accuracy on the calibration split is given instead, beside that of the whole model in the bundle.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    cascade = Cascade.open(opened, threads=threads, backend=backend)
    dataset = open_data(data, manifest.inputs, manifest.preprocessing, manifest.labels)
    with progress("evaluating", len(dataset)) as advance:
        result = asdict(evaluate(cascade, dataset, batch=batch, advance=advance))
    exits = result.pop("exits")
    calibration = manifest.calibration
    precision = {
        "precision": precision_of(manifest),
        "calibration_reference_accuracy": calibration.reference_accuracy,
        "calibration_full_accuracy": calibration.full_accuracy,
    }
    document = {
        **result,
        **_times(opened, cascade, dataset, timing_samples, threads, backend),
        **precision,
        "exits": exits,
    }
    if as_json:
        emit_json(document)
    else:
        _show(document)


def _times(
    bundle: Bundle, cascade: Cascade, dataset: Dataset, count: int, threads: int, backend: str
) -> dict[str, Any]:
    if count == 0:
        return {"mean_ms": None, "full_ms": None, "full_ms_from": None}
    from edgeexit_runtime.whole import merged_whole

    whole = merged_whole(bundle, SessionSettings(threads=threads)) if backend == DEFAULT_BACKEND else None
    samples = list(dataset.batches(1, choose_samples(dataset, count)))  # read before the clock starts
    mean_ms, full_ms = time_samples([cascade.run, whole or cascade.logits], samples)
    source = "segments with heads" if whole is None else "merged model"
    return {"mean_ms": mean_ms, "full_ms": full_ms, "full_ms_from": source}


def _show(document: dict[str, Any]) -> None:
    rows = [
        (exit["name"], _percent(exit["share"]), _percent(exit["accuracy"]), f"{exit['cost']:.3f}")
        for exit in document["exits"]
    ]
    rows.append(("cascade", "100.0 %", _percent(document["accuracy"]), f"{document['mean_cost']:.3f}"))
    rows.append(("without exits", None, _percent(document["full_accuracy"]), "1.000"))
    print_table(["exit", "share", "accuracy", "cost"], rows, title=f"{document['samples']} samples")
    saved, drop = 1 - document["mean_cost"], document["accuracy_drop"]
    print(f"saved {100 * saved:.1f} % of the MACs at a loss of {100 * drop:.2f} points of accuracy")
    if document["calibration_reference_accuracy"] is not None:
        before, after = document["calibration_reference_accuracy"], document["calibration_full_accuracy"]
        print(
            f"in {document['precision']}: when it was exported, the whole model had {_percent(after)} "
            f"on the calibration split, and {_percent(before)} before"
        )
    if document["mean_ms"] is not None:
        mean_ms, full_ms = document["mean_ms"], document["full_ms"]
        print(f"{mean_ms:.2f} ms a sample, the whole model {full_ms:.2f} ms ({document['full_ms_from']})")


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"
