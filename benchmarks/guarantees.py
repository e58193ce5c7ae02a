"""Is a guaranteed loss kept as often as stated, and what does the guarantee cost?

Splits the samples of a pool at random into a calibration and a test half, 200 times, certifies thresholds on
one (loss ≤ ε with probability 1 − δ) and measures them on the other and on the whole pool, with labels and with
the whole model's answers in their place. Besides, on the same halves: the guarantee for the long run alone, the
same ladder tested with a p-value for bounded losses (betting), and thresholds with no guarantee.
Writes `benchmarks/results/guarantees.json`.

    python benchmarks/guarantees.py resnet56-gaussian=BUNDLE --data DATA/test
    python benchmarks/guarantees.py resnet56-gaussian --logits FILE

DATA are samples that neither the model nor its exits were fitted on. FILE is an .npz with `logits` (exits, samples,
classes), `labels` (samples) and `costs` (exits), as `--keep FILE` writes it.

Of each kind the document has the share of draws in which more than ε was lost on the other half and on the pool,
and the mean cost on the other half. Two halves of one pool are as far apart as two independent draws of that
size: what one loses more than the pool, the other loses less. The guarantee for the long run allows for the first
of these deviations only, the one for a horizon for both.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.cached import CachedLogits
from edgeexit.console import progress
from edgeexit.errors import UnreachableError
from edgeexit.guarantees import LADDER_SHARE, certify
from edgeexit.guarantees.ladder import build_ladder
from edgeexit.policies import PLAIN
from edgeexit.thresholds import Material, MaxDrop, exits_taken, fit_thresholds, measure
from edgeexit.tuning import fit_as_stored, material
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.gathering import gather, open_for
from edgeexit_runtime.machine import describe_machine

RUNGS = 200
ROUNDING = 1e-12

Fit = Callable[[Material, NDArray[np.int64]], NDArray[np.float64]]
"""Thresholds from the calibration half and the rows of it that chose policy and ladder."""


@click.command()
@click.argument("name")
@click.option("--data", type=click.Path(exists=True), help="With NAME=BUNDLE: the pool.")
@click.option("--logits", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Instead of a bundle.")
@click.option("--keep", type=click.Path(path_type=Path), help="Write the logits of the pool.")
@click.option("--policy", default="max-probability", show_default=True)
@click.option("--draws", default=200, show_default=True)
@click.option("--epsilon", default=0.01, show_default=True)
@click.option("--delta", default=0.1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "guarantees.json")
def main(
    name: str,
    data: str | None,
    logits: Path | None,
    keep: Path | None,
    policy: str,
    draws: int,
    epsilon: float,
    delta: float,
    out: Path,
) -> None:
    """Draw, certify, measure, write one JSON document, and print a table in Markdown."""
    name, _, bundle = name.partition("=")
    pool, costs = cached(bundle, data, logits)
    if keep:
        np.savez(keep, logits=np.stack(pool.logits), labels=pool.labels, costs=costs)
    document: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    document["machine"] = describe_machine()
    result = {
        "policy": policy,
        "epsilon": epsilon,
        "delta": delta,
        "draws": draws,
        "allowed": delta + 3 * math.sqrt(delta * (1 - delta) / draws),
        "samples": {"pool": pool.samples, "calibration": pool.samples // 2},
        "rows": [],
    }
    for labels in ("data", "model"):
        right = pool if labels == "data" else pool.labelled_by_the_model()
        result["rows"] += [{"labels": labels, **row} for row in examine(right, costs, policy, draws, epsilon, delta)]
    document.setdefault("pools", {})[name] = result
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(markdown(name, result))


def cached(bundle: str, data: str | None, logits: Path | None) -> tuple[CachedLogits, NDArray[np.float64]]:
    """The pool's logits and labels, and the exits' costs as shares of the whole model's MACs."""
    if logits is not None:
        with np.load(logits, allow_pickle=False) as arrays:
            pool = CachedLogits(tuple(arrays["logits"]), arrays["labels"].astype(np.int64))
            costs = arrays["costs"].astype(np.float64)
    elif bundle and data:
        opened = Bundle.open(bundle)
        costs = np.array([entry.cost for entry in opened.manifest.exits])
        dataset = open_for(opened.manifest, data, "data")
        with progress("running all exits", len(dataset)) as advance:
            pool = gather(Cascade.open(opened), dataset, advance=advance)
    else:
        raise click.UsageError("give NAME=BUNDLE with --data, or NAME with --logits")
    pool.check()
    return pool, costs


