"""How fast are cascades, at every batch size, and against what else could be run?

Times each bundle with `edgeexit bench`'s own contenders at batches of 1, 2, 4 … 128 with one and two threads:
the whole model, the chain with no exit, the cascade, the cascade that nobody leaves early, the ideal, the stream;
and at batch 1 the rivals: the same graphs in PyTorch, the graph with nested `If`, and, for the networks of
`benchmarks/networks.py`, the multi-exit network that one writes by hand in PyTorch with batch normalisation as it
is. Writes `benchmarks/results/speed.json` after every row; rows that are there already are not timed again.

    python benchmarks/models.py --data DATA --out OUT --resnet56 WEIGHTS
    python benchmarks/speed.py resnet56=OUT/resnet56 resnet18=OUT/resnet18 mobilenet=OUT/mobilenet

Then it prints what was asked for, what came out, and whether that is enough. A limit is for the class of a
network: depthwise ones, whose NAME begins with "mobilenet", may cost more where they are cut.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from edgeexit.bundle import Bundle
from edgeexit_runtime.bench import POOL_SAMPLES, Contenders, bench_batch
from edgeexit_runtime.lineup import choose_pool, line_up
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.memory import measure_memory
from edgeexit_runtime.rivals import Rival, choose_rivals, installed_rivals, open_rivals

BATCHES = "1,2,4,8,16,32,64,128"
STREAM_BATCH = 64
Row = dict[str, Any]


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--batches", default=BATCHES, show_default=True)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="For each row; five rounds in any case.")
@click.option("--rivals", default="quick", show_default=True, help="As for edgeexit bench; at batch 1 only.")
@click.option("--stream-at", default=STREAM_BATCH, show_default=True, help="The batch at which the stream is timed.")
@click.option("--wait-ms", default=1000.0, show_default=True, help="How long samples may wait in the stream.")
@click.option("--shared-pool", is_flag=True, help="One pool of threads, as edgeexit run has it; for one of --threads.")
@click.option("--again", is_flag=True, help="Time rows anew that are there already.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "speed.json")
def main(
    bundles: tuple[str, ...],
    batches: str,
    threads: str,
    seconds: float,
    rivals: str,
    stream_at: int,
    wait_ms: float,
    shared_pool: bool,
    again: bool,
    out: Path,
) -> None:
    """Time what is not there yet, and print the table."""
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"bundles": {}}
    for word in bundles:
        name, _, path = word.partition("=")
        entry = document["bundles"].setdefault(name + (", shared pool" if shared_pool else ""), {"rows": []})
        for count in numbers(threads):
            done = {row["batch"] for row in entry["rows"] if row["threads"] == count and not again}
            sizes = [size for size in numbers(batches) if size not in done]
            if sizes:
                plan = Plan(count, sizes, seconds, rivals, stream_at, wait_ms, shared_pool)
                time_bundle(name, path, plan, entry, lambda: write(document, out))
    print_limits(document["bundles"])


def numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",")]


def write(document: dict[str, Any], out: Path) -> None:
    document["machine"] = describe_machine()
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


@dataclass(frozen=True)
class Plan:
    """What to time of a bundle."""

    threads: int
    sizes: Sequence[int]
    seconds: float
    rivals: str
    stream_at: int
    wait_ms: float
    shared_pool: bool


def time_bundle(name: str, path: str, plan: Plan, entry: Row, save: Callable[[], None]) -> None:
    """Time some batch sizes with one number of threads."""
    bundle = Bundle.open(path)
    names = choose_rivals(plan.rivals, installed_rivals())
    rivals = open_rivals(names, bundle, plan.threads)
    contenders = line_up(
        bundle,
        rivals,
        threads=plan.threads,
        full_length=True,
        stream_wait_ms=plan.wait_ms,
        shared_pool=plan.shared_pool,
    )
    by_hand = hand_written(name, bundle, plan.threads)
    samples = choose_pool(bundle, contenders.cascade, None, POOL_SAMPLES)
    entry["sources"] = [source.name for source in bundle.manifest.provenance.sources]
    entry["costs"] = [exit_entry.cost for exit_entry in bundle.manifest.exits]
    entry["rivals_missing"] = dict(rivals.missing)
    entry["stream_wait_ms"] = plan.wait_ms
    entry.setdefault("memory", {})[f"{plan.threads} threads"] = memory(
        path, contenders, samples.pool(max(plan.sizes))[0], plan.threads
    )
    for size in plan.sizes:
        pool, shares = samples.pool(max(POOL_SAMPLES // size, 1) * size)
        taking_part = replace(
            contenders,
            rivals={**contenders.rivals, **by_hand} if size == 1 else {},
            stream=contenders.stream if size == plan.stream_at else None,
        )
        row = bench_batch(taking_part, pool, batch=size, threads=plan.threads, seconds=plan.seconds)
        kept = [other for other in entry["rows"] if (other["threads"], other["batch"]) != (plan.threads, size)]
        made = row.document([*names, "handwritten"] if size == 1 else [])
        made |= {"exit_shares": shares.tolist(), "mean_cost": float(shares @ entry["costs"])}
        entry["rows"] = sorted([*kept, made], key=lambda other: (other["threads"], other["batch"]))
        save()
        print(f"{name}: batch {size}, {plan.threads} threads", file=sys.stderr, flush=True)


def memory(path: str, contenders: Contenders, pool: Any, threads: int) -> Row:
    """Memory of the cascade and of the whole model, each in a process of its own, at one batch."""
    found = {"cascade": measure_memory("cascade", path, pool, threads), "whole": None}
    if contenders.whole is not None:
        feeds = {**contenders.whole.feeds(pool), **contenders.whole.constants}
        found["whole"] = measure_memory("whole", contenders.whole.source, feeds, threads)
    batch = len(next(iter(pool.values())))
    return {"batch": batch, **{kind: None if one is None else asdict(one) for kind, one in found.items()}}


def hand_written(name: str, bundle: Bundle, threads: int) -> dict[str, Rival]:
    """The network of this name, with exits where the bundle has them; none for other bundles."""
    try:
        import torch
        from handwritten import HandWritten, MultiExit, cuts_at
        from networks import BUILDERS, SIZES, start
    except ImportError:
        return {}
    (spec, *others) = bundle.manifest.inputs
    if name not in BUILDERS or others or spec.shape != (*SIZES[name], 3):
        return {}
    torch.set_num_threads(threads)
    network = start(BUILDERS[name]())
    example = torch.zeros(1, 3, *SIZES[name])
    shares = [exit_entry.cost for exit_entry in bundle.manifest.exits[:-1]]
    return {"handwritten": HandWritten(MultiExit(network, cuts_at(network, example, shares), example), spec.name)}


def print_limits(bundles: dict[str, Any]) -> None:
    """What was asked for: the worst row of each kind, its limit, and whether it is met."""
    print("| bundle | figure | limit | worst | at | met |\n|---|---|---|---|---|---|")
    for name, entry in bundles.items():
        for figure, limit, found in limits(name, entry["rows"]):
            if not found:
                continue
            above = figure.startswith(("realised", "saving", "whole / stream")) or "/ cascade" in figure
            worst, where = min(found) if above else max(found)
            sign, met = ("≥", worst >= limit) if above else ("≤", worst <= limit)
            print(f"| {name} | {figure} | {sign} {limit:g} | {worst:.3f} | {where} | {'yes' if met else 'no'} |")


def limits(name: str, rows: Sequence[Row]) -> list[tuple[str, float, list[tuple[float, str]]]]:
    """(figure, limit, each row's value and place)."""
    depthwise = name.startswith("mobilenet")
    most, least_eager, least_if = (1.10, 4.0, 2.0) if depthwise else (1.03, 2.5, 1.1)
    single = [row for row in rows if row["batch"] == 1]

    def values(key: str, among: Sequence[Row] = rows) -> list[tuple[float, str]]:
        return [(row[key], place(row)) for row in among if row.get(key) is not None]

    saved = [
        ((1 - row["cascade_over_full"]) / (1 - row["mean_cost"]), place(row))
        for row in rows
        if row["cascade_over_full"] is not None and row["mean_cost"] < 1
    ]
    pooled = [(1 / value, where) for value, where in values("stream_over_full") if where.startswith(f"{STREAM_BATCH} ")]
    return [
        ("chain / whole", most, values("chain_over_full")),
        ("realised over ideal at batch 1", 0.95, values("realised_over_ideal", single)),
        ("nobody leaves / whole", most, values("full_length_over_full")),
        ("cascade / whole", 1.00, values("cascade_over_full")),
        ("cascade / whole as it comes", 1.00, values("cascade_over_default")),
        ("saving of time over saving of MACs", 0.90, saved),
        ("PyTorch by hand / cascade at batch 1", least_eager, values("handwritten_over_cascade", single)),
        ("PyTorch eager / cascade at batch 1", least_eager, values("eager_over_cascade", single)),
        ("torch.compile / cascade at batch 1", 1.0, values("compiled_over_cascade", single)),
        ("If / cascade at batch 1", least_if, values("if_over_cascade", single)),
        ("If with local weights / cascade at batch 1", least_if, values("if_local_over_cascade", single)),
        (f"whole / stream at batch {STREAM_BATCH}", 1.3, pooled),
    ]


def place(row: Row) -> str:
    return f"{row['batch']} × {row['threads']} threads"


if __name__ == "__main__":
    main()
