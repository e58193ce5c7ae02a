"""`edgeexit verify`: is a bundle whole, and right on this device?"""

from __future__ import annotations

from dataclasses import asdict

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.commands.backends import backend_option
from edgeexit_runtime.verification import verify as verify_bundle

__all__ = ["verify"]

EXAMPLES = """\b
Examples:
  edgeexit verify model.eexit
  edgeexit verify model.eexit --threads 4 --json
  edgeexit verify model.eexit --backend cuda
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads per operator.")
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(bundle: str, threads: int, backend: str, as_json: bool) -> None:
    """Check every byte of BUNDLE, then replay its golden samples on this device.

    They are run one by one and as one batch. Every exit's logits must agree with those of the workstation
    within 1e-3 of themselves plus 1e-3 of the exit's largest, and every sample must leave at the same exit
    with the same label. Only a sample whose score is within 1e-3 of the threshold may leave elsewhere; the
    result says how many did. Anything else ends with exit code 3 and names the exit and the sample.
    The limits hold for every backend: on a GPU, TF32 is off.
    """
    opened = Bundle.open(bundle)
    result = verify_bundle(opened, Cascade.open(opened, threads=threads, backend=backend))
    if as_json:
        emit_json({"bundle": bundle, "files": len(opened.manifest.files()) + 1, **asdict(result)})
        return
    print(f"{bundle}: all {len(opened.manifest.files()) + 1} files match their hashes")
    print(
        f"{result.samples} golden samples give the same answers here, at batch 1 and at batch {result.samples}; "
        f"logits differ by at most {result.largest_difference:.1e} of the largest"
    )
    if result.near_threshold:
        print(f"{result.near_threshold} of them left at another exit, because their score is at the threshold")
