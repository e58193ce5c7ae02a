"""What a person sees: progress and prose on standard error, results on standard output.

`rich` is imported only where something is drawn with it, so that `edgeexit run` on a small device
does not pay for it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from edgeexit.interrupts import check_interrupt

__all__ = ["Advance", "Coloured", "emit_json", "human_bytes", "human_count", "hushed", "print_table", "progress", "say"]

LINE_INTERVAL_S = 10.0
PLAIN_WIDTH = 200


class Advance(Protocol):
    """Called with how much more of the work is done."""

    def __call__(self, n: int = 1) -> None:
        """Add `n` to what is done."""


class Coloured(NamedTuple):
    """A cell of a table that has a colour on a terminal."""

    text: str
    colour: str


def say(text: str) -> None:
    """Print prose on standard error."""
    print(text, file=sys.stderr, flush=True)


def emit_json(document: object, *, indent: int | None = 2) -> None:
    """Print one JSON document on standard output.

    Arrays become lists, paths become strings and numbers that are not finite become null.

    Args:
        document: Mappings, sequences, numbers, strings, arrays and paths.
        indent: Spaces a level; None prints the document on one line.
    """
    print(json.dumps(_plain(document), indent=indent, allow_nan=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table on standard output. Columns of numbers should come as text with their units.

    Args:
        columns: The headings. The first column is set flush left, the others flush right; a heading
            that starts with "<" is set flush left too.
        rows: As many cells a row as there are columns; None leaves a cell empty, `Coloured` colours it.
        title: A line above the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style: Any = {"box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False}
    table = Table(title=title, title_justify="left", title_style="bold", **style)
    for index, heading in enumerate(columns):
        justify: Any = "left" if index == 0 or heading.startswith("<") else "right"
        table.add_column(Text(heading.removeprefix("<")), justify=justify)
    for row in rows:
        cells = (
            cell if isinstance(cell, Coloured) else Coloured("" if cell is None else str(cell), "") for cell in row
        )
        table.add_row(*(Text(cell.text, style=cell.colour) for cell in cells))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


@contextmanager
def progress(
    description: str,
    total: int,
    *,
    quiet: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Advance]:
    """Show how far a long piece of work is: a bar with the time left on a terminal, else sparse lines.

    Args:
        description: What is being done.
        total: How much there is to do, in the units that `advance` is called with.
        quiet: Show nothing.
        stream: Where to; standard error if None.
        clock: Seconds; decides when the next line is due where there is no terminal.

    Yields:
        `advance(n)`, to be called whenever `n` more are done.
    """
    out = sys.stderr if stream is None else stream
    if quiet:
        yield _checked(_ignore)
    elif out.isatty():
        with _bar(description, total, out) as advance:
            yield _checked(advance)
    else:
        lines = _Lines(description, total, out, clock)
        yield _checked(lines)
        lines.finish()
    check_interrupt()


@contextmanager
def hushed() -> Iterator[None]:
    """Keep what a library prints, logs and warns of away from the user's output; its exceptions say what matters."""
    import io
    import logging
    import warnings
    from contextlib import redirect_stderr, redirect_stdout

    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)


def human_count(number: float, unit: str = "") -> str:
    """A count in three figures, such as "125.5 M"; with the unit MACs "125.5 MMACs", and "432 MACs"."""
    return _scaled(number, 1000.0, tuple(prefix + unit for prefix in ("", "k", "M", "G", "T")))


def human_bytes(size_bytes: float) -> str:
    """A size in bytes in three figures, such as "784.0 KiB"."""
    return _scaled(size_bytes, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def _scaled(number: float, step: float, units: tuple[str, ...]) -> str:
    power = 0
    while abs(number) >= step and power < len(units) - 1:
        number /= step
        power += 1
    figure = f"{number:.1f}" if power else f"{number:g}"
    return f"{figure} {units[power]}".rstrip()


def _plain(value: object) -> object:
    """The same content in the types that `json` knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars, without importing NumPy
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def _checked(advance: Advance) -> Advance:
    def step(n: int = 1) -> None:
        check_interrupt()
        advance(n)

    return step


def _ignore(n: int = 1) -> None:
    """Show nothing."""


@contextmanager
def _bar(description: str, total: int, out: TextIO) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=out)) as bars:
        task = bars.add_task(description, total=total)

        def advance(n: int = 1) -> None:
            bars.advance(task, n)

        yield advance


class _Lines:
    """Progress where there is no terminal: a line at the start, one every ten seconds, one at the end."""

    def __init__(self, description: str, total: int, out: TextIO, clock: Callable[[], float]) -> None:
        self.description, self.total, self.out, self.clock = description, total, out, clock
        self.done = 0
        self.start_s = self.last_s = clock()
        self._print("started")

    def __call__(self, n: int = 1) -> None:
        self.done += n
        now_s = self.clock()
        if now_s - self.last_s >= LINE_INTERVAL_S and self.done < self.total:
            self.last_s = now_s
            left_s = (now_s - self.start_s) * (self.total - self.done) / self.done if self.done else math.inf
            self._print(f"{self.done}/{self.total}" + (f", {left_s:.0f} s left" if math.isfinite(left_s) else ""))

    def finish(self) -> None:
        self._print(f"{self.done}/{self.total} in {self.clock() - self.start_s:.1f} s")

    def _print(self, text: str) -> None:
        print(f"{self.description}: {text}", file=self.out, flush=True)
