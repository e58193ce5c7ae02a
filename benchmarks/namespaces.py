"""Do a device, a gateway and a server with slow links between them answer as one process does?

Three network namespaces, links of 10 and 100 Mbit/s. The device runs segments up to UPTO, the gateway up to FURTHER,
the server the rest, on every picture of DATA; once with tensors as they are, once rounded as `edgeexit run` chooses.
Counted are answers that are missing, given twice or degraded, and labels or exits other than those of one process.

    python benchmarks/namespaces.py resnet56=R56:2:4 resnet20=R20:1:2 --data CIFAR/test --samples 5000

It takes root, and `ip` and `tc`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from links import UP, Node, chain, why_not

from edgeexit.bundle import Bundle
from edgeexit.data import open_files
from edgeexit_runtime.machine import describe_machine

EDGEEXIT = (sys.executable, "-m", "edgeexit")
PRECISIONS = ("fp32", "auto")
Row = dict[str, Any]


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE:UPTO:FURTHER...")
@click.option("--data", required=True, type=click.Path(exists=True), help="Pictures.")
@click.option("--samples", default=5000, show_default=True, help="The first pictures of each class, as many in all.")
@click.option("--mbit", default="10,100", show_default=True, help="Bandwidths, Mbit/s: to the gateway, to the server.")
@click.option("--deadline-ms", default=5000.0, show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "namespaces.json")
def main(
    bundles: tuple[str, ...], data: str, samples: int, mbit: str, deadline_ms: float, batch: int, out: Path
) -> None:
    """Run both precisions of each bundle, and write one JSON document."""
    if reason := why_not():
        raise click.ClickException(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up then too
    rates = [float(word) for word in mbit.split(",")]
    options = {"mbit_s": rates, "deadline_ms": deadline_ms, "batch": batch}
    document: Row = {"machine": describe_machine(), **options, "bundles": {}}
    for name, _, rest in (pair.partition("=") for pair in bundles):
        path, upto, further = rest.rsplit(":", 2)
        with tempfile.TemporaryDirectory() as folder:
            files = linked(path, data, samples, Path(folder))
            expected = {line["input"]: line for line in run([], path, files, "--batch", batch)}
            document["bundles"][name] = {
                precision: compared(
                    expected,
                    *in_namespaces(path, files, rates, (upto, further), precision, batch, deadline_ms),
                )
                for precision in PRECISIONS
            }
        print(json.dumps(document["bundles"][name]), file=sys.stderr)
        out.write_text(json.dumps(document, indent=1) + "\n")


def linked(path: str, data: str, samples: int, folder: Path) -> Path:
    """A folder with links to pictures, evenly spread over the data."""
    manifest = Bundle.open(path).manifest
    names = open_files([data], manifest.inputs, manifest.preprocessing).names
    for i in range(samples):
        picture = Path(names[i * len(names) // samples]).resolve()
        (folder / f"{i:06}{picture.suffix}").symlink_to(picture)
    return folder


def in_namespaces(
    path: str,
    files: Path,
    rates: Sequence[float],
    cuts: tuple[str, str],
    precision: str,
    batch: int,
    deadline_ms: float,
) -> tuple[list[Row], Row]:
    """The lines that the device prints, and what crossed the links."""
    words: list[object] = ["--upto", cuts[0], "--deadline-ms", deadline_ms, "--batch", batch]
    words += ["--payload-precision", precision]
    between = ("--from", cuts[0], "--upto", cuts[1], "--name", "gateway")
    with (
        chain(rates) as (device, gateway, server),
        serving(server, path, "--from", cuts[1]) as further,
        serving(gateway, path, *between, "--upstream", further, "--upstream-payload-precision", precision) as url,
    ):
        start_s = time.perf_counter()
        lines = run(device.command(), path, files, *words, "--offload", url)
        took_s = time.perf_counter() - start_s
        crossed = {node: end.counters(UP).sent_bytes for node, end in (("device", device), ("gateway", gateway))}
    return lines, {"seconds": took_s, "sent_bytes": crossed}


@contextmanager
def serving(node: Node, path: str, *options: object) -> Iterator[str]:
    """`edgeexit serve` in a namespace; its URL."""
    line = node.command(*EDGEEXIT, "serve", path, "--listen", f"{node.address}:0", "--insecure", "--json", *options)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"grpc://{json.loads(process.stdout.readline())['listening']}"
        finally:
            process.terminate()


def run(before: Sequence[str], path: str, files: Path, *options: object) -> list[Row]:
    """The lines of `edgeexit run`."""
    line = [*before, *EDGEEXIT, "run", path, str(files), *map(str, options)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(text) for text in done.stdout.splitlines()]


def compared(expected: dict[str, Row], lines: Sequence[Row], costs: Row) -> Row:
    """What the tiers answered, held against one process."""
    found = {line["input"]: line for line in lines}
    both = [(found[name], one) for name, one in expected.items() if name in found]
    return {
        "samples": len(expected),
        "lost": len(expected) - len(both),
        "twice": len(lines) - len(found),
        "degraded": sum(line["degraded"] for line in lines),
        "reasons": dict(Counter(line["reason"] for line in lines if line["degraded"])),
        "other_label": sum(there["label"] != here["label"] for there, here in both),
        "other_exit": sum(there["exit"] != here["exit"] for there, here in both),
        "tiers": dict(Counter(line["tier"] for line in lines)),
        **costs,
    }


if __name__ == "__main__":
    main()
