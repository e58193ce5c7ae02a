"""`edgeexit run`: classify files, one JSON line a sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from edgeexit.console import emit_json
from edgeexit.data import Dataset, open_files
from edgeexit_runtime.batches import blank_batch
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.heap import large_blocks_returned

__all__ = ["run"]

LOCAL_TIER = "local"

EXAMPLES = """\b
Examples:
  edgeexit run model.eexit picture.jpg
  edgeexit run model.eexit pictures/ --batch 8 --threads 4
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--upto", type=click.IntRange(1), help="Run the first K segments only.", metavar="K")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
def run(bundle: str, paths: tuple[str, ...], upto: int | None, batch: int, threads: int) -> None:
    """Classify pictures, folders of pictures and .npz archives with BUNDLE.

    Prints one JSON document a line and sample: input, label, probability, exit, ms, tier, degraded. A sample is
    printed as soon as it is resolved, so in larger batches the order may differ from that of the inputs.
    ms is the time from the start of the sample's batch to its answer; reading files is not in it. With --upto,
    samples that no exit was sure of get the last local exit's answer, degraded is true, and reason says why.
    """
    with large_blocks_returned():
        cascade = Cascade.open(bundle, threads=threads, upto=upto)
    manifest = cascade.manifest
    dataset = open_files(paths, manifest.inputs, manifest.preprocessing)
    cascade.logits(blank_batch(manifest.inputs, 1))  # the first run of a session is slower than the rest
    for line in _lines(cascade, dataset, batch):
        emit_json(line, indent=None)


def _lines(cascade: Cascade, dataset: Dataset, batch: int) -> Iterator[dict[str, Any]]:
    start = 0
    for arrays in dataset.batches(batch, workers=0):  # reading ahead would take memory, and time from the segments
        start_s = time.perf_counter()
        for answer in cascade.stream([arrays]):
            line = {
                "input": dataset.names[start + answer.index],
                "label": cascade.manifest.labels[answer.label],
                "probability": answer.probability,
                "exit": cascade.manifest.exits[answer.exit].name,
                "ms": 1e3 * (time.perf_counter() - start_s),
                "tier": LOCAL_TIER,
                "degraded": answer.degraded,
            }
            yield {**line, "reason": answer.reason} if answer.degraded else line
        start += len(next(iter(arrays.values())))
