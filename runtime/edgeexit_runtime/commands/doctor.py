"""`edgeexit doctor`: is this device what its target says, and ready?"""

from __future__ import annotations

from dataclasses import asdict

import click

from edgeexit.console import Coloured, emit_json, print_table
from edgeexit.errors import DeviceError
from edgeexit_runtime.doctor import Host, Report, Status, examine

__all__ = ["doctor"]

EXAMPLES = """\b
Examples:
  edgeexit doctor
  edgeexit doctor model.eexit --target raspberry-pi-5
  edgeexit doctor --target ./my-board.toml --json
"""

MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "red"),
}


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(), required=False)
@click.option("--target", help="A known device or a .toml file; guessed when left out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(bundle: str | None, target: str | None, as_json: bool) -> int:
    """Compare this machine with its target, and say what to fix.

    Looked at are the processor, its clock and what it may be used for; memory and swap, and the limits of a
    container; heat, supply and throttling; a Jetson's release and power mode; driver, TensorRT and the versions
    of what runs bundles; sensors for energy; and with BUNDLE whether it opens, fits into memory, and has the
    target's precision. Files are read and nothing is changed, and no vendor's library is loaded.

    A warning costs time, or makes timings hard to compare. A problem keeps bundles from running, or from running
    rightly, and ends with exit code 6.
    """
    report = examine(Host(), target=target, bundle=bundle)
    if as_json:
        emit_json({"bundle": bundle, "status": report.status, **asdict(report)})
    else:
        _show(report)
    return DeviceError.exit_code if report.status == "problem" else 0


def _show(report: Report) -> None:
    rows = [
        (Coloured(*MARKS[finding.status]), finding.check, finding.found, finding.expected)
        for finding in report.findings
    ]
    guessed = ", guessed" if report.guessed else ""
    title = f"against {report.target}{guessed}" if report.target else "against no target"
    print_table(("", "<what", "<found", "<expected"), rows, title=title)
    advice = [finding for finding in report.findings if finding.remedy is not None]
    if advice:
        print("\nwhat to do")
    for finding in advice:
        print(f"  {finding.check}: {finding.remedy}")
    problems, warnings = (
        sum(finding.status == status for finding in report.findings) for status in ("problem", "warning")
    )
    print(f"\n{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}")


def _counted(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
