"""From a torch model and data to the folder of a training run."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeexit.data import Dataset, Survey, open_data, open_files, survey
from edgeexit.errors import DataError, MissingPartError, UsageError
from edgeexit.manifest import Preprocessing, TensorSpec
from edgeexit_exporters.loading import HELD_OUT, check_held, check_places
from edgeexit_exporters.runs import is_finished
from edgeexit_exporters.sources import build_module, input_names

if TYPE_CHECKING:
    import torch

    from edgeexit.training.attach import MultiExit
    from edgeexit.training.feeding import Feed
    from edgeexit.training.settings import TrainSettings
    from edgeexit.training.store import RunDocument

__all__ = ["RunRequest", "make_run", "parse_places"]


@dataclass(frozen=True)
class RunRequest:
    """What is to be trained, on what, and where it goes.

    Attributes:
        source: `module:function`, which returns a torch module, or a `MultiExit`.
        data: An image folder or an `.npz`.
        output: The folder of the run.
        validation: What says when to stop; a tenth of `data` if None.
        at: "auto", "selfxit", names of modules, or shares of the cost between 0 and 1; None: "auto", or those that
            the source has attached.
        heads: Descriptions of the heads: one for all, or one for each exit; none: "auto", or those attached.
        cost: What shares are of: "macs", or "ms" measured here.
        mean, std, resize, size: As for an export.
        resume: Go on where a run in `output` stopped.
        quiet: Show no progress.
    """

    source: str
    data: str
    output: str
    validation: str | None = None
    at: str | None = None
    heads: tuple[str, ...] = ()
    cost: Literal["macs", "ms"] = "macs"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: str = "exact"
    size: tuple[int, int] | None = None
    resume: bool = False
    quiet: bool = False


def make_run(request: RunRequest, settings: TrainSettings) -> RunDocument:
    """Attach exits, train, and store the run.

    Raises:
        MissingPartError: torch is not installed.
        UsageError: The request cannot be carried out, or the folder is there already.
        DataError: The data cannot be used.
        ModelError: The model cannot carry exits, or training diverged: the last good checkpoint is in the folder.
        KeyboardInterrupt: After a checkpoint was written.
    """
    try:
        from edgeexit.training.attach import MultiExit
        from edgeexit.training.feeding import Feed
        from edgeexit.training.loop.checkpoints import CHECKPOINT_FILE
        from edgeexit.training.store import save_run
        from edgeexit.training.trainer import train
    except ModuleNotFoundError as error:
        raise MissingPartError.package("training", "edgeexit[train]") from error
    _check(request)
    module = build_module(request.source)
    if isinstance(module, MultiExit):
        _refuse_places(request)
    found = survey(request.data, labelled=settings.needs_labels)
    inputs = _inputs(found, request)
    names = input_names(request.source, module, dict.fromkeys(spec.name for spec in inputs)) if len(inputs) > 1 else []
    inputs = tuple(spec for spec in inputs if not names or spec.name in names)
    preprocessing = _preprocessing(found, request)
    data, held = _splits(request, inputs, preprocessing, settings)
    feed = Feed.from_dataset(data, preprocessing, names=names or None)
    unseen = Feed.from_dataset(held, preprocessing, names=names or None)
    if isinstance(module, MultiExit):
        network = module
    else:
        heads = list(request.heads) if len(request.heads) > 1 else (*request.heads, "auto")[0]
        places: Any = parse_places(request.at or "auto", [name for name, _ in module.named_modules()])
        network = MultiExit.attach(module, places, heads, example=_example(feed), seed=settings.seed, cost=request.cost)
    class_names = _class_names(request, found, data, network)
    result = train(
        network,
        feed,
        unseen,
        settings,
        folder=Path(request.output),
        resume=request.resume,
        quiet=request.quiet,
        about={"source": request.source},
    )
    document = save_run(
        Path(request.output),
        network,
        settings,
        result,
        source=request.source,
        preprocessing=preprocessing,
        inputs=inputs,
        class_names=class_names,
        held_out=request.validation is None,
    )
    with contextlib.suppress(OSError):  # the run is whole: one that cannot be removed is in nobody's way
        (Path(request.output) / CHECKPOINT_FILE).unlink(missing_ok=True)
    return document


def parse_places(text: str, modules: Container[str] = ()) -> str | list[str] | list[float]:
    """What `--at` says: "auto", "selfxit", shares of the cost such as 0.15,0.3, or names of modules.

    Args:
        text: Words, separated by commas.
        modules: Names of the model's modules.

    Raises:
        UsageError: It says nothing, or shares that are names of modules too.
    """
    if text in ("auto", "selfxit"):
        return text
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(
            "--at names no place", got=repr(text), expected="auto, selfxit, names, or shares such as 0.15,0.3"
        )
    shares = [_share(word) for word in words]
    if None in shares:
        return words
    twofold = [word for word in words if word in modules]
    if twofold:
        raise UsageError(
            "--at can be read in two ways",
            got=", ".join(twofold),
            expected="shares of the cost, or names of modules: the model has modules of these names",
            remedy=f"for shares --at {','.join(word.lstrip('0') for word in words)}; for modules a source that returns "
            f"MultiExit.attach(model, {words}, …)",
        )
    return [share for share in shares if share is not None]


def _share(word: str) -> float | None:
    """A number between 0 and 1; "0" and "1" are names of modules."""
    try:
        number = float(word)
    except ValueError:
        return None
    return number if 0 < number < 1 else None


def _refuse_places(request: RunRequest) -> None:
    """Refuse to say where exits go and what they are where the source has said it.

    Raises:
        UsageError: That was said.
    """
    given = [] if request.at is None else [f"--at {request.at}"]
    given += [f"--head {head}" for head in request.heads]
    if given:
        raise UsageError(
            f"{request.source} has exits attached, and those are trained",
            got=" ".join(given),
            expected="no --at or --head",
            remedy="leave them out; to attach others, give a function that returns the backbone",
        )


def _check(request: RunRequest) -> None:
    """Refuse what cannot be meant before anything is read or written."""
    if request.source.endswith(".onnx"):
        raise UsageError(
            "edgeexit train takes torch models",
            got=request.source,
            expected="module:function, a function that returns a torch module",
            remedy=f"edgeexit export {shlex.quote(request.source)} --head trained: trains exits of an ONNX model",
        )
    check_places(request.output, request.data, request.validation, what="run")
    output = Path(request.output)
    if request.resume and is_finished(output):
        raise UsageError(
            f"the run in {output} is finished",
            expected="a run that was stopped",
            remedy=f"edgeexit export {shlex.quote(request.output)}, or train anew in another folder",
        )
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not request.resume):
        raise UsageError(
            f"{output} is there already",
            got="a file" if output.is_file() else "a folder that is not empty",
            expected="a new folder for the run",
            remedy="another folder with -o, or --resume to go on with a run that was stopped",
        )
    if (request.mean is None) != (request.std is None):
        raise UsageError("--mean and --std go together", expected="both or neither")
    if request.validation is not None and os.path.realpath(request.validation) == os.path.realpath(request.data):
        raise UsageError(
            "when to stop must not be seen on the data that are trained on",
            got=f"--data and --validation are both {request.data}",
            remedy="leave --validation out: a tenth of the data is then held out",
        )


def _inputs(found: Survey, request: RunRequest) -> tuple[TensorSpec, ...]:
    """What the data are read as."""
    if found.kind == "image":
        height, width = request.size or found.size or (0, 0)
        shape = (height, width, 3 if found.mode == "RGB" else 1)
        return (TensorSpec(name="image", dtype="uint8", shape=shape),)
    specs = []
    for name, (kind, whole) in found.arrays.items():
        if name != "y" and whole:
            dtype = "float32" if kind.startswith("float") else kind
            specs.append(TensorSpec(name=name, dtype=dtype, shape=whole[1:]))
    if not specs:
        raise DataError(f"{request.data} has no array to train on", got=", ".join(found.arrays), expected="x")
    if request.mean is not None and len(specs) != 1:
        raise UsageError("--mean and --std are for models with one input", got=f"{len(specs)} inputs")
    return tuple(specs)


def _preprocessing(found: Survey, request: RunRequest) -> Preprocessing:
    if found.kind == "array":
        return Preprocessing(kind="array", mean=request.mean, std=request.std)
    return Preprocessing(
        kind="image",
        mode=found.mode,
        size=request.size or found.size,
        resize="crop" if request.resize == "crop" else "exact",
        mean=request.mean,
        std=request.std,
    )


def _splits(
    request: RunRequest, inputs: tuple[TensorSpec, ...], preprocessing: Preprocessing, settings: TrainSettings
) -> tuple[Dataset, Dataset]:
    """What is trained on, and what is held out."""

    def opened(path: str, class_names: Sequence[str] | None = None) -> Dataset:
        if settings.needs_labels:
            return open_data(path, inputs, preprocessing, class_names)
        return open_files([path], inputs, preprocessing)

    whole = opened(request.data)
    if request.validation is not None:
        return whole, opened(request.validation, whole.class_names or None)
    rest, held = whole.split(HELD_OUT, settings.seed)
    check_held(held, whole, request.data, "--validation")
    return rest, held


def _class_names(request: RunRequest, found: Survey, data: Dataset, network: MultiExit) -> tuple[str, ...]:
    """Names of the network's classes, as far as the data have any.

    Raises:
        DataError: The data have other classes than the network.
    """
    if data.labels is None:
        return found.class_names if len(found.class_names) == network.classes else ()
    known = len(data.class_names)
    if known > network.classes or (found.kind == "image" and known != network.classes):
        raise DataError(
            f"{request.data} has {'more' if known > network.classes else 'fewer'} classes than the model",
            got=f"{known}: {', '.join(data.class_names[:10])}",
            expected=f"{network.classes} classes, in the order of the model's",
        )
    return data.class_names if found.kind == "image" else ()


def _example(feed: Feed) -> torch.Tensor | dict[str, torch.Tensor]:
    """Two rows: the only input, or all by name."""
    values = feed.example()
    return values[0] if len(values) == 1 else dict(zip(feed.names, values, strict=True))
