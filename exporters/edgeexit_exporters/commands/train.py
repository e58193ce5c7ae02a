"""`edgeexit train`: from a torch model and data to trained exits."""

from __future__ import annotations

import shlex
from collections.abc import Container
from typing import TYPE_CHECKING, Any, Literal

import click

from edgeexit.console import Coloured, emit_json, print_table, say
from edgeexit.errors import MissingPartError, ModelError, UsageError
from edgeexit_exporters.commands.export import NUMBERS, height_width
from edgeexit_exporters.train_run import RunRequest, make_run

if TYPE_CHECKING:
    from edgeexit.training.settings import TrainSettings
    from edgeexit.training.store import RunDocument

__all__ = ["train"]

_JOINT = ("optimiser", "backbone_rate", "loss_weights", "self_distillation", "heads_first")
"""Settings of joint runs alone."""

EXAMPLES = """\b
Examples:
  edgeexit train nets:build --data images/train --mode distilled -o run
  edgeexit train nets:build --data images/train --validation images/val \\
      --mode joint --epochs 5 --augment crop --at 0.15,0.3,0.6 -o run
  edgeexit train nets:build --data train.npz --mode combined \\
      --at layer1,layer2 --head conv:32/64 --head linear -o run
  edgeexit train nets:build --data images/train -o run --resume
  edgeexit export run --data images/train --calibration images/val \\
      -o model.eexit
"""


@click.command(epilog=EXAMPLES)
@click.argument("source")
@click.option("--data", required=True, metavar="DIR|NPZ", help="What is trained on.")
@click.option("--validation", metavar="DIR|NPZ", help="What says when to stop; else a tenth of --data is held out.")
@click.option(
    "--mode",
    type=click.Choice(["joint", "layerwise", "distilled", "combined"]),
    default="distilled",
    show_default=True,
    help="joint trains everything on labels; the others leave the model as it is and train the exits alone: on labels, "
    "on the model's own answers (no labels are looked at), or on both.",
)
@click.option(
    "--at",
    metavar="auto|selfxit|a,b|0.15,0.3",
    help="Where: shares of the cost from 15 to 90 %, SelfXit's filter of layers, names of modules, or shares.  "
    "[default: auto]",
)
@click.option(
    "--shares-of",
    "cost",
    type=click.Choice(["macs", "ms"]),
    default="macs",
    show_default=True,
    help="What shares are of: multiply-accumulates, or time measured here.",
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="SPEC",
    help="auto, linear, conv, mixed or token, with sizes as in conv:32,64/128 or conv:2x,4x; "
    "once, or once for each exit.  [default: auto]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Times through the data.")
