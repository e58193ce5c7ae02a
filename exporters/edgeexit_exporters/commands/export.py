"""`edgeexit export`: from models and data to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, human_bytes, human_count, print_table, say
from edgeexit.errors import UsageError
from edgeexit.manifest import Manifest
from edgeexit.policies import POLICIES
from edgeexit.precision import precision_of
from edgeexit.targets import load_target
from edgeexit_exporters.commands.triton import show as show_repository
from edgeexit_exporters.cuts import enumerate_cuts
from edgeexit_exporters.exporting import export as export_bundle
from edgeexit_exporters.heads import KINDS, HeadSettings
from edgeexit_exporters.loading import prepare
from edgeexit_exporters.selection import CHECK_MACS, PLACEMENTS, expected_time
from edgeexit_exporters.settings import ExportSettings
from edgeexit_exporters.triton import check_repository, write_repository

__all__ = ["NUMBERS", "export", "height_width"]

EXAMPLES = """\b
Examples:
  edgeexit export model.onnx --data images/train --mean 0.485,0.456,0.406 \\
      --std 0.229,0.224,0.225 -o model.eexit
  edgeexit export model.onnx --data images/train --calibration images/val \\
      --exits 4 --head class-means --max-drop 0.005 -o model
  edgeexit export small.onnx big.onnx --data images/train -o cascade.eexit
  edgeexit export mypackage.models:build --data train.npz -o model.eexit
  edgeexit export model.onnx --data images/train --precision int8 -o model.eexit
  edgeexit export mypackage.models:build --data pictures --head trained \
      --labels model -o model.eexit
  edgeexit export run --data images/train -o model.eexit
  edgeexit export model.onnx --data train.npz --list-cuts
