"""What does the check at an exit take, in multiply-accumulates that take as long?

Times, in one interleaved run of single samples, each bundle's chain without heads and the cascade at whose exits
nobody leaves, under several policies. The difference, over the number of checks, is what one check takes: the
head's small operators, one more output of the graph, and the policy's word. `edgeexit export` charges each check
with `edgeexit_exporters.selection.CHECK_MACS` when it chooses exits.

    python benchmarks/checks.py resnet20=R20 resnet56=R56 mobilenet=MOBILENET

Every figure is the median of the rounds'.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.policies import AUTO, policy_kind
from edgeexit_exporters.selection import CHECK_MACS
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.contenders import bare_chain
from edgeexit_runtime.machine import describe_machine
from edgeexit_runtime.whole import merged_whole

ROUNDS, AGAIN = 60, 16


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="NAME=BUNDLE...")
@click.option("--threads", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "checks.json")
def main(bundles: tuple[str, ...], threads: int, out: Path) -> None:
    """Time the checks of each bundle and write one JSON document."""
    rows = [
        row
        for name, _, path in (pair.partition("=") for pair in bundles)
        for row in checks(name, Bundle.open(path), threads)
    ]
    document = {"machine": describe_machine(), "charged_macs": CHECK_MACS, "rows": rows}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


def checks(name: str, bundle: Bundle, threads: int) -> list[dict[str, Any]]:
    """One row a policy."""
    print(name, file=sys.stderr)
    manifest, settings = bundle.manifest, SessionSettings(threads=threads)
    whole = merged_whole(bundle, settings)
    if whole is None:
        raise SystemExit("the whole model is merged with onnx, which is not installed")
    samples = {spec.name: bundle.check[f"input.{spec.name}"] for spec in manifest.inputs}
    cascade = Cascade.open(bundle, threads=threads)
    contenders: dict[str, Callable[[Mapping[str, NDArray[Any]]], object]] = {
        "whole": whole,
        "chain": bare_chain(bundle, settings),
    }
    logits = list(cascade.logits(samples))
    for policy in AUTO:
        fitted = policy_kind(policy).fit(logits, logits[-1].argmax(axis=1))
        contenders[policy] = cascade.with_policy(fitted).run
    feeds = [
        {key: np.ascontiguousarray(x[i : i + 1]) for key, x in samples.items()}
        for i in range(len(next(iter(samples.values()))))
    ]
    times = interleaved(contenders, feeds)
    count = cascade.exits - 1
    rows = []
    for policy in AUTO:
        check_s = (times[policy] - times["chain"]) / count
        rows.append(
            {
                "model": name,
                "threads": threads,
                "policy": policy,
                "checks": count,
                "macs": manifest.macs,
                "whole_ms": 1e3 * float(np.median(times["whole"])),
                "check_us": 1e6 * float(np.median(check_s)),
                "check_over_whole": float(np.median(check_s / times["whole"])),
                "check_macs": float(np.median(check_s / times["whole"])) * manifest.macs,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def interleaved(
    contenders: Mapping[str, Callable[[Mapping[str, NDArray[Any]]], object]], feeds: list[dict[str, NDArray[Any]]]
) -> dict[str, NDArray[np.float64]]:
    """Seconds a sample, (rounds,). Each contender has its turn of many runs, with its weights in the cache."""
    found = {key: np.zeros(ROUNDS) for key in contenders}
    for i in range(ROUNDS):
        for key, contender in contenders.items():
            for feed in feeds:
                contender(feed)
            start = time.perf_counter()
            for _ in range(AGAIN // len(feeds) + 1):
                for feed in feeds:
                    contender(feed)
            found[key][i] = (time.perf_counter() - start) / (AGAIN // len(feeds) + 1) / len(feeds)
    return found


if __name__ == "__main__":
    main()
