"""`edgeexit run`: classify files, one JSON line a sample."""

from __future__ import annotations

import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, say
from edgeexit.data import Dataset, open_files
from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest
from edgeexit_runtime.answers import LOCAL_TIER, Answer
from edgeexit_runtime.batches import Batch
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.commands.backends import backend_option
from edgeexit_runtime.commands.offloading import Offload, offload_options
from edgeexit_runtime.heap import large_blocks_returned

__all__ = ["run"]


EXAMPLES = """\b
Examples:
  edgeexit run model.eexit picture.jpg
  edgeexit run model.eexit pictures/ --batch 8 --threads 4
  edgeexit run model.eexit pictures/ --batch 64 --backend cuda
  edgeexit run model.eexit pictures/ --upto 2 --offload grpcs://server:8001
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
@offload_options
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
    **offload: Any,
) -> None:
    """Classify pictures, folders of pictures and .npz archives with BUNDLE.

    Prints one JSON document a line and sample: input, label, probability, exit, ms, tier, degraded. A sample is
    printed as soon as it is resolved, so in larger batches the order may differ from that of the inputs.
    ms is the time from the start of the sample's batch to its answer; reading files is not in it, unless with
    --wait-ms a sample waited for files. With --upto, samples that no exit was sure of get the last local exit's
    answer, degraded is true, and reason says why. With --offload they go on to another tier first, and tier says
    whose answer it is; files are then read ahead by a batch or two.
    """
    further = Offload(**offload)
    if further.url is None:
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
        for line in _lines(manifest, dataset, batch, lambda batches: cascade.stream(batches, wait_ms=wait_ms)):
            emit_json(line, indent=None)
        return
    if wait_ms is not None or profile is not None:
        raise UsageError("--wait-ms and --profile do not go with --offload")
    opened = Bundle.open(bundle)
    dataset = open_files(paths, opened.manifest.inputs, opened.manifest.preprocessing)
    opening = {"threads": threads, "target": target, "backend": backend, "shared_pool": True}
    shares: Counter[str] = Counter()
    with further.tier(opened, upto, **opening) as tier:
        stream = partial(tier.stream, names=dataset.names)
        for line in _lines(opened.manifest, dataset, batch, stream):
            emit_json(line, indent=None)
            shares[line["tier"] + (" (degraded)" if line["degraded"] else "")] += 1
    say(f"answered {len(dataset)}: " + ", ".join(f"{tier} {count}" for tier, count in sorted(shares.items())))


def _lines(
    manifest: Manifest, dataset: Dataset, batch: int, stream: Callable[[Iterable[Batch]], Iterable[Answer]]
) -> Iterator[dict[str, Any]]:
    starts: list[int] = []
    starts_s: list[float] = []

    def batches() -> Iterator[Batch]:
        start = 0
        for arrays in dataset.batches(batch, workers=0):  # reading ahead would take memory, and time from the segments
            starts_s.append(time.perf_counter())
            starts.append(start)
            start += len(next(iter(arrays.values())))
            yield arrays

    for answer in stream(batches()):
        line = {
            "input": dataset.names[answer.index],
            "label": manifest.labels[answer.label],
            "probability": answer.probability,
            "exit": manifest.exits[answer.exit].name,
            "ms": 1e3 * (time.perf_counter() - starts_s[bisect(starts, answer.index) - 1]),
            "tier": getattr(answer, "tier", LOCAL_TIER),
            "degraded": answer.degraded,
        }
        yield {**line, "reason": answer.reason} if answer.degraded else line
