"""`edgeexit drift`: do new samples still leave where, and as surely as, the calibration split did?"""

from __future__ import annotations

from dataclasses import asdict

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, print_table, progress
from edgeexit.data import open_files
from edgeexit.drift import LEVEL, DriftMonitor, DriftReport
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.living.watching import watch

__all__ = ["EXIT_DRIFTING", "drift"]

EXIT_DRIFTING = 7

EXAMPLES = """\b
Examples:
  edgeexit drift model.eexit --data today
  edgeexit drift model.eexit --data today.npz --audit 0.2 --json
  edgeexit drift model.eexit --data today --fail || mail -s drift me@example.org
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option(
    "--data", required=True, multiple=True, type=click.Path(), help="Pictures, folders or an .npz; may be repeated."
)
@click.option(
    "--audit",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the samples to run to the end.",
)
@click.option(
    "--level",
    default=LEVEL,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The chance of a false alarm.",
)
@click.option("--fail", is_flag=True, help=f"End with exit code {EXIT_DRIFTING} where samples have drifted.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1), help="Samples per run.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0), help="Draws the samples to run to the end."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def drift(
    bundle: str,
    data: tuple[str, ...],
    audit: float,
    level: float,
    fail: bool,
    batch: int,
    threads: int,
    seed: int,
    as_json: bool,
) -> int:
    """Compare new samples with the calibration split of BUNDLE. They need no labels.

    Compared are the share of the samples that leave at each exit, the scores with which they leave,
    and, for a random part that is run to the end, how often the whole model gives the same answer.
    The verdict is "drifting" if any of these differs more than chance explains. For samples like those
    of the calibration split, drawn independently, that happens with a probability of at most LEVEL, all
    tests together. Neighbouring pictures of a film are not independent.

    The more samples, the smaller the changes that are found: the tables say how large they are.
    """
    opened = Bundle.open(bundle)
    monitor = DriftMonitor(opened.manifest.calibration.drift, [e.name for e in opened.manifest.exits], level=level)
    cascade = Cascade.open(opened, threads=threads)
    dataset = open_files(data, opened.manifest.inputs, opened.manifest.preprocessing)
    with progress("watching", len(dataset)) as advance:
        watch(monitor, cascade, dataset, share=audit, seed=seed, batch=batch, advance=advance)
    report = monitor.report()
    if as_json:
        emit_json({"bundle": bundle, **asdict(report)})
    else:
        _show(report)
    return EXIT_DRIFTING if fail and report.verdict == "drifting" else 0


def _show(report: DriftReport) -> None:
    rows = [
        (
            entry.name,
            _percent(entry.share),
            _percent(entry.expected_share),
            None if entry.stability is None else f"{entry.stability:.3f}",
            _p_value(entry.p_value),
        )
        for entry in report.exits
    ]
    columns = ("exit", "share", "was", "change of scores", "p")
    print_table(columns, rows, title=f"{report.samples} samples, against {report.expected_samples} for calibration")
    print(f"shares: p = {_p_value(report.shares_p_value) or 'too few samples'}")
    found = report.audit
    if found.agreement is not None:
        print(
            f"agreement with the whole model on {found.samples} samples: {found.agreement:.1%} "
            f"({found.low:.1%} to {found.high:.1%}), was {found.expected_agreement:.1%}; p = {_p_value(found.p_value)}"
        )
    for reason in report.reasons:
        print(f"  {reason}")
    print(f"{report.verdict} (a p below {report.test_level:.2g} is drift)")


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _p_value(p: float | None) -> str | None:
    return None if p is None else f"{p:.2g}"
