"""A siege of a server that serves BUNDLE: `PYTHONPATH=tests python -m hostile BUNDLE --requests 100000`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgeexit.console import emit_json
from hostile.attackers import WEIGHTS
from hostile.siege import Outcome, siege


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--requests", default=100_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--attackers", default=6, show_default=True)
@click.option("--good", default=2, show_default=True, help="Good clients of each protocol.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(WEIGHTS)), help="Only such attacks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    bundle: Path, requests: int, seed: int, attackers: int, good: int, kinds: tuple[str, ...], as_json: bool
) -> None:
    """Attack, watch, and say what came of it; the exit code is 1 where something should not be."""
    outcome = siege(bundle, requests, seed=seed, attackers=attackers, good=good, kinds=kinds or tuple(WEIGHTS))
    if as_json:
        emit_json({**asdict(outcome), "per_second": requests / outcome.seconds})
    else:
        click.echo("\n".join(_told(outcome)))
    raise SystemExit(bool(outcome.found or outcome.log or outcome.failures or outcome.exit_code))


def _told(outcome: Outcome) -> list[str]:
    lines = [f"{outcome.requests} attacks in {outcome.seconds:.0f} s, {outcome.found} findings"]
    for kind, statuses in outcome.answers.items():
        lines.append(f"  {kind:18}" + "  ".join(f"{status} {count}" for status, count in statuses.items()))
    median, most, worst = outcome.good_ms
    lines.append(f"good requests: {outcome.good}, {median:.1f} ms, 99th {most:.1f}, at most {worst:.1f}")
    lines += [f"{when}: {found}" for when, found in outcome.resources.items()]
    lines.append(f"exit code {outcome.exit_code} after {outcome.stop_s:.1f} s; {len(outcome.log)} stray lines of log")
    return [*lines, *outcome.findings[:20], *outcome.log[:20], *outcome.failures[:5]]


if __name__ == "__main__":
    main()
