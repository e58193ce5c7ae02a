"""Metrics: how training goes, as JSON lines and, where tensorboardX is installed, as TensorBoard events."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeexit.console import say
from edgeexit.errors import UsageError

__all__ = ["METRICS_FILE", "Metrics"]

METRICS_FILE = "metrics.jsonl"
EVENTS_FOLDER = "events"


class Metrics:
    """Writes each record as a line of `metrics.jsonl`, and its numbers as TensorBoard scalars under `events/`.

    A record is `{"kind": "step" or "epoch", "epoch": …, "step": …, …}`; "step" counts over the whole run. Numbers that
    are not finite become null. Nested mappings become scalars with slashes in their names.

    Args:
        folder: Where to; None writes nothing.
        after: The step of the last record that counts when a run goes on: later ones, which a run that was killed left
            behind its checkpoint, are taken out. 0 starts a new file.
        quiet: Say nothing where tensorboardX is missing.

    Raises:
        UsageError: The folder cannot be written to.
    """

    def __init__(self, folder: Path | None, *, after: int = 0, quiet: bool = False) -> None:
        self._file = None
        self._events: Any = None
        if folder is None:
            return
        path = folder / METRICS_FILE
        try:
            kept = _lines_until(path, after) if after else []
            self._file = path.open("w", encoding="utf-8")
            self._file.writelines(kept)
            self._file.flush()
        except OSError as error:
            raise UsageError(f"{path} cannot be written", got=error.strerror) from error
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped,unused-ignore]  # it carries no types
        except ImportError:
            if not quiet:
                say("No TensorBoard events: tensorboardX is not installed (pip install 'edgeexit[train]').")
        else:
            self._events = SummaryWriter(str(folder / EVENTS_FOLDER), purge_step=after + 1 if after else None)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is on its way to the disk when this returns."""
        if self._file is not None:
            self._file.write(json.dumps(_plain(record), allow_nan=False) + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in _scalars(record):
                self._events.add_scalar(f"{record['kind']}/{name}", value, record["step"])


def _lines_until(path: Path, step: int) -> list[str]:
    """The whole lines of records up to a step."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a run that was killed may be a part
            continue
        if isinstance(record, dict) and record.get("step", 0) <= step:
            kept.append(line + "\n")
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and (prefix or key not in ("step", "epoch")):
            found.append((prefix + key, float(value)))
    return found
