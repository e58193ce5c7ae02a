"""The command line: how commands are found, and how errors are told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

from edgeexit import __version__
from edgeexit.cli import KNOWN, Commands
from edgeexit.errors import BackendError, BundleError, DataError, EdgeExitError, UnreachableError, UsageError

Cli = Callable[..., Any]
HERE = [name for name, command in KNOWN.items() if find_spec(command.package.partition("[")[0].replace("-", "_"))]
"""The commands whose packages are installed: all, unless the device side is tested alone."""


def failing_with(error: BaseException) -> click.Group:
    """A group whose command `fail` raises an error."""

    @click.command
    def fail() -> None:
        raise error

    return click.Group("edgeexit", {"fail": fail})


def offering(**values: str) -> Commands:
    """A group in an environment that has these entry points and no others."""
    entry_points: Mapping[str, EntryPoint] = {
        name: EntryPoint(name, value, "edgeexit.commands") for name, value in values.items()
    }
    return Commands("edgeexit", installed=lambda: entry_points)


def run_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m edgeexit` in a process of its own."""
    command = [sys.executable, "-m", "edgeexit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").stdout == f"edgeexit {__version__}\n"


def test_help_lists_every_installed_command_in_the_order_of_use(cli: Cli) -> None:
    listed = cli("--help").stdout.partition("Commands:\n")[2].partition("\nMore commands")[0]
    assert [line.split()[0] for line in listed.splitlines()] == HERE


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from edgeexit.cli import main; main(['--help']); "
        "sys.exit(', '.join({'numpy', 'onnx', 'onnxruntime', 'PIL', 'rich', 'torch'} & set(sys.modules)) or None)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_help_hides_what_is_not_installed_and_says_how_to_add_it(cli: Cli) -> None:
    shown = cli("--help", commands=offering(targets="edgeexit.commands.targets:targets")).stdout
    commands, _, more = shown.partition("More commands, not installed here:\n")
    assert "export" not in commands
    assert "pip install 'edgeexit-runtime'" in more


def test_a_command_of_a_missing_package_names_the_package_with_exit_code_6(cli: Cli) -> None:
    outcome = cli("export", commands=offering(targets="edgeexit.commands.targets:targets"))
    assert outcome.code == 6
    assert outcome.stderr == (
        "error: edgeexit export needs the package edgeexit-exporters, which is not installed\n"
        "  try: pip install 'edgeexit-exporters'\n"
    )


def test_a_command_that_needs_a_missing_package_names_it_with_exit_code_6(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_command.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    outcome = cli("needy", commands=offering(needy="needy_command:needy"))
    assert outcome.code == 6
    assert "needs the package surely_not_installed" in outcome.stderr


def test_a_command_of_another_package_is_listed_with_its_own_help(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign_command.py").write_text(
        "import click\n@click.command\ndef foreign():\n    '''Do something else.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "Do something else." in cli("--help", commands=offering(foreign="foreign_command:foreign")).stdout


@pytest.mark.parametrize("arguments", [["nonsense"], ["targets", "--nonsense"], ["inspect"]])
def test_a_wrong_word_has_exit_code_2_and_leaves_standard_output_empty(cli: Cli, arguments: list[str]) -> None:
    outcome = cli(*arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("Usage: edgeexit")


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError, 2), (BundleError, 3), (DataError, 4), (UnreachableError, 5), (BackendError, 6)]
)
def test_each_error_has_its_exit_code(cli: Cli, error: type[EdgeExitError], code: int) -> None:
    assert cli("fail", commands=failing_with(error("it is wrong"))).code == code


def test_an_error_says_what_came_what_was_expected_and_what_to_try(cli: Cli) -> None:
    error = UsageError("the flag is wrong", got=3, expected="1 or 2", remedy="--flag 1")
    shown = cli("fail", commands=failing_with(error)).stderr
    assert shown == "error: the flag is wrong\n  got: 3\n  expected: 1 or 2\n  try: --flag 1\n"


def test_an_unexpected_error_is_one_line_and_a_hint(cli: Cli) -> None:
    outcome = cli("fail", commands=failing_with(RuntimeError("surprise")))
    assert outcome.code == 1
    assert outcome.stderr == (
        "error: unexpected RuntimeError: surprise\n  try: EDGEEXIT_TRACEBACK=1 for the traceback\n"
    )


@pytest.mark.parametrize("error", [RuntimeError("surprise"), UsageError("the flag is wrong")])
def test_the_traceback_is_shown_on_request(cli: Cli, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEEXIT_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in cli("fail", commands=failing_with(error)).stderr


def test_an_interrupt_has_exit_code_130(cli: Cli) -> None:
    assert cli("fail", commands=failing_with(KeyboardInterrupt())).code == 130


def test_a_reader_that_went_away_is_no_error_worth_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "edgeexit", "targets", "--json"]
    finished = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert finished.stderr == b""


def test_python_m_edgeexit_is_the_command() -> None:
    finished = run_process("--version")
    assert (finished.returncode, finished.stdout) == (0, f"edgeexit {__version__}\n")


def test_the_process_ends_with_the_exit_code_of_the_error() -> None:
    finished = run_process("targets", "abacus")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("error: unknown target\n  got: abacus\n")


@pytest.mark.parametrize("name", HERE)
def test_the_help_of_every_command_ends_with_examples(cli: Cli, name: str) -> None:
    lines = cli(name, "--help").stdout.partition("Examples:\n")[2].splitlines()
    assert any(line.strip().startswith(f"edgeexit {name}") for line in lines)
