"""Batches as a user gives them, checked against the manifest before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import DataError
from edgeexit.manifest import TensorSpec

__all__ = ["Arrays", "Batch", "BatchChecker", "blank_batch"]

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name; axis 0 of each is the same samples."""

Batch = NDArray[Any] | Arrays
"""An array for a model of one input, or arrays by the inputs' names. Axis 0 is the batch."""


class BatchChecker:
    """Checks batches against a model's inputs.

    Args:
        inputs: The model's inputs, as the manifest lists them.
    """

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._inputs = tuple((spec.name, np.dtype(spec.dtype), tuple(spec.shape)) for spec in inputs)
        self._names = {spec.name for spec in inputs}

    def check(self, batch: Batch) -> tuple[list[NDArray[Any]], int]:
        """The batch's arrays in the order of the inputs, C-contiguous, and the number of samples.

        Raises:
            DataError: A name, dtype or shape differs from the manifest. Values are not looked at.
        """
        if not isinstance(batch, Mapping):
            if len(self._inputs) != 1:
                raise DataError(
                    "the model has several inputs", got=type(batch).__name__, expected=f"a dict of {self._described()}"
                )
            batch = {self._inputs[0][0]: batch}
        elif batch.keys() != self._names:
            raise DataError(
                "the batch's names are not the model's inputs", got=sorted(batch), expected=self._described()
            )
        arrays = [_checked(batch[name], name, dtype, shape) for name, dtype, shape in self._inputs]
        n = len(arrays[0])
        for array, (name, _, _) in zip(arrays[1:], self._inputs[1:], strict=True):
            if len(array) != n:
                raise DataError(
                    f"the inputs {self._inputs[0][0]} and {name} differ in length", got=len(array), expected=n
                )
        return arrays, n

    def _described(self) -> str:
        return ", ".join(f"{name}: {_described(dtype, shape)}" for name, dtype, shape in self._inputs)


def blank_batch(inputs: Sequence[TensorSpec], n: int) -> dict[str, NDArray[Any]]:
    """Zeros for n samples, to warm up with."""
    return {spec.name: np.zeros((n, *spec.shape), dtype=spec.dtype) for spec in inputs}


def _checked(array: NDArray[Any], name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise DataError(f"the input {name} is no array", got=type(array).__name__, expected=_described(dtype, shape))
    if array.dtype != dtype or array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise DataError(
            f"the input {name} has the wrong type or shape",
            got=f"{array.dtype} {array.shape}",
            expected=_described(dtype, shape),
        )
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _described(dtype: np.dtype[Any], shape: tuple[int, ...]) -> str:
    return f"{dtype} ({', '.join(['n', *map(str, shape)])}{')' if shape else ',)'}"
