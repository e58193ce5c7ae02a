"""Many samples through a faulty way, the server killed and started again: `python -m faults BUNDLE PATH…`.

Prints one JSON document: what became of the samples, and how often each fault befell a chunk. The device is a process
of its own, so that neither the proxy nor the servers' coming and going takes its time.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import asdict
from pathlib import Path

import click

from edgeexit.console import emit_json
from faults.proxy import FaultProxy, Faults
from faults.stream import Stream
from faults.trial import Served

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
    over, started_s = threading.Event(), time.monotonic()
    lives = [Served(bundle, "--from", upto)]
    down_s = [0.0]

    def come_and_go() -> None:
        while kill_every and not over.wait(kill_every):
            lives[-1].kill()
            killed_s = time.monotonic()
            lives.append(Served(bundle, "--from", upto))
            proxy.target = lives[-1].address
            down_s.append(time.monotonic() - killed_s)

    with FaultProxy(lives[0].address, Faults(**dict.fromkeys(kinds, rate)), seed=seed) as proxy:
        killer = threading.Thread(target=come_and_go)
        killer.start()
        settings = {"upto": upto, "deadline_ms": deadline_ms, "finish": finish}
        stream = Stream(bundle, paths, distinct, samples, batch, pause_ms / 1e3, lives[0].through(proxy.address))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            outcome = pool.apply(stream.run, kwds=settings)
        over.set()
        killer.join()
        lives[-1].stop()
        found = {**asdict(outcome), "tiers": dict(outcome.tiers), "reasons": dict(outcome.reasons)}
        seconds = {"seconds": time.monotonic() - started_s, "without_server_s": sum(down_s)}
        emit_json({**found, "servers": len(lives), "faults": dict(proxy.counts), **seconds})


if __name__ == "__main__":
    main()
