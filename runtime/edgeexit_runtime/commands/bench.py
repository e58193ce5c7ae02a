"""`edgeexit bench`: time a bundle against the whole model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, print_table, progress
from edgeexit.data import open_data
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.bench import POOL_SAMPLES, Contenders, Row, bench_batch, mixed_pool
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.contenders import bare_chain, ideal_chain, merged_whole, whole_from_file
from edgeexit_runtime.evaluation import choose_samples
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.merge import onnx_is_here

__all__ = ["bench"]

EXAMPLES = """\b
Examples:
  edgeexit bench model.eexit
  edgeexit bench model.eexit --data test --batch 1,8,64 --threads 2 --json
"""


def _sizes(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    words = value.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{value!r} is not a list of batch sizes such as 1,8,64", context, option)
    return tuple(int(word) for word in words)


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", type=click.Path(), help="Labelled data to take samples from, in its own mix.")
@click.option("--batch", "sizes", default="1,8,64", show_default=True, callback=_sizes, help="Batch sizes to time.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@click.option("--whole", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The whole model as .onnx.")
@click.option(
    "--seconds",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Time to spend on each batch size; five rounds are run in any case.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    bundle: str,
    data: str | None,
    sizes: tuple[int, ...],
    threads: int,
    whole: Path | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Time BUNDLE against the whole model, in rounds that take every contender in turn.

    All figures are milliseconds per batch, medians over the rounds; ratios are medians of the rounds' ratios, taken
    block by block of about eight samples. All contenders run in ONNX Runtime with the same settings.
    full is the whole model, merged from the segments where onnx is installed, or given with --whole. chain is
    the segments one after another with every exit disabled and, where onnx is installed, early heads left out.
    cascade is Cascade.run. ideal is what the same exits would cost if checks and compaction were free: the
    segments without their fitted heads, each on the samples that get there, nothing else timed. What needs onnx
    is null where it is missing.

    Without --data the samples are the bundle's golden ones, repeated so that the exits are taken as often as on
    the calibration split, as far as the golden samples reach. Every round runs the same samples in the same
    order: a pool of 128, or one batch if that is more.
    """
    opened = Bundle.open(bundle)
    settings = SessionSettings(threads=threads)
    cascade = Cascade.open(opened, threads=threads)
    contenders = Contenders(
        cascade=cascade,
        chain=bare_chain(opened, settings),
        whole=merged_whole(opened, settings) if whole is None else whole_from_file(whole, opened, settings),
        ideal=ideal_chain(opened, settings),
    )
    samples, exits, shares = _samples(opened, cascade, data, max(POOL_SAMPLES, *sizes))
    rows, taken = [], []
    with progress("timing", len(sizes)) as advance:
        for size in sizes:
            length = max(POOL_SAMPLES // size, 1) * size
            pool, pool_exits = mixed_pool(samples, exits, shares, length)
            rows.append(bench_batch(contenders, pool, batch=size, threads=threads, seconds=seconds))
            taken.append(np.bincount(pool_exits, minlength=len(shares)) / length)
            advance(1)
    document = {
        "bundle": bundle,
        "machine": describe_machine(),
        "full_from": "file" if whole else "merged segments" if contenders.whole else None,
        "chain_includes_heads": not onnx_is_here(),
        "samples_from": "golden samples" if data is None else "data",
        "rows": [{**asdict(row), "exit_shares": share} for row, share in zip(rows, taken, strict=True)],
    }
    if as_json:
        emit_json(document)
    else:
        _show(document, rows)


def _samples(
    bundle: Bundle, cascade: Cascade, data: str | None, count: int
) -> tuple[dict[str, Any], np.ndarray[Any, Any], tuple[float, ...]]:
    """Samples to draw from, the exit that each takes, and the shares that the exits should get."""
    manifest = bundle.manifest
    if data is None:
        samples = {spec.name: bundle.check[f"input.{spec.name}"] for spec in manifest.inputs}
        return samples, cascade.run(samples).exit, manifest.calibration.exit_shares
    dataset = open_data(data, manifest.inputs, manifest.preprocessing, manifest.labels)
    chosen = choose_samples(dataset, count)
    samples = next(dataset.batches(len(chosen), chosen))
    exits = cascade.run(samples).exit
    return samples, exits, tuple(np.bincount(exits, minlength=len(manifest.exits)) / len(exits))


def _show(document: dict[str, Any], rows: list[Row]) -> None:
    def cell(value: float | None, digits: int = 3) -> str | None:
        return None if value is None else f"{value:.{digits}f}"

    columns = ["batch", *(f"{name} ms" for name in ("whole", "chain", "cascade", "ideal"))]
    columns += ["chain/whole", "cascade/whole", "ideal/cascade"]
    table = [
        (
            str(row.batch),
            *(cell(value) for value in (row.full_ms, row.chain_ms, row.cascade_ms, row.ideal_ms)),
            *(cell(value) for value in (row.chain_over_full, row.cascade_over_full, row.realised_over_ideal)),
        )
        for row in rows
    ]
    machine = document["machine"]
    print_table(columns, table, title=f"{machine['cpu']}, threads: {rows[0].threads}; ms per batch")
    if document["chain_includes_heads"]:
        print("without onnx: the chain runs its heads, and there is no ideal; pip install onnx")
