"""`edgeexit run`: classify files, one JSON line a sample."""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Iterator
from typing import Any

import click

from edgeexit.console import emit_json
from edgeexit.data import Dataset, open_files
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.commands.backends import backend_option
from edgeexit_runtime.heap import large_blocks_returned

__all__ = ["run"]

LOCAL_TIER = "local"

EXAMPLES = """\b
Examples:
  edgeexit run model.eexit picture.jpg
  edgeexit run model.eexit pictures/ --batch 8 --threads 4
  edgeexit run model.eexit pictures/ --batch 64 --backend cuda
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--upto", type=click.IntRange(1), help="Run the first K segments only.", metavar="K")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option(
    "--wait-ms",
    type=click.FloatRange(0),
    help="How long what is left of a batch may wait for later ones, where that pays.  [default: not at all]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads per operator.  [default: the target's, or 1]")
@click.option("--target", help="A known device, or a target file; its settings are used.")
@click.option("--profile", type=click.Path(), help="What edgeexit profile measured here; decides how batches are run.")
@backend_option
def run(
    bundle: str,
    paths: tuple[str, ...],
    upto: int | None,
    batch: int,
    wait_ms: float | None,
    threads: int | None,
    target: str | None,
    profile: str | None,
    backend: str,
) -> None:
    """Classify pictures, folders of pictures and .npz archives with BUNDLE.

    Prints one JSON document a line and sample: input, label, probability, exit, ms, tier, degraded. A sample is
    printed as soon as it is resolved, so in larger batches the order may differ from that of the inputs.
    ms is the time from the start of the sample's batch to its answer; reading files is not in it, unless with
    --wait-ms a sample waited for files. With --upto, samples that no exit was sure of get the last local exit's
    answer, degraded is true, and reason says why.
    """
    with large_blocks_returned():
        cascade = Cascade.open(
            bundle,
            threads=threads,
            target=target,
            backend=backend,
            upto=upto,
            profile=profile,
            lean=True,
            shared_pool=True,
        )
    manifest = cascade.manifest
    dataset = open_files(paths, manifest.inputs, manifest.preprocessing)
    cascade.warm_up()
    for line in _lines(cascade, dataset, batch, wait_ms):
        emit_json(line, indent=None)


def _lines(cascade: Cascade, dataset: Dataset, batch: int, wait_ms: float | None) -> Iterator[dict[str, Any]]:
    starts: list[int] = []
    starts_s: list[float] = []

    def batches() -> Iterator[dict[str, Any]]:
        start = 0
        for arrays in dataset.batches(batch, workers=0):  # reading ahead would take memory, and time from the segments
            starts.append(start)
            starts_s.append(time.perf_counter())
            start += len(next(iter(arrays.values())))
            yield arrays

    for answer in cascade.stream(batches(), wait_ms=wait_ms):
        line = {
            "input": dataset.names[answer.index],
            "label": cascade.manifest.labels[answer.label],
            "probability": answer.probability,
            "exit": cascade.manifest.exits[answer.exit].name,
            "ms": 1e3 * (time.perf_counter() - starts_s[bisect(starts, answer.index) - 1]),
            "tier": LOCAL_TIER,
            "degraded": answer.degraded,
        }
        yield {**line, "reason": answer.reason} if answer.degraded else line
