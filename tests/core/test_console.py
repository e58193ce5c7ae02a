"""What a person sees."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeexit.console import emit_json, human_bytes, human_count, print_table, progress, say


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_without_a_terminal_prints_a_line_at_the_start_and_one_at_the_end() -> None:
    out = io.StringIO()
    with progress("fitting", 100, stream=out, clock=Clock()) as advance:
        for _ in range(100):
            advance()
    assert out.getvalue() == "fitting: started\nfitting: 100/100 in 0.0 s\n"


def test_progress_without_a_terminal_prints_at_most_one_line_in_ten_seconds() -> None:
    out, clock = io.StringIO(), Clock()
    with progress("fitting", 100, stream=out, clock=clock) as advance:
        for _ in range(50):
            clock.now_s += 1.0
            advance(2)
    assert out.getvalue().splitlines() == [
        "fitting: started",
        "fitting: 20/100, 40 s left",
        "fitting: 40/100, 30 s left",
        "fitting: 60/100, 20 s left",
        "fitting: 80/100, 10 s left",
        "fitting: 100/100 in 50.0 s",
    ]


def test_progress_on_a_terminal_draws_a_bar() -> None:
    out = Terminal()
    with progress("fitting", 4, stream=out) as advance:
        advance(4)
    assert "4/4" in out.getvalue()


def test_quiet_progress_shows_nothing() -> None:
    out = io.StringIO()
    with progress("fitting", 4, quiet=True, stream=out) as advance:
        advance(4)
    assert out.getvalue() == ""


def test_progress_does_not_claim_the_end_when_the_work_fails() -> None:
    out = io.StringIO()
    with pytest.raises(ValueError, match="broken"), progress("fitting", 4, stream=out, clock=Clock()):
        raise ValueError("broken")
    assert out.getvalue() == "fitting: started\n"


def test_prose_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("held out 20 %")
    assert capsys.readouterr() == ("", "held out 20 %\n")


def test_a_json_document_may_hold_arrays_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"shares": np.array([0.25, 0.75]), "exit": np.int64(1), "file": Path("a/b"), "shape": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"shares": [0.25, 0.75], "exit": 1, "file": "a/b", "shape": [1, 2]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_a_number_that_json_cannot_write_becomes_null(value: float, capsys: pytest.CaptureFixture[str]) -> None:
    emit_json([value])
    assert json.loads(capsys.readouterr().out) == [None]


def test_a_json_document_without_indent_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"input": "a.png", "exit": 0}, indent=None)
    assert capsys.readouterr().out == '{"input": "a.png", "exit": 0}\n'


def test_a_table_that_is_not_on_a_terminal_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 150
    print_table(("name", "value"), [(name, 1)])
    assert name in capsys.readouterr().out


def test_brackets_in_a_table_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [("x[bold]y",)])
    assert "x[bold]y" in capsys.readouterr().out


def test_the_console_is_imported_without_rich() -> None:
    code = "import sys, edgeexit.console; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1.0 k"), (125_485_706, "125.5 M"), (1.8e9, "1.8 G")]
)
def test_counts_are_written_with_a_decimal_prefix(count: float, text: str) -> None:
    assert human_count(count) == text


@pytest.mark.parametrize(("count", "text"), [(432, "432 MACs"), (1000, "1.0 kMACs"), (1.8e9, "1.8 GMACs")])
def test_a_unit_stands_behind_the_prefix_or_behind_a_space(count: float, text: str) -> None:
    assert human_count(count, "MACs") == text


@pytest.mark.parametrize(("size_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (802_816, "784.0 KiB")])
def test_sizes_are_written_with_a_binary_prefix(size_bytes: int, text: str) -> None:
    assert human_bytes(size_bytes) == text
