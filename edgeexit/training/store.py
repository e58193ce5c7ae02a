"""The store: the folder of a training run, from which the trained network is made again.

    RUN/training.json         what was trained, how, and what came of it
    RUN/weights.safetensors   the whole network's weights, or, under a frozen backbone, those of its heads
    RUN/metrics.jsonl, events/, checkpoint.safetensors   of the run itself

The backbone's code is not stored: `training.json` names its source. Under a frozen backbone it has the SHA-256 of the
backbone's state, so that heads never meet another one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor, nn

from edgeexit.bundle.staging import sync_folder
from edgeexit.errors import DataError, EdgeExitError, ModelError, UsageError
from edgeexit.files import read_small
from edgeexit.manifest import Preprocessing, TensorSpec
from edgeexit.training.attach import MultiExit
from edgeexit.training.heads import Head, HeadSpec
from edgeexit.training.loop.checkpoints import plain
from edgeexit.training.loop.weights import state_digest
from edgeexit.training.model.calls import Example
from edgeexit.training.outcomes import ExitOutcome, TrainingResult
from edgeexit.training.settings import TrainSettings

__all__ = ["RUN_FILE", "Run", "RunDocument", "load_run", "restore", "save_run"]

RUN_FILE = "training.json"
WEIGHTS_FILE = "weights.safetensors"
FORMAT_NAME = "edgeexit-training"
FORMAT_VERSION = 1

_MAX_BYTES = 1 << 24
_REMEDY = "train again"


class RunDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `training.json`.

    Attributes:
        format, version: "edgeexit-training", 1.
        source: The backbone as it was named, such as "module:function".
        at: Names of the modules whose outputs heads read, cheapest first.
        heads: One for each, all sizes filled in.
        settings: Of the run.
        preprocessing: How raw samples become inputs; None where arrays go as they are.
        inputs: The data's arrays, without the batch axis; empty where nobody said.
        class_names: In the order of the logits; empty where nobody said.
        exits: What each can do on held-out samples, the whole model last.
        epochs, best_epoch, seconds: As in `TrainingResult`.
        held_out: Whether the samples that training was judged by were held out of the training data themselves (True)
            or given apart (False); None: nobody said.
        whole: Whether the weights are those of the whole network (joint) or of the heads alone.
        backbone_sha256: The state of the backbone that the heads belong to; None where `whole`.
        weights_sha256: Of `weights.safetensors`.
    """

    format: str = FORMAT_NAME
    version: int = FORMAT_VERSION
    source: str
    at: tuple[str, ...]
    heads: tuple[HeadSpec, ...]
    settings: TrainSettings
    preprocessing: Preprocessing | None
    inputs: tuple[TensorSpec, ...]
    class_names: tuple[str, ...]
    exits: tuple[ExitOutcome, ...]
    epochs: int
    best_epoch: int
    seconds: float
    held_out: bool | None = None
    whole: bool
    backbone_sha256: str | None
    weights_sha256: str


@dataclass(frozen=True)
class Run:
    """A run as it was stored: its document and its weights by name."""

    folder: Path
    document: RunDocument
    weights: dict[str, Tensor]

    @property
    def useless(self) -> tuple[str, ...]:
        """Names of the exits that did not converge."""
        return tuple(exit.name for exit in self.document.exits if not exit.converged and exit.name in self.document.at)


def save_run(
    folder: Path,
    network: MultiExit,
    settings: TrainSettings,
    result: TrainingResult,
    *,
    source: str,
    preprocessing: Preprocessing | None = None,
    inputs: Sequence[TensorSpec] = (),
    class_names: Sequence[str] = (),
    held_out: bool | None = None,
) -> RunDocument:
    """Write a run; `training.json` comes last, so that a folder that has one is whole.

    What is not said here is explained at `RunDocument`.

    Raises:
        UsageError: A file cannot be written.
    """
    whole = settings.mode == "joint"
    part = network if whole else network.heads
    data = safetensors.torch.save({name: plain(tensor).clone() for name, tensor in part.state_dict().items()})
    document = RunDocument(
        source=source,
        at=network.at,
        heads=tuple(cast(Head, head).spec for head in network.heads),
        settings=settings,
        preprocessing=preprocessing,
        inputs=tuple(inputs),
        class_names=tuple(class_names),
        exits=result.exits,
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        seconds=result.seconds,
        held_out=held_out,
        whole=whole,
        backbone_sha256=None if whole else state_digest(network.backbone),
        weights_sha256=hashlib.sha256(data).hexdigest(),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / WEIGHTS_FILE, data)
        _write(folder / RUN_FILE, msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written", got=error.strerror) from error
    return document


def load_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        DataError: There is no run, it is of a newer version, or a file was altered.
    """
    folder = Path(folder)
    path = folder / RUN_FILE
    try:
        document = _document(read_small(path, "training run", _MAX_BYTES, error=DataError), path)
        data = (folder / WEIGHTS_FILE).read_bytes()
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{folder} is not the folder of a training run", got=got, expected=f"{RUN_FILE} and {WEIGHTS_FILE}"
        ) from error
    if hashlib.sha256(data).hexdigest() != document.weights_sha256:
        raise DataError(f"{folder / WEIGHTS_FILE} does not belong to {RUN_FILE}", got="another SHA-256", remedy=_REMEDY)
    try:
        return Run(folder, document, safetensors.torch.load(data))
    except safetensors.SafetensorError as error:
        raise DataError(f"{folder / WEIGHTS_FILE} cannot be read", got=error, remedy=_REMEDY) from error


def restore(run: Run, backbone: nn.Module, example: Example) -> MultiExit:
    """The trained network: exits attached to the backbone as they were, with their weights.

    Args:
        run: What was stored.
        backbone: As it was before training. After a joint run its own weights are replaced.
        example: At least 2 rows of its inputs.

    Returns:
        The network in eval mode, with all exits; `network.without(run.useless)` leaves out those that did not converge.

    Raises:
        ModelError: It is another backbone.
    """
    document = run.document
    if not document.whole and state_digest(backbone) != document.backbone_sha256:
        raise ModelError(
            f"the heads in {run.folder} belong to another backbone",
            got="weights with another SHA-256",
            expected=f"those of {document.source} when the run began",
            remedy="give the same backbone with the same weights, or train again",
        )
    try:
        network = MultiExit.attach(backbone, list(document.at), list(document.heads), example=example)
        part = network if document.whole else network.heads
        part.load_state_dict(run.weights)
    except (EdgeExitError, RuntimeError) as error:  # RuntimeError: names or shapes that torch finds different
        raise ModelError(
            f"the run in {run.folder} does not fit this backbone",
            got=error,
            expected=f"{document.source}",
            remedy="give the backbone that was trained",
        ) from error
    return network.eval()


def _document(data: bytes, path: Path) -> RunDocument:
    try:
        head = msgspec.json.decode(data, type=_Header)
        if (head.format, head.version) != (FORMAT_NAME, FORMAT_VERSION):
            raise DataError(
                f"{path} is of another version",
                got=f"{head.format} version {head.version}",
                expected=f"{FORMAT_NAME} version {FORMAT_VERSION}",
                remedy="read it with the version of EdgeExit that wrote it",
            )
        return msgspec.json.decode(data, type=RunDocument)
    except (msgspec.MsgspecError, UnicodeDecodeError, UsageError, RecursionError) as error:
        raise DataError(f"{path} cannot be read", got=error, expected="what a training run writes") from error


class _Header(msgspec.Struct):
    format: str
    version: int


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f".{path.name}.partial")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    sync_folder(path.parent)
