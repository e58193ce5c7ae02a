"""The command `edgeexit`: finds its subcommands among the installed packages and reports errors.

Each package of EdgeExit offers its commands through the entry-point group `edgeexit.commands`
(name of the command = object that is a `click.Command`). A command's module is imported when the
command runs, and not for `edgeexit --help`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import click

from edgeexit import __version__
from edgeexit.console import say
from edgeexit.errors import EdgeExitError, MissingPartError
from edgeexit.interrupts import remember_interrupts

__all__ = ["KNOWN", "Commands", "KnownCommand", "group", "installed_commands", "main"]

ENTRY_POINT_GROUP = "edgeexit.commands"
TRACEBACK_VARIABLE = "EDGEEXIT_TRACEBACK"
EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130


class KnownCommand(NamedTuple):
    """A command of EdgeExit: its line in the help, and the package that brings it."""

    summary: str
    package: str


KNOWN = {
    "quickstart": KnownCommand("The whole way, once, on scikit-learn's digits.", "edgeexit-exporters[quickstart]"),
    "export": KnownCommand("Cut models at early exits, fit the exits and write a bundle.", "edgeexit-exporters"),
    "train": KnownCommand("Attach exits to a torch model and train them.", "edgeexit-exporters[train]"),
    "tune": KnownCommand("Fit when samples leave anew, to a budget or a loss.", "edgeexit-runtime"),
    "compare": KnownCommand("Every policy at the same budgets, on the same logits.", "edgeexit-runtime"),
    "eval": KnownCommand("Accuracy and cost of a bundle on labelled data.", "edgeexit-runtime"),
    "report": KnownCommand("One page about a bundle: curves, exits, pictures, savings.", "edgeexit-runtime[report]"),
    "run": KnownCommand("Classify files, one JSON line a sample.", "edgeexit-runtime"),
    "serve": KnownCommand("Serve segments to other tiers and any client of the protocol.", "edgeexit-runtime[tiers]"),
    "update": KnownCommand("Continue a bundle's exits with new samples.", "edgeexit-runtime"),
    "install": KnownCommand("Make a bundle the current one of a folder that can go back.", "edgeexit-runtime"),
    "rollback": KnownCommand("Go back to the bundle that was current before.", "edgeexit-runtime"),
    "drift": KnownCommand("Do new samples still leave where, and as surely, as they did?", "edgeexit-runtime"),
    "bench": KnownCommand("Time a bundle against the whole model.", "edgeexit-runtime"),
    "profile": KnownCommand("Measure what each segment and exit costs on this device.", "edgeexit-runtime"),
    "plan": KnownCommand("Where to cut a bundle between a device and the tiers behind it.", "edgeexit-runtime"),
    "triton": KnownCommand("Write a bundle's tails as a Triton model repository.", "edgeexit-exporters"),
    "doctor": KnownCommand("Is this device what its target says, and ready?", "edgeexit-runtime"),
    "build": KnownCommand("Build a bundle's TensorRT engines on this device.", "edgeexit-runtime[tensorrt]"),
    "verify": KnownCommand("Is a bundle whole, and right on this device?", "edgeexit-runtime"),
    "inspect": KnownCommand("What is in a bundle, and what each part costs.", "edgeexit"),
    "targets": KnownCommand("The known devices.", "edgeexit"),
}
"""Every command of this version, in the order of the help."""


def installed_commands() -> Mapping[str, EntryPoint]:
    """The commands that the packages of this environment offer, by name."""
    return {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINT_GROUP)}


class Commands(click.Group):
    """The group of all installed commands.

    Args:
        installed: Gives the entry points of the commands by name.
        *args: As for `click.Group`.
        **kwargs: As for `click.Group`.
    """

    def __init__(
        self, *args: Any, installed: Callable[[], Mapping[str, EntryPoint]] = installed_commands, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._installed = installed

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the installed commands: ours in the order of `KNOWN`, then others."""
        installed = self._installed()
        return [name for name in KNOWN if name in installed] + sorted(installed.keys() - KNOWN.keys())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            MissingPartError: The command is ours and the package that brings it is not installed,
                or its module needs a package that is not there.
        """
        entry_point = self._installed().get(cmd_name)
        if entry_point is not None:
            return _load(entry_point)
        if cmd_name in KNOWN:
            raise MissingPartError.package(f"edgeexit {cmd_name}", KNOWN[cmd_name].package)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the installed commands without importing ours, and what could be added."""
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(ctx, name)) for name in names])
        absent: dict[str, list[str]] = {}
        for name in sorted(KNOWN.keys() - set(names)):
            absent.setdefault(f"pip install '{KNOWN[name].package}'", []).append(name)
        if absent:
            with formatter.section("More commands, not installed here"):
                rows = [(install, ", ".join(gone)) for install, gone in sorted(absent.items())]
                formatter.write_dl(rows, col_max=50)

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in KNOWN:
            return KNOWN[name].summary
        command = self.get_command(ctx, name)
        return command.get_short_help_str() if command else ""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgeexit", message="%(prog)s %(version)s")
def group() -> None:
    """Turn a classifier into a cascade that stops as soon as it is sure, and run it.

    Results go to standard output, progress and errors to standard error. Exit codes: 0 done,
    2 usage, 3 bundle invalid or tampered with, 4 bad data, 5 unreachable budget or accuracy,
    6 backend or device unavailable, 7 drift (with drift --fail).
    """


def main(arguments: Sequence[str] | None = None, commands: click.Group = group) -> int:
    """Run the command line.

    Args:
        arguments: Words after `edgeexit`; those of the process if None.
        commands: What can be run.

    Returns:
        The exit code.
    """
    try:
        with remember_interrupts():
            result = commands.main(None if arguments is None else list(arguments), "edgeexit", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except EdgeExitError as error:
        _show_traceback()
        say(f"error: {error}")
        return error.exit_code
    except click.Abort:  # click's name for an interrupt from the keyboard
        say("interrupted")
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNEXPECTED
    except Exception as error:
        if not _show_traceback():
            say(f"error: unexpected {type(error).__name__}: {error}\n  try: {TRACEBACK_VARIABLE}=1 for the traceback")
        return EXIT_UNEXPECTED


def _load(entry_point: EntryPoint) -> click.Command:
    try:
        command = entry_point.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("edgeexit"):
            raise
        raise MissingPartError.package(f"edgeexit {entry_point.name}", error.name) from error
    if not isinstance(command, click.Command):
        raise TypeError(f"the entry point {entry_point.value} is not a click command")
    return command


def _show_traceback() -> bool:
    """Print the traceback of the error at hand where the user asked for it."""
    wanted = os.environ.get(TRACEBACK_VARIABLE, "") not in {"", "0"}
    if wanted:
        traceback.print_exc()
    return wanted
