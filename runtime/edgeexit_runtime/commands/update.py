"""`edgeexit update`: continue a bundle's exits with new samples, on the device."""

from __future__ import annotations

import os
from typing import Any

import click

from edgeexit.bundle import Bundle, check_destination, write_bundle
from edgeexit.console import emit_json, print_table, progress, say
from edgeexit.errors import UsageError
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.gathering import Labels, open_for
from edgeexit_runtime.living.updating import Update, Updater, updated_bundle
from edgeexit_runtime.living.updating import update as update_heads

__all__ = ["update"]

EXAMPLES = """\b
Examples:
  edgeexit update model.eexit --data new -o updated.eexit
  edgeexit update model.eexit --data new --labels model --forget 0.2 -o updated.eexit
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, type=click.Path(), help="A folder with a subfolder per class, or an .npz.")
@click.option(
    "--labels",
    type=click.Choice(["data", "model"]),
    default="data",
    show_default=True,
    help="What is right: the data's labels, or the whole model's own answers.",
)
@click.option(
    "--forget",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of the old samples' weight to take away first.",
)
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@click.option("-o", "--output", required=True, type=click.Path(), help="A folder, or an archive if it ends in .eexit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def update(
    bundle: str, data: str, labels: Labels, forget: float, batch: int, threads: int, output: str, as_json: bool
) -> None:
    """Continue the class means and Gaussian exits of BUNDLE with new samples, and write another bundle.

    The result is what fitting the exits on old and new samples together gives. Nothing of the old
    samples is needed but the sums in the bundle: class means have them always, Gaussian exits if
    they were exported with --updatable. Segments, policy and thresholds stay. With --forget F the
    old samples weigh 1 − F of what they did; repeated updates then forget exponentially.

    Afterwards, edgeexit tune refits the thresholds and counts what edgeexit drift compares with. Do
    that with samples that were not used here, and measure the result with edgeexit eval on others still.
    """
    _check_places(bundle, output)
    opened = Bundle.open(bundle)
    updater = Updater(opened, forget=forget)
    cascade = Cascade.open(opened, threads=threads, tapped=True)
    dataset = open_for(opened.manifest, data, labels)
    with progress("updating", len(dataset)) as advance:
        result = update_heads(updater, cascade, dataset, labels=labels, batch=batch, advance=advance)
    write_bundle(output, *updated_bundle(opened, cascade, updater))
    exits = [
        {"name": entry.name, "updated": k in updater.exits, "accuracy_before": accuracy}
        for k, (entry, accuracy) in enumerate(zip(opened.manifest.exits, result.accuracy, strict=True))
    ]
    if as_json:
        emit_json({"bundle": output, "samples": result.samples, "forget": forget, "labels": labels, "exits": exits})
    else:
        _show(output, result, exits, labels)


def _check_places(bundle: str, output: str) -> None:
    check_destination(output)
    if os.path.realpath(output) == os.path.realpath(bundle):
        raise UsageError(
            "the updated bundle would replace the old one, and there would be no way back",
            got=output,
            remedy="give it another name; edgeexit install keeps both",
        )


def _show(output: str, result: Update, exits: list[dict[str, Any]], labels: Labels) -> None:
    rows = [(e["name"], "yes" if e["updated"] else "no", f"{100 * e['accuracy_before']:.1f} %") for e in exits]
    right = "agreement before" if labels == "model" else "accuracy before"
    print_table(("exit", "updated", right), rows, title=f"{output}: {result.samples} new samples")
    say("Thresholds are as they were, and fit the old exits. To fit them anew:")
    say(f"  edgeexit tune {output} --data DIR --max-drop 0.01 -o TUNED")