"""


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # before click 8.2 it takes none
    """Numbers separated by commas."""

    name = "numbers"

    def convert(
        self, value: str | tuple[float, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406", param, ctx)


NUMBERS = _Numbers()


@click.command(epilog=EXAMPLES)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--data", required=True, metavar="DIR|NPZ", help="What the exits are fitted on.")
@click.option(
    "--calibration", metavar="DIR|NPZ", help="What thresholds are fitted on; else a tenth of --data is held out."
)
@click.option("--exits", metavar="auto|N|a,b", help="auto: those that pay; N: even shares of cost; or tensor names.")
@click.option(
    "--head",
    type=click.Choice(sorted(KINDS)),
    help="Kind of exit: fitted in one pass over the data, or trained with torch.  [default: gaussian]",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), metavar="N", help="With trained, times through the data.  [default: 10]"
)
@click.option(
    "--exit-head",
    metavar="SPEC",
    help="With trained: auto, linear, conv, mixed or token, with sizes as in conv:32,64/128 or conv:2x,4x.  "
    "[default: auto]",
)
@click.option(
    "--search",
    type=click.IntRange(min=1),
    metavar="TRIALS",
    help="With trained, try so many architectures for each exit first and take the best for its cost.",
)
@click.option(
    "--search-storage",
    metavar="FILE",
    help="With --search, an SQLite file from which a search that was stopped goes on.  [default: none]",
)
@click.option(
    "--labels",
    type=click.Choice(["data", "model"]),
    default="data",
    show_default=True,
    help="What is right: the data's labels, or the whole model's own answers.",
)
@click.option("--max-drop", type=float, default=0.01, show_default=True, help="Largest loss of accuracy, as a share.")
@click.option("--mean", type=NUMBERS, metavar="M,M,M", help="Mean of each channel, put into segment 0.")
@click.option("--std", type=NUMBERS, metavar="S,S,S", help="Standard deviation of each channel, likewise.")
@click.option(
    "--resize",
    type=click.Choice(["exact", "crop"]),
    help="Pictures of another size: refuse, or scale the shorter side and crop the centre.  [default: exact]",
)
@click.option("--size", type=NUMBERS, metavar="H,W", help="Size of pictures, for a model that takes any.")
@click.option("--target", metavar="NAME", help="A device the bundle is for; see edgeexit targets.")
@click.option(
    "--means-kib", type=click.FloatRange(min=0.1), metavar="KIB", help="KiB of class means an exit.  [default: 64]"
)
@click.option(
    "--updatable",
    is_flag=True,
    help="Keep what edgeexit update needs for Gaussian exits: 2 D² bytes for an exit of D features, 3.3 MB for 1280. "
    "Class-means exits can be updated in any case.",
)
@click.option(
    "--policy",
    type=click.Choice(["auto", *POLICIES]),
    default="auto",
    show_default=True,
    help="When a sample leaves; auto takes the policy with the least cost on the calibration split.",
)
@click.option(
    "--placement",
    type=click.Choice(PLACEMENTS),
    default="gain",
    show_default=True,
    help="With auto, how exits are chosen: by what each saves in the whole cascade, or by SelfXit's subset score.",
)
@click.option(
    "--min-gain",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="With auto and gain, the share of the model's MACs that an exit must save to stay, its check paid.",
)
@click.option(
    "--check-macs",
    type=click.FloatRange(min=0),
    metavar="N",
    help="What a check takes beyond its head's MACs, in MACs that take as long: auto leaves out exits that do not "
    "win it back. 0 counts MACs alone.  [default: 2.5 million, at most 5 % of the model]",
)
@click.option(
    "--precision",
    metavar="P[,P...]",
    default="fp32",
    show_default=True,
    help="fp32 (as the model is), fp16 or int8 of the whole model, or one for each segment.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads for this export; 0 takes all cores.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("-o", "--output", metavar="BUNDLE", help="A folder, or an archive if it ends in .eexit.")
@click.option("--triton", metavar="DIR", help="Write a Triton model repository too; edgeexit triton has settings.")
@click.option("--list-cuts", is_flag=True, help="Only list where the model can be cut.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def export(
    sources: tuple[str, ...],
    data: str,
    calibration: str | None,
    exits: str | None,
    head: str | None,
    epochs: int | None,
    exit_head: str | None,
    search: int | None,
    search_storage: str | None,
    labels: str,
    max_drop: float,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    resize: str | None,
    size: tuple[float, ...] | None,
    target: str | None,
    means_kib: float | None,
    updatable: bool,
    policy: str,
    placement: str,
    min_gain: float,
    check_macs: float | None,
    precision: str,
    threads: int,
    seed: int,
    output: str | None,
    triton: str | None,
    list_cuts: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Cut SOURCE at early exits, fit the exits to the data, and write a bundle.

    SOURCE is an .onnx file, module:function for a function that returns a torch module, or a folder of
    edgeexit train. A plain classifier gets exits; several sources make a cascade of models, small to
    large, which may get exits besides (--exits 0 for none); a model with several logits outputs keeps
    its own, and gets others with --exits; a trained run or a MultiExit keeps those of its heads that
    pay, or that --exits names, and takes no option that describes heads. A run is exported with the
    preprocessing of its training.

    DIR is an image folder with one subfolder a class, sorted as the model's classes are; NPZ an
    archive with x and y, or with y and one array for each input of the model. With --labels model no
    labels are needed: any folder of pictures, and archives without y.

    The thresholds keep the loss of accuracy on the calibration split, and one standard error in
    reserve, within --max-drop at the least cost.

    With --precision int8 or fp16 the exits and the thresholds are fitted on the rounded model, and
    --max-drop counts from the model as it came: what rounding loses is part of it. Exit heads stay in
    float32. int8 takes its ranges from 512 samples of --data.
    """
    device = None if target is None else load_target(target)
    settings = ExportSettings(
        exits=exits,
        head=_head(head, means_kib, epochs, exit_head, search, search_storage, updatable),
        max_drop=max_drop,
        labels=labels,
        mean=mean,
        std=std,
        resize=resize,
        size=height_width(size),
        policy=policy,
        placement=placement,
        min_gain=min_gain,
        check_macs=check_macs,
        precision=precision,
        symmetric=device is not None and device.jetson is not None,
        seed=seed,
        threads=threads,
        quiet=quiet,
    )
    if list_cuts:
        _list_cuts(sources, data, settings, as_json)
        return
    if output is None:
        raise UsageError("no bundle to write was named", expected="-o BUNDLE", remedy="add -o model.eexit")
    if device is not None and device.precision != "fp32" and precision == "fp32":
        say(f"{device.title} is fastest in {device.precision}: --precision {device.precision}")
    if calibration is None:
        say(f"no --calibration: a tenth of {data} is held out and thresholds are fitted on it")
    if triton is not None:
        check_repository(triton)
    manifest = export_bundle(sources, data, output, settings, calibration=calibration)
    bundle = Bundle.open(output)
    models = () if triton is None else write_repository(bundle, triton)
    if as_json:
        written = {} if triton is None else {"triton": [str(model) for model in models]}
        emit_json(_document(output, bundle.size_bytes, manifest) | written)
        return
    _show(output, bundle.size_bytes, manifest)
    if triton is not None:
        show_repository(triton, models)
    if device is not None:
        say(f"On {device.title}: edgeexit verify {output}")


def _head(
    kind: str | None,
    means_kib: float | None,
    epochs: int | None,
    architecture: str | None,
    trials: int | None,
    storage: str | None,
    updatable: bool,
) -> HeadSettings | None:
    """The choice of heads; None where none was made.

    Raises:
        UsageError: An option belongs to another kind of head, or to another option.
    """
    given = {"epochs": epochs, "architecture": architecture, "trials": trials, "storage": storage}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if chosen and kind != "trained":
        raise UsageError(
            "--epochs, --exit-head, --search and --search-storage are for heads that are trained here",
            got="no --head" if kind is None else f"--head {kind}",
            expected="--head trained",
            remedy="leave them out for a training run or a MultiExit, whose own heads are used",
        )
    if storage is not None and trials is None:
        raise UsageError("--search-storage is for a search", got="no --search", expected="--search TRIALS")
    if updatable and kind == "trained":
        raise UsageError(
            "trained heads cannot be updated on a device", got="--updatable", remedy="--head gaussian or class-means"
        )
    chosen |= {} if kind is None else {"kind": kind}
    chosen |= {} if means_kib is None else {"means_bytes": int(means_kib * 1024)}
    chosen |= {"updatable": True} if updatable else {}
    return HeadSettings(**chosen) if chosen else None


