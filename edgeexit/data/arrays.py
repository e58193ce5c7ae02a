"""Arrays: the samples of an `.npz` matched to a model's inputs.

Values keep their meaning. Cast without a word are floats of any width to float32, int32 to int64 and
back, and, in arrays of rank 1 or 2 (features, tokens, masks), integers and booleans to any integer
width; a value that the new dtype cannot hold is refused. Nothing else is cast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.data.archives import load_member, read_members
from edgeexit.data.dataset import Batch
from edgeexit.errors import DataError
from edgeexit.manifest import TensorSpec

__all__ = ["Arrays", "read_labels", "read_samples"]

CHUNK_BYTES = 1 << 24  # how much of an array is looked at in one go
MAX_CLASSES = 1 << 20  # where the data alone say how many classes there are


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays as samples: rows of `arrays`, cast to `dtypes`, both by input name."""

    arrays: Mapping[str, NDArray[Any]]
    dtypes: Mapping[str, np.dtype[Any]]
    workers: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """See `Source.read`."""
        return {name: array[rows].astype(self.dtypes[name], copy=False) for name, array in self.arrays.items()}


def read_samples(path: Path, inputs: Sequence[TensorSpec]) -> Arrays:
    """The arrays that feed `inputs`: named as they are, or `x` where there is only one.

    Every value is looked at once.

    Raises:
        DataError: An array is missing, its shape or dtype does not fit, it holds NaN or infinity,
            lengths differ, or there are no samples.
    """
    members = read_members(path)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        name = "x" if len(inputs) == 1 and (spec.name not in members or spec.name == "y") else spec.name
        if name not in members:
            raise _missing(path, name, members)
        member = members[name]
        _check_shape(path, name, member.shape, spec)
        _check_dtype(path, name, member.dtype, spec)
        array = load_member(path, member)
        _check_values(path, name, array, np.dtype(spec.dtype))
        arrays[spec.name] = array
    _check_lengths(path, {name: len(array) for name, array in arrays.items()})
    return Arrays(arrays, {spec.name: np.dtype(spec.dtype) for spec in inputs})


def read_labels(
    path: Path, samples: int, class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The labels `y` of an archive, (samples,) int64, and the names of the classes.

    Without `class_names` the classes are "0" to the largest label.

    Raises:
        DataError: `y` is missing, is not (samples,) integers, or is out of range.
    """
    members = read_members(path)
    if "y" not in members:
        raise _missing(path, "y", members)
    member = members["y"]
    if member.dtype.kind not in "iu" or len(member.shape) != 1:
        raise DataError(
            f"{path}: y does not hold labels",
            got=f"{member.dtype} of shape {member.shape}",
            expected=f"integers of shape ({samples},)",
            remedy="y.reshape(-1).astype('int64'), with classes numbered from 0",
        )
    _check_lengths(path, {"samples": samples, "y": member.shape[0]})
    labels = np.asarray(load_member(path, member))
    limit = MAX_CLASSES if class_names is None else len(class_names)
    wrong = np.flatnonzero((labels < 0) | (labels >= limit))
    if wrong.size:
        raise DataError(
            f"{path}: y[{wrong[0]}] is out of range",
            got=int(labels[wrong[0]]),
            expected=f"0 to {limit - 1}",
            remedy="number the classes from 0 in the order of the model's logits",
        )
    names = tuple(map(str, range(int(labels.max()) + 1))) if class_names is None else tuple(class_names)
    return labels.astype(np.int64), names


def _check_shape(path: Path, name: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
    if len(shape) != len(spec.shape) + 1 or shape[1:] != tuple(spec.shape):
        remedy = "check what was saved"
        if sorted(shape[1:]) == sorted(spec.shape):
            remedy = "move its axes with numpy.transpose"
        elif math.prod(shape[1:]) == math.prod(spec.shape):
            remedy = "give it that shape with numpy.reshape"
        raise DataError(
            f"{path}: {name} has the wrong shape",
            got=f"{shape}",
            expected=f"({', '.join(['n', *map(str, spec.shape)])}) for the model's input {spec.name}",
            remedy=remedy,
        )
    if not shape[0]:
        raise DataError(f"{path}: {name} holds no samples", got=f"{shape}", expected="at least one row")


def _check_dtype(path: Path, name: str, dtype: np.dtype[Any], spec: TensorSpec) -> None:
    wanted = np.dtype(spec.dtype)
    whole = dtype.kind in "biu" and wanted.kind in "iu"
    tokens = {dtype.newbyteorder("="), wanted} <= {np.dtype(np.int32), np.dtype(np.int64)}
    floats = dtype.kind == "f" and wanted == np.float32
    if dtype.newbyteorder("=") == wanted or floats or (whole and (len(spec.shape) < 2 or tokens)):
        return
    remedy = f"{name}.astype('{wanted}'), if that is what the values mean"
    if dtype == np.uint8 and wanted.kind == "f":
        remedy = (
            f"scale the values as in training and save them as {wanted}, "
            "or export with --mean and --std, so that the model takes uint8 pictures"
        )
    elif wanted == np.uint8:
        remedy = "save the pictures before any scaling, as uint8 from 0 to 255: the model scales them itself"
    raise DataError(
        f"{path}: {name} has the wrong dtype",
        got=dtype,
        expected=f"{wanted} for the model's input {spec.name}",
        remedy=remedy,
    )


def _check_values(path: Path, name: str, array: NDArray[Any], wanted: np.dtype[Any]) -> None:
    if wanted.kind != "f" and array.dtype == wanted:
        return
    for start, rows in _pieces(array):
        with np.errstate(over="ignore"):
            cast = rows.astype(wanted, copy=False)
        good = np.isfinite(cast) if wanted.kind == "f" else cast == rows
        if not good.all():
            at = tuple(int(axis[0]) for axis in np.nonzero(~good))
            index = ", ".join(map(str, (start + at[0], *at[1:])))
            raise DataError(
                f"{path}: {name}[{index}] cannot be used",
                got=rows[at],
                expected=f"finite numbers within {wanted}" if wanted.kind == "f" else f"a value that {wanted} holds",
                remedy="clean the data",
            )


def _pieces(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    rows = max(1, CHUNK_BYTES // max(1, array.nbytes // len(array)))
    return ((start, array[start : start + rows]) for start in range(0, len(array), rows))


def _check_lengths(path: Path, lengths: Mapping[str, int]) -> None:
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(f"{path}: arrays differ in length", got=got, expected="one row per sample in each")


def _missing(path: Path, name: str, members: Mapping[str, object]) -> DataError:
    return DataError(
        f"{path} has no array {name}",
        got=", ".join(members) or "no arrays",
        expected="the arrays x and y, or y and one array per model input, named as the inputs are",
        remedy="numpy.savez(path, x=…, y=…)"
        + ("; data without labels: --labels model, where the command has it" if name == "y" else ""),
    )
