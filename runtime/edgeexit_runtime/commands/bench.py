"""`edgeexit bench`: time a bundle against whatever else could be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, print_table, progress, say
from edgeexit_runtime.bench import POOL_SAMPLES, Row, bench_batch
from edgeexit_runtime.lineup import choose_pool, line_up
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.memory import measure_memory
from edgeexit_runtime.merge import onnx_is_here
from edgeexit_runtime.rivals import choose_rivals, installed_rivals, open_rivals
from edgeexit_runtime.whole import Whole

__all__ = ["bench"]

EXAMPLES = """\b
Examples:
  edgeexit bench model.eexit
  edgeexit bench model.eexit --data test --batch 1,8,64 --threads 1,2 --json
  edgeexit bench model.eexit --rivals all --batch 1 --nobody-leaves
"""


def _sizes(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    words = value.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,8,64", context, option)
    return tuple(int(word) for word in words)


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", type=click.Path(), help="Labelled data to take samples from, in its own mix.")
@click.option("--batch", "sizes", default="1,8,64", show_default=True, callback=_sizes, help="Batch sizes to time.")
@click.option("--threads", "counts", default="1", show_default=True, callback=_sizes, help="CPU threads per operator.")
@click.option("--whole", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The whole model as .onnx.")
@click.option(
    "--rivals",
    "words",
    default="quick",
    show_default=True,
    help="all, none, quick (all but compiled, which takes minutes to compile), or names such as eager,if.",
)
@click.option("--profile", type=click.Path(), help="What edgeexit profile measured on this device.")
@click.option("--nobody-leaves", "full_length", is_flag=True, help="Time the cascade that nobody leaves early, too.")
@click.option(
    "--stream",
    "stream_wait_ms",
    metavar="MS",
    type=click.FloatRange(0),
    help="Time Cascade.stream, too: samples that stay may wait so long for those of later batches.",
)
@click.option(
    "--shared-pool",
    is_flag=True,
    help="One pool of threads for everything, as edgeexit run has it; with one number of threads only.",
)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Whether to measure memory too.")
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
    counts: tuple[int, ...],
    whole: Path | None,
    words: str,
    profile: str | None,
    full_length: bool,
    stream_wait_ms: float | None,
    shared_pool: bool,
    memory: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Time BUNDLE against the whole model and other ways to run it, in rounds that take every contender in turn.

    All figures are milliseconds per batch, medians over the rounds; ratios are medians of the rounds' ratios, taken
    block by block of about eight samples.

    In ONNX Runtime with the settings of the cascade: full is the whole model, merged from the segments where onnx
    is installed, or given with --whole. chain is the segments one after another with every exit disabled and, where
    onnx is installed, early heads left out. cascade is Cascade.run, opened as edgeexit run does. ideal is what the
    same exits would cost if checks and compaction were free: the segments without their fitted heads, each on the
    samples that get there, nothing else timed. full_length, with --nobody-leaves, is the cascade with thresholds
    that no score reaches, every check run. stream, with --stream, is Cascade.stream over 16 batches or more.
    default is the whole model in ONNX Runtime as it comes, with nothing but the threads set; its waiting threads spin,
    so with --shared-pool, where those of everything else do, it is left out. What needs onnx is null where it is
    missing.

    Rivals run the same multi-exit model: eager and compiled in PyTorch, the graphs rewritten with batch
    normalisation already folded; if as one ONNX graph with nested If, written as torch.onnx.export does; if-local
    with each branch's weights inside the branch. They decide nothing: every sample leaves where the cascade let it
    leave. Where one is missing the document says why.

    Memory is that of a fresh process that opens the bundle, or the whole model, and runs the largest batch.

    Without --data the samples are the bundle's golden ones, repeated so that the exits are taken as often as on
    the calibration split, as far as the golden samples reach. Every round runs the same samples in the same
    order: a pool of 128, or one batch if that is more.
    """
    if shared_pool and len(counts) > 1:
        raise click.UsageError("--shared-pool takes one number of threads, since a process has one pool")
    installed = installed_rivals()
    names = choose_rivals(words, installed)
    opened = Bundle.open(bundle)
    rows: list[tuple[Row, Any]] = []
    missing: dict[str, str] = {}
    with progress("timing", len(sizes) * len(counts)) as advance:
        for threads in counts:
            rivals = open_rivals(names, opened, threads, installed)
            missing |= rivals.missing
            contenders = line_up(
                opened,
                rivals,
                threads=threads,
                whole=whole,
                profile=profile,
                full_length=full_length,
                stream_wait_ms=stream_wait_ms,
                shared_pool=shared_pool,
            )
            samples = choose_pool(opened, contenders.cascade, data, max(POOL_SAMPLES, *sizes))
            for size in sizes:
                pool, shares = samples.pool(max(POOL_SAMPLES // size, 1) * size)
                rows.append((bench_batch(contenders, pool, batch=size, threads=threads, seconds=seconds), shares))
                advance(1)
    document = {
        "bundle": bundle,
        "machine": describe_machine(),
        "full_from": "file" if whole else "merged segments" if contenders.whole else None,
        "chain_includes_heads": not onnx_is_here(),
        "samples_from": "golden samples" if data is None else "data",
        "rivals_missing": missing,
        "stream_wait_ms": stream_wait_ms,
        "shared_pool": shared_pool,
        "memory": _memory(bundle, contenders.whole, samples.pool(max(sizes))[0], counts[-1]) if memory else None,
        "rows": [{**row.document(names), "exit_shares": shares} for row, shares in rows],
    }
    if as_json:
        emit_json(document)
    else:
        _show(document, [row for row, _ in rows])


def _memory(bundle: str, whole: Whole | None, batch: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Memory of both in processes of their own, at one batch."""
    say("measuring memory")
    found = {"cascade": measure_memory("cascade", bundle, batch, threads)}
    found["whole"] = None
    if whole is not None:
        feeds = {**whole.feeds(batch), **whole.constants}
        found["whole"] = measure_memory("whole", whole.source, feeds, threads)
    length = len(next(iter(batch.values())))
    return {"batch": length, **{name: None if one is None else asdict(one) for name, one in found.items()}}


def _show(document: dict[str, Any], rows: list[Row]) -> None:
    figures: dict[str, list[float | None]] = {
        "whole ms": [row.full_ms for row in rows],
        "as it comes ms": [row.default_ms for row in rows],
        "chain ms": [row.chain_ms for row in rows],
        "cascade ms": [row.cascade_ms for row in rows],
        "ideal ms": [row.ideal_ms for row in rows],
        "chain/whole": [row.chain_over_full for row in rows],
        "cascade/whole": [row.cascade_over_full for row in rows],
        "ideal/cascade": [row.realised_over_ideal for row in rows],
        "nobody leaves/whole": [row.full_length_over_full for row in rows],
        "stream/whole": [row.stream_over_full for row in rows],
    }
    machine = document["machine"]["cpu"]
    _table(f"{machine}; ms per batch", rows, figures)
    names = dict.fromkeys(name for row in rows for name in row.rivals_ms)
    rivals = {f"{name} ms": [row.rivals_ms.get(name) for row in rows] for name in names}
    rivals |= {f"{name}/cascade": [row.rivals_over_cascade.get(name) for row in rows] for name in names}
    if names:
        _table("the same exits run in other ways; ms per batch", rows, rivals)
    for name, memory in (document["memory"] or {}).items():
        if isinstance(memory, dict):
            resident, peak = (memory[key] / 1e6 for key in ("resident_bytes", "peak_bytes"))
            print(f"memory of the {name}: {resident:.0f} MB open, {peak:.0f} MB after {document['memory']['batch']}")
    missing: dict[str, str] = document["rivals_missing"]
    for reason in dict.fromkeys(missing.values()):
        print(f"without {', '.join(name for name in missing if missing[name] == reason)}: {reason}")
    if document["chain_includes_heads"]:
        print("without onnx: the chain runs its heads, and there is no ideal; pip install onnx")


def _table(title: str, rows: list[Row], figures: Mapping[str, list[float | None]]) -> None:
    """Print the columns that hold anything."""
    shown = {name: values for name, values in figures.items() if any(value is not None for value in values)}
    table = [
        (str(row.batch), str(row.threads), *(None if v[i] is None else f"{v[i]:.3f}" for v in shown.values()))
        for i, row in enumerate(rows)
    ]
    print_table(["batch", "threads", *shown], table, title=title)