def height_width(size: tuple[float, ...] | None) -> tuple[int, int] | None:
    """What `--size` says.

    Raises:
        UsageError: It is not one or two whole numbers.
    """
    if size is None:
        return None
    if len(size) not in (1, 2) or any(length < 1 or length != int(length) for length in size):
        raise UsageError("--size is not a size", got=",".join(map(str, size)), expected="H,W, such as 224,224")
    return int(size[0]), int(size[-1])


def _document(output: str, size_bytes: int, manifest: Manifest) -> dict[str, object]:
    calibration = manifest.calibration
    return {
        "bundle": str(output),
        "size_bytes": size_bytes,
        "macs": manifest.macs,
        "params": manifest.params,
        "policy": manifest.policy.name,
        "precision": [segment.precision for segment in manifest.segments],
        "exits": [
            {"name": e.name, "head": e.head, "threshold": e.threshold, "cost": e.cost, "share": share}
            for e, share in zip(manifest.exits, calibration.exit_shares, strict=True)
        ],
        "calibration": {
            "samples": calibration.samples,
            "held_out": calibration.held_out,
            "labels": calibration.labels,
            "max_drop": calibration.max_drop,
            "reference_accuracy": calibration.reference_accuracy,
            "full_accuracy": calibration.full_accuracy,
            "accuracy": calibration.accuracy,
            "accuracy_drop": _reference(manifest) - calibration.accuracy,
            "mean_cost": calibration.mean_cost,
        },
    }


def _show(output: str, size_bytes: int, manifest: Manifest) -> None:
    calibration = manifest.calibration
    rows = [
        (
            e.name,
            e.head,
            "takes all" if k == len(manifest.exits) - 1 else _threshold(e.threshold),
            f"{s:.1%}",
            f"{e.cost:.3f}",
        )
        for k, (e, s) in enumerate(zip(manifest.exits, calibration.exit_shares, strict=True))
    ]
    print_table(("exit", "<head", "threshold", "share", "cost"), rows, title=f"{output} ({human_bytes(size_bytes)})")
    against = "agreement with the whole model" if calibration.labels == "model" else "accuracy"
    before = calibration.reference_accuracy
    rounded = "" if before is None else f" in {precision_of(manifest)} (before: {before:.2%})"
    say(
        f"On {calibration.samples} calibration samples: {against} {calibration.accuracy:.2%}, "
        f"whole model {calibration.full_accuracy:.2%}{rounded}, mean cost {calibration.mean_cost:.3f} of its "
        f"{human_count(manifest.macs, 'MACs')}."
    )
    say(f"Measure it on data it has not seen: edgeexit eval {output} --data DIR")
    if len(manifest.exits) == 1:
        say("No exit pays here, so the bundle holds the model whole. --exits N gives it N exits all the same.")
    elif expected_time(calibration.exit_shares, calibration.mean_cost, manifest.macs) >= 1:
        say(
            f"A check takes a CPU about as long as {human_count(CHECK_MACS, 'MACs')}. This cascade saves MACs, "
            f"but it may well be slower than the model alone: edgeexit bench {output} tells."
        )


def _reference(manifest: Manifest) -> float:
    """The accuracy that losses are counted from."""
    before = manifest.calibration.reference_accuracy
    return manifest.calibration.full_accuracy if before is None else before


def _threshold(threshold: float | None) -> str:
    return "nobody" if threshold is None else f"{threshold:.4f}"


def _list_cuts(sources: tuple[str, ...], data: str, settings: ExportSettings, as_json: bool) -> None:
    analysis = prepare(sources, Path(data), settings).analysis
    cuts = enumerate_cuts(analysis.graph, analysis.infos, analysis.macs, analysis.stages)
    total = sum(analysis.macs) or 1
    if as_json:
        emit_json(
            {
                "macs": total,
                "cuts": [
                    {
                        "after": cut.after,
                        "live": cut.live,
                        "size_bytes": cut.size_bytes,
                        "macs_before": cut.macs_before,
                        "share": cut.macs_before / total,
                        "obstacle": cut.obstacle,
                    }
                    for cut in cuts
                ],
            }
        )
        return
    rows = [
        (cut.after, f"{cut.macs_before / total:.3f}", len(cut.live), human_bytes(cut.size_bytes), cut.obstacle or "")
        for cut in cuts
    ]
    print_table(("after", "share of MACs", "tensors", "bytes a sample", "<obstacle"), rows)
