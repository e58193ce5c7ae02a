"""Checkpoints: one file from which a run goes on as if it had never stopped.

A checkpoint is a safetensors file: weights and the optimisers' tensors, and in its metadata, under `edgeexit`, a JSON
document with everything else and the SHA-256 of it all. Nothing is unpickled. Random generators need no place in it:
what a step draws follows from the seed and the step (`randomness`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from edgeexit.bundle.staging import sync_folder
from edgeexit.errors import DataError, UsageError
from edgeexit.training.settings import TrainSettings

__all__ = ["CHECKPOINT_FILE", "Checkpoint", "load_checkpoint", "save_checkpoint", "tensor_digest"]

CHECKPOINT_FILE = "checkpoint.safetensors"
FORMAT_NAME = "edgeexit-checkpoint"
FORMAT_VERSION = 1
_KEY = "edgeexit"
_REMEDY = "remove it and train anew"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run has got to.

    Attributes:
        settings: Of the run.
        about: What else has to be the same when it is taken up again: name → description.
        epoch: Epochs that are done.
        step: Steps done of the one that is not.
        seconds: Spent so far.
        numbers: Whatever else the learner needs; plain JSON, floats exact.
        tensors: The learner's, by name.
    """

    settings: TrainSettings
    about: Mapping[str, str]
    epoch: int
    step: int
    seconds: float
    numbers: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def check_same(self, settings: TrainSettings, about: Mapping[str, str], path: Path) -> None:
        """Refuse to go on with anything else than the run began with.

        Raises:
            UsageError: A setting, the data or the model is another.
        """
        for name, (here, there) in settings.changes(self.settings).items():
            raise UsageError(
                f"the run of {path} was begun with {name} {there}, not {here}",
                remedy=f"resume with {name} {there}, or train anew in another folder",
            )
        for name in {**about, **self.about}:
            if about.get(name) != self.about.get(name):
                raise UsageError(
                    f"{path} is of a run whose {name} was different",
                    got=about.get(name),
                    expected=self.about.get(name),
                    remedy="resume with what it began with, or train anew in another folder",
                )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the file is there as a whole, or the one before it is.

    Raises:
        UsageError: It cannot be written.
    """
    document = {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "settings": msgspec.to_builtins(checkpoint.settings),
        "about": dict(checkpoint.about),
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "numbers": checkpoint.numbers,
    }
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    tensors = {name: plain(tensor).clone() for name, tensor in checkpoint.tensors.items()}  # the format shares nothing
    metadata = {_KEY: text, "sha256": tensor_digest(tensors, text)}
    new = path.with_name(f".{path.name}.partial")
    try:
        with new.open("wb") as file:
            file.write(safetensors.torch.save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path} cannot be written", got=error.strerror) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint whose every bit is as it was written.

    Raises:
        DataError: The file is damaged, is no checkpoint, or is of a newer version.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error
    text = metadata.get(_KEY, "")
    if metadata.get("sha256") != tensor_digest(tensors, text):
        raise _damaged(path, "a checksum that does not fit" if text else "no checkpoint of EdgeExit")
    document = json.loads(text)
    if document.get("format") != FORMAT_NAME or document.get("version") != FORMAT_VERSION:
        got = f"{document.get('format')} version {document.get('version')}"
        raise DataError(
            f"{path} is of another version", got=got, expected=f"{FORMAT_NAME} version {FORMAT_VERSION}", remedy=_REMEDY
        )
    try:
        settings = msgspec.convert(document["settings"], TrainSettings)
        return Checkpoint(
            settings,
            document["about"],
            document["epoch"],
            document["step"],
            document["seconds"],
            document["numbers"],
            tensors,
        )
    except (msgspec.ValidationError, KeyError) as error:
        raise _damaged(path, error) from error


def tensor_digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of named tensors (names, data types, shapes, values; however they lie in memory) and a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = plain(tensors[name])
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous, without a gradient."""
    return tensor.detach().cpu().contiguous()


def _damaged(path: Path, got: object) -> DataError:
    return DataError(f"{path} cannot be read as a checkpoint", got=got, expected="a whole checkpoint", remedy=_REMEDY)
