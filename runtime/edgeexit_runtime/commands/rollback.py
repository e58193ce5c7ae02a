"""`edgeexit rollback`: make the bundle before the current one current again."""

from __future__ import annotations

import click

from edgeexit.console import emit_json
from edgeexit_runtime.living.generations import Generations

__all__ = ["rollback"]

EXAMPLES = """\b
Examples:
  edgeexit install updated.eexit bundles
  edgeexit rollback bundles
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def rollback(folder: str, as_json: bool) -> None:
    """Make the bundle before FOLDER/current current again.

    FOLDER is one that edgeexit install has made. Going back again goes back further. The bundle that
    was current stays in FOLDER until the next install, which removes it.
    """
    generations = Generations(folder)
    left = generations.current()
    current = generations.roll_back()
    if as_json:
        kept = [str(path) for path in generations.installed()]
        emit_json({"current": str(current), "left": str(left), "generations": kept})
    else:
        print(f"{folder}/current is {current.name} again, no longer {left.name}")
