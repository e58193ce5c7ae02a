"""Folders of `edgeexit train` as sources of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgeexit.console import say
from edgeexit.data import Survey
from edgeexit.errors import DataError, MissingPartError, ModelError
from edgeexit_exporters.settings import ExportSettings
from edgeexit_exporters.sources import Source, build_module, example_tensors, source_of

if TYPE_CHECKING:
    import torch

    from edgeexit.training.store import Run

__all__ = ["bare", "is_run", "load_run_source", "open_run", "with_run"]

_RUN_FILE, _CHECKPOINT_FILE = "training.json", "checkpoint.safetensors"


def is_run(source: str) -> bool:
    """Whether `source` is the folder of a training run.

    Raises:
        DataError: It is one that was not finished.
    """
    folder = Path(source)
    if not (folder / _RUN_FILE).is_file() and (folder / _CHECKPOINT_FILE).is_file():
        raise DataError(
            f"the training run in {folder} is not finished",
            got="a checkpoint",
            expected=_RUN_FILE,
            remedy="edgeexit train … --resume with the options of that run",
        )
    return (folder / _RUN_FILE).is_file()


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
    """
    found = run.document.preprocessing
    floats = any(kind.startswith("float") for kind, _ in data.arrays.values())
    if found is None or (found.kind == "image" and floats):
        return settings
    if settings.mean is None:
        settings = replace(settings, mean=found.mean, std=found.std)
    return replace(
        settings,
        size=settings.size or found.size,
        resize=found.resize if settings.resize == "exact" and found.kind == "image" else settings.resize,
    )


def load_run_source(run: Run, feeds: Mapping[str, NDArray[Any]] | NDArray[Any]) -> Source:
    """Export the backbone of a run; its heads come along, but for those that learnt nothing.

    Args:
        run: The run.
        feeds: As for `edgeexit_exporters.sources.load_torch`.

    Raises:
        ModelError: The backbone is not that of the run, cannot be exported, or no head learnt anything.
        UsageError: The backbone's function is not there.
    """
    from edgeexit.training.store import restore

    name = run.document.source
    backbone = bare(build_module(name)).eval().requires_grad_(False)
    names, examples = example_tensors(name, backbone, feeds)
    network = restore(run, backbone, dict(zip(names, examples, strict=True)))
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
    )


def bare(module: torch.nn.Module) -> torch.nn.Module:
    """The backbone, if exits are attached to the module."""
    from edgeexit.training.attach import MultiExit

    return module.backbone if isinstance(module, MultiExit) else module
