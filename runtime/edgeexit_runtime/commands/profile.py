"""`edgeexit profile`: what each segment and exit of a bundle costs on this device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, print_table, progress, say
from edgeexit.profiles import Profile, check_profile_path, write_profile
from edgeexit.targets import load_target
from edgeexit_runtime import profiling
from edgeexit_runtime.backends import load_backend
from edgeexit_runtime.commands.backends import backend_option
from edgeexit_runtime.energy import find_meter
from edgeexit_runtime.evaluation import choose_samples
from edgeexit_runtime.gathering import open_for
from edgeexit_runtime.settings import session_settings

__all__ = ["profile"]

EXAMPLES = """\b
Examples:
  edgeexit profile model.eexit -o model.profile.json
  edgeexit profile model.eexit --target raspberry-pi-5 --batch 1,4,16 --seconds 60 -o pi.profile.json
  edgeexit tune model.eexit --data calibration --budget 3 --unit ms --profile model.profile.json -o quick.eexit
"""

MAX_BATCH = 65536


def _sizes(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    words = [word.strip() for word in value.split(",")]
    if not all(word.isascii() and word.isdecimal() and 0 < int(word[:9]) <= MAX_BATCH for word in words):
        raise click.BadParameter(f"{value!r} is not a list of batch sizes such as 1,8,64", context, option)
    return tuple(sorted({1, *map(int, words)}))


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--data", type=click.Path(), help="Samples to run; the bundle's golden ones when left out.")
@click.option(
    "--batch",
    "sizes",
    default="1,2,4,8,16,32,64,128",
    show_default=True,
    callback=_sizes,
    help="Batch sizes to measure; 1 always is.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads per operator.  [default: the target's, else 1]")
@click.option("--target", help="A known device or a .toml file; its settings are used.")
@backend_option
@click.option(
    "--seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0, 86400),
    help="Time to spend; five rounds are run in any case. Energy takes half as long again.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as one JSON document.")
def profile(
    bundle: str,
    data: str | None,
    sizes: tuple[int, ...],
    threads: int | None,
    target: str | None,
    backend: str,
    seconds: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure what each segment, check and exit of BUNDLE costs on this device.

    All figures are medians over rounds; a round takes every batch size in turn, with and without the exits'
    checks. For each segment: run is the segment with its exit's check, check is what of that the check takes,
    decide is the policy's decision, and compact is keeping that many scattered samples of what crosses behind it.
    For each exit: the time of one sample from the start to its answer there, and its energy where the device
    tells that.

    The file that -o writes is read by edgeexit tune --unit ms and by Cascade.open(profile=…). It is good for
    this device, backend and number of threads, and for every bundle with these segments, so also after tune or
    update.
    """
    if output is not None:
        check_profile_path(output)
    device = None if target is None else load_target(target)
    opened = Bundle.open(bundle)
    engine = load_backend(backend)
    settings, name = session_settings(device, threads), None if device is None else device.name
    subject = profiling.opened_subject(opened, engine, settings, largest=max(sizes), target=name)
    samples = _samples(opened, data, max(sizes))
    meter, note = find_meter()
    if meter is not None:
        say(f"energy: {note}")
    with progress("measuring", 100) as advance:
        measured = profiling.profile(
            subject, samples, sizes, seconds=seconds, meter=meter, energy_note=note, advance=advance
        )
    if output is not None:
        write_profile(output, measured)
    if as_json:
        emit_json(msgspec.to_builtins(measured))
    else:
        _show(measured)
        if output is not None:
            print(f"written to {output}")


def _samples(bundle: Bundle, data: str | None, count: int) -> Mapping[str, NDArray[Any]]:
    manifest = bundle.manifest
    if data is None:
        return {spec.name: bundle.check[f"input.{spec.name}"] for spec in manifest.inputs}
    dataset = open_for(manifest, data, "model")  # no labels are needed
    chosen = choose_samples(dataset, count)
    return next(dataset.batches(len(chosen), chosen))


def _show(measured: Profile) -> None:
    batches = measured.batches
    print(f"{measured.machine.cpu}, {measured.backend}, threads: {measured.threads}\n")
    columns = ["segment to exit", *(f"batch {n}" for n in batches)]
    rows = [(entry.name, *_per_sample(entry.run_ms, batches)) for entry in measured.segments]
    print_table(columns, rows, title="µs per sample, check included")
    print()
    energy = measured.energy_mj or [None] * len(measured.segments)
    table = [
        (
            entry.name,
            f"{exit_ms:.3f}",
            None if entry.check_ms is None else f"{1e3 * entry.check_ms[0]:.1f}",
            f"{1e3 * entry.decide_ms[0]:.1f}",
            None if energy_mj is None else f"{energy_mj:.3g}",
        )
        for entry, exit_ms, energy_mj in zip(measured.segments, measured.exits_ms, energy, strict=True)
    ]
    columns = ["exit", "ms until it answers", "check µs", "decision µs", "mJ until it answers"]
    print_table(columns, table, title="one sample")
    if measured.energy_mj is None:
        print(f"\nno energy: {measured.energy_note}")


def _per_sample(times_ms: Sequence[float], batches: Sequence[int]) -> list[str]:
    return [f"{1e3 * ms / n:.1f}" for ms, n in zip(times_ms, batches, strict=True)]
