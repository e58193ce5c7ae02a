"""`edgeexit build`: build a bundle's TensorRT engines on the device that will run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, human_bytes, print_table, progress, say

if TYPE_CHECKING:
    from edgeexit_runtime.backends.tensorrt.backend import Built, TensorRTBackend

__all__ = ["OpenBackend", "build"]

OpenBackend = Callable[..., "TensorRTBackend"]
"""As `edgeexit_runtime.backends.tensorrt.opening.on_this_machine`."""

EXAMPLES = """\b
Examples:
  edgeexit build model.eexit
  edgeexit build model.eexit --batches 1,16 --workspace 512 --json
  EDGEEXIT_CACHE=/data/edgeexit edgeexit build model.eexit
"""


def _sizes(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    words = value.split(",")
    if not all(word.strip().isdecimal() and len(word) < 8 for word in words):
        raise click.BadParameter(f"{value!r} is not a list of batch sizes such as 1,8,64,128", context, option)
    return tuple(int(word) for word in words)


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="EDGEEXIT_CACHE",
    show_envvar=True,
    help="Where engines are kept; ~/.cache/edgeexit without it.",
)
@click.option(
    "--batches",
    callback=_sizes,
    metavar="N,N,...",
    help="The last batch size of each range that engines are tuned for; 1,8,64,128 without it.",
)
@click.option("--timing-cache", type=click.Path(dir_okay=False, path_type=Path), help="The builder's timings.")
@click.option(
    "--workspace", type=click.IntRange(1), metavar="MB", help="MiB that a layer may use; no limit without it."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def build(
    context: click.Context,
    bundle: str,
    cache: Path | None,
    batches: Sequence[int] | None,
    timing_cache: Path | None,
    workspace: int | None,
    as_json: bool,
) -> None:
    """Build BUNDLE's TensorRT engines on this device, each from its hashed graph, and keep them.

    An engine fits one TensorRT on one GPU, so bundles carry none. `edgeexit run --backend tensorrt` uses what
    was built here, and builds what is missing. Engines that no longer fit this machine are built again, and the
    result says what has changed. A file in the cache that this device and user did not write is never loaded:
    to load an engine is to run native code. Here it is replaced; everywhere else it ends with exit code 6.
    """
    from edgeexit_runtime.backends.tensorrt.monitor import PARTS
    from edgeexit_runtime.backends.tensorrt.opening import on_this_machine
    from edgeexit_runtime.backends.tensorrt.ranges import ranges_up_to

    ranges = None if batches is None else ranges_up_to(batches)
    opened = Bundle.open(bundle)
    open_backend: OpenBackend = context.obj or on_this_machine
    backend = open_backend(cache=cache, timings=timing_cache, ranges=ranges, workspace_mb=workspace)
    entries = opened.manifest.segments
    results = []
    with progress("building engines", PARTS * len(entries)) as advance:
        for k, entry in enumerate(entries):
            results.append(backend.build(opened.segment(k), entry, advance, replace_foreign=True))
    rows = [_row(entry.file.path, result) for entry, result in zip(entries, results, strict=True)]
    if as_json:
        emit_json({"bundle": bundle, "cache": backend.cache.folder, "machine": _machine(backend), "segments": rows})
    else:
        _show(rows, backend)


def _row(segment: str, built: Built) -> dict[str, Any]:
    return {
        "segment": segment,
        "engine": built.path.name,
        "size_bytes": len(built.found.engine),
        "batches": [str(batches) for batches in built.ranges],
        "built": built.built,
        "reasons": list(built.reasons),
        "build_s": built.build_s,
    }


def _machine(backend: TensorRTBackend) -> dict[str, str]:
    gpu = backend.gpu
    return {
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "driver": gpu.driver,
        "cuda": gpu.cuda,
        "tensorrt": backend.trt.__version__,
    }


def _show(rows: Sequence[dict[str, Any]], backend: TensorRTBackend) -> None:
    table = [
        (
            row["segment"],
            ", ".join(row["batches"]),
            human_bytes(row["size_bytes"]),
            f"{row['build_s']:.1f} s" if row["built"] else "was there",
        )
        for row in rows
    ]
    machine = _machine(backend)
    title = f"{machine['gpu']}, TensorRT {machine['tensorrt']}; engines in {backend.cache.folder}"
    print_table(("<segment", "<batches", "engine", "built in"), table, title=title)
    for row in rows:
        for reason in row["reasons"]:
            say(f"{row['segment']}: {reason}")
