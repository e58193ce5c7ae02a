"""Folders of `edgeexit train` as sources of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgeexit.console import say
from edgeexit.data import Survey
from edgeexit.errors import DataError, MissingPartError, ModelError, UsageError
from edgeexit.manifest import Preprocessing
from edgeexit_exporters.origins import files_inside, search_here
from edgeexit_exporters.settings import ExportSettings
from edgeexit_exporters.sources import Source, build_module, example_tensors, source_of

if TYPE_CHECKING:
    import torch

    from edgeexit.training.store import Run

__all__ = ["bare", "is_finished", "is_run", "load_run_source", "open_run", "with_run"]

_RUN_FILE, _CHECKPOINT_FILE = "training.json", "checkpoint.safetensors"


def is_finished(folder: str | Path) -> bool:
    """Whether the folder holds a training run that came to its end."""
    return (Path(folder) / _RUN_FILE).is_file()


def is_run(source: str) -> bool:
    """Whether `source` is the folder of a training run.

    Raises:
        DataError: It is one that was not finished.
    """
    folder = Path(source)
    if not is_finished(folder) and (folder / _CHECKPOINT_FILE).is_file():
        raise DataError(
            f"the training run in {folder} is not finished",
            got="a checkpoint",
            expected=_RUN_FILE,
            remedy="edgeexit train … --resume with the options of that run",
        )
    return is_finished(folder)


def open_run(folder: str) -> Run:
    """Read a run.

    Raises:
        MissingPartError: torch is not installed.
        DataError: A file is missing, altered, or of a newer version.
    """
    try:
        from edgeexit.training.store import load_run
    except ModuleNotFoundError as error:
        raise MissingPartError.package("reading a training run", "edgeexit[train]") from error
    return load_run(folder)


def with_run(settings: ExportSettings, run: Run, data: Survey) -> ExportSettings:
    """Settings in which the run's preprocessing stands where they say nothing.

    Arrays of floats, after training on pictures, are what the model itself takes: nothing is done to them.

    Raises:
        UsageError: The settings contradict it.
    """
    found = run.document.preprocessing
    floats = any(kind.startswith("float") for kind, _ in data.arrays.values())
    if found is None or (found.kind == "image" and floats):
        return settings
    of_bytes = found.kind == "image" or "uint8" in {spec.dtype for spec in run.document.inputs}
    if of_bytes != floats:  # the same units: bytes both times, or floats
        _refuse_normalisation(settings, found)
    if found.kind == "image" and data.kind == "image":
        _refuse_size(settings, found)
    if settings.mean is None:
        settings = replace(settings, mean=found.mean, std=found.std)
    return replace(
        settings,
        size=settings.size or found.size,
        resize=settings.resize or (found.resize if found.kind == "image" else None),
    )


def _refuse_normalisation(settings: ExportSettings, found: Preprocessing) -> None:
    """Where samples come in the units of the training, what is done to them is what was done there."""
    if settings.mean is None or settings.std is None:
        return
    if not (_same(settings.mean, found.mean) and _same(settings.std, found.std)):
        none = "none, pictures as numbers from 0 to 1" if found.kind == "image" else "none"
        raise UsageError(
            "the run was trained with another normalisation",
            got=_normalisation(settings.mean, settings.std),
            expected="the run's own: "
            + (none if found.mean is None or found.std is None else _normalisation(found.mean, found.std)),
            remedy="leave --mean and --std out",
        )


def _refuse_size(settings: ExportSettings, found: Preprocessing) -> None:
    """Other sizes are contradictions; to crop where all pictures of the training had the size is none."""
    if settings.size is not None and found.size is not None and tuple(settings.size) != tuple(found.size):
        raise UsageError(
            "the run was trained on pictures of another size",
            got=f"--size {settings.size[0]},{settings.size[1]}",
            expected=f"the run's own: {found.size[0]},{found.size[1]}",
            remedy="leave --size out",
        )
    if settings.resize == "exact" and found.resize != "exact":
        raise UsageError(
            "the run was trained on pictures that were scaled",
            got=f"--resize {settings.resize}",
            expected=f"the run's own: {found.resize}",
            remedy="leave --resize out",
        )


def _same(given: tuple[float, ...], own: tuple[float, ...] | None) -> bool:
    """Whether both say the same of each channel; one number stands for all of them."""
    return own is not None and (given == own or (1 in (len(given), len(own)) and len({*given, *own}) == 1))


def _normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return " ".join(
        f"--{word} {','.join(f'{number:g}' for number in numbers)}" for word, numbers in (("mean", mean), ("std", std))
    )


def load_run_source(run: Run, feeds: Mapping[str, NDArray[Any]] | NDArray[Any]) -> Source:
    """Export the backbone of a run; its heads come along, but for those that learnt nothing.

    Args:
        run: The run.
        feeds: As for `edgeexit_exporters.sources.load_torch`.

    Raises:
        DataError: The run names code that lies in its own folder.
        ModelError: The backbone is not that of the run, cannot be exported, or no head learnt anything.
        UsageError: The backbone's function is not there.
    """
    from edgeexit.training.store import restore

    name = run.document.source
    _refuse_own_code(run)
    say(f"importing {name}, as the run in {run.folder} says")
    backbone = bare(build_module(name, outside=run.folder)).eval().requires_grad_(False)
    names, examples = example_tensors(name, backbone, feeds)
    network = restore(run, backbone, examples[0] if len(examples) == 1 else dict(zip(names, examples, strict=True)))
    if run.useless:
        say(f"left out, because they learnt nothing: {', '.join(run.useless)}")
        network = network.without(run.useless)
    if not network.at:
        raise ModelError(f"no exit of the run in {run.folder} learnt anything", remedy="train again, for longer")
    source = source_of(name, network.requires_grad_(False), feeds)
    return replace(
        source,
        name=run.folder.resolve().name,
        sha256=run.document.weights_sha256,
        class_names=run.document.class_names or None,
        training=run.document.settings,
        held_out=run.document.held_out,
    )


def _refuse_own_code(run: Run) -> None:
    """A run is data: whoever copies one must not run what came with it.

    Raises:
        DataError: Its source would be imported from its own folder.
    """
    search_here(outside=run.folder)
    found = files_inside(run.document.source.partition(":")[0], run.folder)
    if found:
        raise DataError(
            f"the run in {run.folder} brings code of its own, which is not run",
            got=f"source {run.document.source}, in {found[0]}",
            expected="a source outside the run's folder, as it was trained with",
            remedy="read that code; if it is what you want, move it out of the folder",
        )


def bare(module: torch.nn.Module) -> torch.nn.Module:
    """The backbone, if exits are attached to the module."""
    from edgeexit.training.attach import MultiExit

    return module.backbone if isinstance(module, MultiExit) else module
