"""`edgeexit triton`: a bundle's tails as a Triton model repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, human_bytes, print_table, say
from edgeexit.payload import PRECISIONS
from edgeexit_exporters.triton import INSTANCE_KINDS, InstanceKind, Serving, check_repository, write_repository

__all__ = ["triton"]

EXAMPLES = """\b
Examples:
  edgeexit triton model.eexit -o models
  edgeexit triton model.eexit --from 0 --from 2 --max-batch 128 --delay-ms 5 -o models
  tritonserver --model-repository models
"""
DEFAULT = Serving()


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option(
    "--from", "tails", multiple=True, type=click.IntRange(min=0), metavar="K", help="Write this tail; all if left out."
)
@click.option(
    "--payload-precision",
    default=DEFAULT.payload,
    show_default=True,
    type=click.Choice(PRECISIONS),
    help="What boundary tensors are sent in.",
)
@click.option("--max-batch", default=DEFAULT.max_batch, show_default=True, type=click.IntRange(1), help="Samples.")
@click.option(
    "--delay-ms",
    default=DEFAULT.delay_ms,
    show_default=True,
    type=click.FloatRange(0),
    help="How long a request may wait for others to share its batch.",
)
@click.option(
    "--max-queue",
    default=DEFAULT.max_queue,
    show_default=True,
    type=click.IntRange(0),
    help="Requests that may wait; more are refused. 0: no limit.",
)
@click.option(
    "--timeout-ms",
    default=DEFAULT.timeout_ms,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How long a request may wait before it is refused.",
)
@click.option(
    "--instances", default=DEFAULT.instances, show_default=True, type=click.IntRange(1), help="Copies side by side."
)
@click.option(
    "--device", "kind", default=DEFAULT.kind, show_default=True, type=click.Choice(INSTANCE_KINDS), help="To run on."
)
@click.option("--threads", default=0, type=click.IntRange(0), help="CPU threads of an operator; 0: as Triton has it.")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="DIR", help="The model repository.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def triton(
    bundle: str,
    tails: tuple[int, ...],
    payload_precision: str,
    max_batch: int,
    delay_ms: float,
    max_queue: int,
    timeout_ms: float,
    instances: int,
    kind: InstanceKind,
    threads: int,
    output: str,
    as_json: bool,
) -> None:
    """Write the tails of BUNDLE into a Triton model repository, as NAME__from_K for tails from segment K on.

    A tail is one ONNX graph for Triton's ONNX Runtime backend, with class means and the like inside. It takes the
    boundary tensors in front of segment K, and gives the logits of all its exits, (n, exits, classes): Triton
    cannot stop early, so the device applies the policy to what comes back. With --payload-precision fp16 or uint8 it
    takes them in fewer bytes, and edgeexit run --offload sends them so. Each tail is run on the bundle's golden
    samples before it is written. Other models in DIR stay as they are.
    """
    check_repository(output)
    opened = Bundle.open(bundle)
    serving = Serving(
        max_batch=max_batch,
        delay_ms=delay_ms,
        max_queue=max_queue,
        timeout_ms=timeout_ms,
        instances=instances,
        kind=kind,
        threads=threads,
        payload=payload_precision,
    )
    models = write_repository(opened, output, serving, tails=tails or None)
    if as_json:
        emit_json({"repository": output, "models": [_entry(model) for model in models]})
    else:
        show(output, models)


def show(repository: str, models: Sequence[Path]) -> None:
    """Print what was written."""
    rows = [(model.name, human_bytes(_size_bytes(model))) for model in models]
    print_table(("model", "size"), rows, title=repository)
    say(f"Serve them: tritonserver --model-repository {repository}")


def _entry(model: Path) -> dict[str, object]:
    return {"name": model.name, "size_bytes": _size_bytes(model)}


def _size_bytes(model: Path) -> int:
    return sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
