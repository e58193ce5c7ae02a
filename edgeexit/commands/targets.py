"""`edgeexit targets`: the known devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from edgeexit.console import emit_json, print_table
from edgeexit.targets import Target, load_target, target_names

__all__ = ["targets"]

EXAMPLES = """\b
Examples:
  edgeexit targets
  edgeexit targets raspberry-pi-5
  edgeexit targets ./my-board.toml --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def targets(name: str | None, as_json: bool) -> None:
    """List the known devices, or show all that is known of one.

    NAME is one of the list, or the path of a .toml file of your own.
    """
    if name is None:
        _show_all([load_target(known) for known in target_names()], as_json)
    else:
        _show_one(load_target(name), as_json)


def _show_all(known: list[Target], as_json: bool) -> None:
    if as_json:
        emit_json({"targets": [msgspec.to_builtins(target) for target in known]})
        return
    columns = ("name", "<device", "cores", "memory", "threads", "<precision")
    rows = [
        (t.name, t.title, t.cores.value, f"{t.memory.value:g} {t.memory.unit}", t.threads, t.precision) for t in known
    ]
    print_table(columns, rows)


def _show_one(target: Target, as_json: bool) -> None:
    document = msgspec.to_builtins(target)
    if as_json:
        emit_json(document)
        return
    print_table(("", "<value", "<source"), list(_rows(document)), title=target.title)


def _rows(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """One row per fact: key, value with unit, source."""
    for key, value in table.items():
        if key == "power_modes":
            yield from (_power_mode(mode) for mode in value)
        elif isinstance(value, Mapping) and "source" in value:
            yield prefix + key, _value(value), value["source"]
        elif isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, str(value), ""


def _power_mode(mode: Mapping[str, Any]) -> tuple[str, str, str]:
    power = _value(mode["power"]) if mode["power"] else "no limit"
    return f"power mode {mode['name']}", f"{power}, {_value(mode['cores'])}", mode["cores"]["source"]


def _value(fact: Mapping[str, Any]) -> str:
    if "minimum" in fact:
        return f">={fact['minimum']}, <{fact['below']}"
    if isinstance(fact["value"], bool):
        return "on" if fact["value"] else "off"
    if isinstance(fact["value"], float):
        return f"{fact['value']:g} {fact['unit']}"
    return f"{fact['value']} {fact.get('unit', '')}".rstrip()