def examine(
    pool: CachedLogits, costs: NDArray[np.float64], policy: str, draws: int, epsilon: float, delta: float
) -> list[dict[str, Any]]:
    """One row for each way to thresholds."""

    def certified(horizon: float | None) -> Fit:
        return lambda found, rows: (
            certify(found, epsilon=epsilon, delta=delta, horizon=horizon, ladder_rows=rows).thresholds
        )

    ways: dict[str, Fit] = {
        "guaranteed on as many samples more": certified(None),
        "guaranteed in the long run": certified(math.inf),
        "guaranteed in the long run, by betting": lambda found, rows: by_betting(found, rows, epsilon, delta),
        "no guarantee, joint": lambda found, _: fit_thresholds("joint", found, MaxDrop(epsilon)),
        "no guarantee, risk": lambda found, _: fit_thresholds("risk", found, MaxDrop(epsilon)),
    }
    results: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    refused = dict.fromkeys(ways, 0)
    with progress("drawing", draws) as advance:
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(pool.samples)
            seen, other = np.split(order, [pool.samples // 2])
            chosen = seen[: round(LADDER_SHARE * len(seen))]
            part = pool.rows(chosen)
            everything = material(
                fit_as_stored(policy, part.logits, part.labels, PLAIN), pool.logits, pool.labels, costs
            )
            for way, fit in ways.items():
                try:
                    thresholds = fit(everything.rows(seen), np.arange(len(chosen)))
                except UnreachableError:
                    refused[way] += 1
                    continue
                there = measure(everything.rows(other), thresholds)
                results[way].append((there.loss, measure(everything, thresholds).loss, there.mean_cost))
            advance(1)
    return [row(way, results[way], refused[way], epsilon) for way in ways]


def row(way: str, results: list[tuple[float, float, float]], refused: int, epsilon: float) -> dict[str, Any]:
    """What a way to thresholds led to; a refusal breaks nothing, and is counted."""
    draws = len(results) + refused
    if not results:
        return {"thresholds": way, "refused": refused}
    other, pool, cost = np.asarray(results).T
    return {
        "thresholds": way,
        "broken_on_the_other_half": float((other > epsilon + ROUNDING).sum() / draws),
        "broken_on_the_pool": float((pool > epsilon + ROUNDING).sum() / draws),
        "mean_loss": float(other.mean()),
        "mean_cost": float(cost.mean()),
        "refused": refused,
    }


def by_betting(found: Material, rows: NDArray[np.int64], epsilon: float, delta: float) -> NDArray[np.float64]:
    """Thresholds from the same ladder, tested by betting (Waudby-Smith and Ramdas 2024; Bates et al. 2021)."""
    testing = found.rows(np.setdiff1d(np.arange(found.samples), rows))
    ladder = build_ladder(found.rows(rows), epsilon, RUNGS)
    last = ladder[0]
    for thresholds in ladder:
        right = testing.correct[exits_taken(testing.score, thresholds), np.arange(testing.samples)]
        loss = testing.reference.astype(np.float64) - right
        if betting_p_value(loss, epsilon, delta, least=0.0 if testing.reference.all() else -1.0) > delta:
            break
        last = thresholds
    return last


def betting_p_value(loss: NDArray[np.float64], epsilon: float, delta: float, *, least: float) -> float:
    """For a mean loss above ε: 1 over the largest capital of a bettor who bets against it."""
    value = (loss - least) / (1 - least)
    limit = (epsilon - least) / (1 - least)
    count = np.arange(1, len(value) + 1)
    mean = (0.5 + np.cumsum(value)) / (1 + count)
    variance = (0.25 + np.cumsum((value - mean) ** 2)) / (1 + count)
    before = np.concatenate([[0.25], variance[:-1]])
    bet = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (len(value) * before)))
    capital = np.cumsum(np.log1p(-bet * (value - limit)))
    return float(min(1.0, math.exp(-max(0.0, float(capital.max())))))


def markdown(name: str, result: dict[str, Any]) -> str:
    """A table."""
    lines = [
        f"## {name}, {result['policy']}: loss ≤ {result['epsilon']:g} with probability {1 - result['delta']:g}, "
        f"{result['draws']} draws of {result['samples']['calibration']}; allowed {100 * result['allowed']:.1f} %",
        "",
        "| right is what | thresholds | broken on the other half | on the pool | mean loss | mean cost | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in result["rows"]:
        said = "the labels say" if each["labels"] == "data" else "the whole model says"
        if "mean_cost" not in each:
            lines.append(f"| {said} | {each['thresholds']} | – | – | – | – | {each['refused']} |")
            continue
        lines.append(
            f"| {said} | {each['thresholds']} | {100 * each['broken_on_the_other_half']:.1f} % | "
            f"{100 * each['broken_on_the_pool']:.1f} % | {each['mean_loss']:.4f} | {each['mean_cost']:.3f} | "
            f"{each['refused']} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