@click.option("--batch", type=click.IntRange(min=1), help="Samples a step.")
@click.option("--rate", type=float, help="Highest learning rate of the heads.")
@click.option(
    "--backbone-rate", type=float, help="In a joint run the backbone's, as a share of --rate; 1 if it starts untrained."
)
@click.option("--weight-decay", type=float, help="Decoupled weight decay.")
@click.option("--optimiser", type=click.Choice(["adamw", "sgd"]), help="Of a joint run.")
@click.option("--schedule", type=click.Choice(["cosine", "onecycle", "constant"]), help="Of the learning rate.")
@click.option("--warmup", type=float, metavar="SHARE", help="Of the steps, in which the learning rate climbs.")
@click.option("--clip", type=float, metavar="NORM", help="Largest norm of the gradients; 0 does not clip.")
@click.option("--loss-weights", metavar="eenet|uniform|W,W", help="In a joint run, the weight of each exit's loss.")
@click.option("--temperature", type=float, help="Of distillation.")
@click.option("--label-share", type=float, help="With combined, the labels' weight beside the model's answers.")
@click.option("--self-distillation", type=float, help="In a joint run, weight of the last exit's word to earlier ones.")
@click.option("--heads-first", type=int, help="Epochs at the start of a joint run that train the heads alone.")
@click.option("--patience", type=int, help="Epochs without progress after which to stop; 0 for never.")
@click.option("--keep", type=click.Choice(["loss", "accuracy", "last"]), help="Which epoch's weights: best, or last.")
@click.option("--augment", type=click.Choice(["none", "flip", "crop"]), help="Of pictures.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="What to compute in.")
@click.option("--device", help="auto, cpu, cuda or cuda:1.")
@click.option("--threads", type=click.IntRange(min=0), help="Of torch on the CPU.")
@click.option(
    "--checkpoint-every", type=click.IntRange(min=0), help="Steps between checkpoints, besides each epoch's end."
)
@click.option("--mean", type=NUMBERS, metavar="M,M,M", help="Mean of each channel of pictures.")
@click.option("--std", type=NUMBERS, metavar="S,S,S", help="Standard deviation of each channel, likewise.")
@click.option(
    "--resize",
    type=click.Choice(["exact", "crop"]),
    default="exact",
    show_default=True,
    help="Pictures of another size: refuse, or scale the shorter side and crop the centre.",
)
@click.option("--size", type=NUMBERS, metavar="H,W", help="Size of pictures; that of the first if not given.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder, with the same options.")
@click.option("-o", "--output", required=True, metavar="DIR", help="The folder of the run.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def train(
    source: str,
    data: str,
    validation: str | None,
    at: str | None,
    heads: tuple[str, ...],
    cost: Literal["macs", "ms"],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: str,
    size: tuple[float, ...] | None,
    resume: bool,
    output: str,
    quiet: bool,
    as_json: bool,
    loss_weights: str | None,
    **options: Any,
) -> None:
    """Attach exits to the torch model SOURCE, train them, and write the run to a folder.

    SOURCE is module:function for a function that returns a torch module with its weights loaded. The
    folder holds the trained weights, metrics and checkpoints: a run that was stopped goes on with
    --resume. It is a source for edgeexit export, which leaves out exits that do not pay.

    DIR is an image folder with one subfolder a class, sorted as the model's classes are (with --mode
    distilled any folder of pictures); NPZ an archive with x and y, or with y and one array for each
    parameter of forward. Without --mean and --std pictures become numbers from 0 to 1.
    """
    try:
        from edgeexit.training.settings import TrainSettings
    except ModuleNotFoundError as error:
        raise MissingPartError.package("training", "edgeexit[train]") from error
    given = {name: value for name, value in options.items() if value is not None}
    if loss_weights is not None:
        given["loss_weights"] = _weights(loss_weights)
    settings = TrainSettings(**given)
    _refuse_idle(settings, given)
    request = RunRequest(
        source, data, output, validation, at, heads, cost, mean, std, resize, height_width(size), resume, quiet
    )
    document = make_run(request, settings)
    _refuse_useless(document, output)
    command = shlex.join(_next(document, data, validation, output))
    if as_json:
        emit_json(_document(document, output) | {"next": command})
        return
    _show(document, output)
    say(f"Make a bundle of it: {command}")


def _refuse_idle(settings: TrainSettings, given: Container[str]) -> None:
    """Refuse options that would do nothing.

    Raises:
        UsageError: One was given that this mode does not look at.
    """
    joint, distils = settings.mode == "joint", settings.mode in ("distilled", "combined") or settings.self_distillation
    idle = {
        **dict.fromkeys(_JOINT, None if joint else "--mode joint"),
        "temperature": None if distils else "--mode distilled or combined, or joint with --self-distillation",
        "label_share": None if settings.mode == "combined" else "--mode combined",
    }
    for name, expected in idle.items():
        if expected is not None and name in given:
            raise UsageError(
                f"--{name.replace('_', '-')} does nothing here",
                got=f"--mode {settings.mode}",
                expected=expected,
                remedy="leave it out, or choose that mode",
            )


def _refuse_useless(document: RunDocument, output: str) -> None:
    """Say so where a run is of no use; it is stored, so that one can look into it.

    Raises:
        ModelError: No early exit learnt anything.
    """
    early = document.exits[:-1]
    if any(outcome.converged for outcome in early):
        return
    right = "agree with the model" if document.exits[0].against == "model" else "right"
    found = [f"{o.name} {o.accuracy:.1%} {right}" + (f" ({o.problem})" if o.problem else "") for o in early]
    raise ModelError(
        "no early exit learnt anything",
        got=", ".join(found),
        expected="better than always giving the commonest answer",
        remedy=f"more --epochs or data, another --rate, and check --mean and --std; what came of it is in {output}",
    )


def _weights(text: str) -> str | tuple[float, ...]:
    if text in ("eenet", "uniform"):
        return text
    return NUMBERS.convert(text, None, None)


def _next(document: RunDocument, data: str, validation: str | None, output: str) -> list[str]:
    """The export of the run, its thresholds fitted on what it was not trained on."""
    labels = [] if document.settings.needs_labels else ["--labels", "model"]
    calibration = [] if validation is None else ["--calibration", validation]
    return ["edgeexit", "export", output, "--data", data, *calibration, *labels, "-o", f"{output.rstrip('/')}.eexit"]


def _document(document: RunDocument, output: str) -> dict[str, object]:
    heads = [*map(str, document.heads), None]
    return {
        "run": output,
        "source": document.source,
        "mode": document.settings.mode,
        "exits": [
            {
                "name": outcome.name,
                "head": head,
                "accuracy": outcome.accuracy,
                "loss": outcome.loss,
                "converged": outcome.converged,
                "epoch": outcome.epoch,
                "against": outcome.against,
                "problem": outcome.problem,
            }
            for outcome, head in zip(document.exits, heads, strict=True)
        ],
        "epochs": document.epochs,
        "best_epoch": document.best_epoch,
        "seconds": document.seconds,
    }


def _show(document: RunDocument, output: str) -> None:
    heads = [*map(str, document.heads), "the model's own"]
    rows = [
        (
            outcome.name,
            head,
            f"{outcome.accuracy:.2%}",
            "" if outcome.loss is None else f"{outcome.loss:.4f}",
            "yes" if outcome.converged else Coloured("no", "red"),
        )
        for outcome, head in zip(document.exits, heads, strict=True)
    ]
    against = document.exits[0].against
    accuracy = "agreement" if against == "model" else "accuracy"
    print_table(("exit", "<head", accuracy, "loss", "converged"), rows, title=f"{output} ({document.settings.mode})")
    for outcome in document.exits:
        if outcome.problem:
            say(f"{outcome.name}: {outcome.problem}")
    say(f"{document.epochs} epochs in {document.seconds:.1f} s, the best after {document.best_epoch}.")
