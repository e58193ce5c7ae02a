"""`edgeexit install`: make a bundle the current one of a folder that can go back."""

from __future__ import annotations

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.living.generations import KEPT, Generations
from edgeexit_runtime.verification import verify

__all__ = ["install"]

EXAMPLES = """\b
Examples:
  edgeexit install model.eexit bundles
  edgeexit run bundles/current picture.jpg
  edgeexit update bundles/current --data new -o updated.eexit
  edgeexit install updated.eexit bundles
  edgeexit rollback bundles
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.argument("folder", type=click.Path())
@click.option("--keep", default=KEPT, show_default=True, type=click.IntRange(2), help="Bundles to keep in FOLDER.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def install(bundle: str, folder: str, keep: int, threads: int, as_json: bool) -> None:
    """Copy BUNDLE into FOLDER and make it FOLDER/current, if it answers here as it should.

    Its golden samples are replayed first, as edgeexit verify does. The switch is one step: whoever opens
    FOLDER/current gets the old bundle or the new one, after a power cut too. edgeexit rollback FOLDER goes
    back to the bundle that was current before.
    """
    opened = Bundle.open(bundle)
    generations = Generations(folder, keep=keep)
    verify(opened, Cascade.open(opened, threads=threads))
    installed = generations.install(opened)
    if as_json:
        kept = [str(path) for path in generations.installed()]
        emit_json({"current": str(installed), "generations": kept})
    else:
        print(f"{folder}/current is {installed.name}, a copy of {bundle}")
