"""Many samples through a faulty way, the server killed and started again: `python -m faults BUNDLE PATH…`.

Prints one JSON document: what became of the samples, and how often each fault befell a chunk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json
from edgeexit.data import open_files
from faults.proxy import FaultProxy, Faults
from faults.trial import Outcome, Served, expected_answers, trial

KINDS = ("delay", "drop", "reset", "black_hole", "truncate", "corrupt", "duplicate")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True)
@click.option("--upto", default=1, show_default=True)
@click.option("--samples", default=20_000, show_default=True)
@click.option("--distinct", default=1_000, show_default=True, help="How many of the samples differ.")
@click.option("--batch", default=1, show_default=True)
@click.option("--pause-ms", default=2.0, show_default=True, help="Before each batch.")
@click.option("--deadline-ms", default=200.0, show_default=True)
@click.option("--kill-every", default=0.0, show_default=True, help="Seconds; 0 lets the server live.")
@click.option("--finish", is_flag=True, help="Finish on the device what upstream did not answer.")
@click.option("--fault", "kinds", multiple=True, type=click.Choice(KINDS))
@click.option("--rate", default=0.01, show_default=True, help="How likely each fault is for a chunk.")
@click.option("--seed", default=0, show_default=True)
def main(
    bundle: Path,
    paths: tuple[str, ...],
    upto: int,
    samples: int,
    distinct: int,
    batch: int,
    pause_ms: float,
    deadline_ms: float,
    kill_every: float,
    finish: bool,
    kinds: tuple[str, ...],
    rate: float,
    seed: int,
) -> None:
    """Stream samples through a tier, and hold each answer against one cascade."""
    x = _samples(bundle, paths, distinct)
    expected = expected_answers(bundle, x, upto)
    over, outcome, started_s = threading.Event(), Outcome(), time.monotonic()
    lives = [Served(bundle, "--from", upto)]

    def batches() -> Iterator[Any]:
        for start in range(0, samples, batch):
            time.sleep(pause_ms / 1e3)
            yield x[np.arange(start, min(start + batch, samples)) % len(x)]

    def come_and_go() -> None:
        while kill_every and not over.wait(kill_every):
            lives[-1].kill()
            lives.append(Served(bundle, "--from", upto))
            proxy.target = lives[-1].address

    with FaultProxy(lives[0].address, Faults(**dict.fromkeys(kinds, rate)), seed=seed) as proxy:
        killer = threading.Thread(target=come_and_go)
        killer.start()
        url = lives[0].through(proxy.address)
        settings = {"upto": upto, "deadline_ms": deadline_ms, "finish": finish, "outcome": outcome}
        trial(bundle, url, batches(), expected, **settings)
        over.set()
        killer.join()
        lives[-1].stop()
        found = {**asdict(outcome), "tiers": dict(outcome.tiers), "reasons": dict(outcome.reasons)}
        emit_json(
            {**found, "servers": len(lives), "faults": dict(proxy.counts), "seconds": time.monotonic() - started_s}
        )


def _samples(bundle: Path, paths: tuple[str, ...], count: int) -> Any:
    manifest = Bundle.open(bundle).manifest
    dataset = open_files(paths, manifest.inputs, manifest.preprocessing)
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    (arrays,) = dataset.batches(len(chosen), chosen)
    return arrays[manifest.inputs[0].name]


if __name__ == "__main__":
    main()
