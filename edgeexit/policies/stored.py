"""Checks on the tensors that policies keep in a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError

__all__ = ["finite_tensor", "positive_tensor"]

_LEAST = float(np.finfo(np.float32).tiny)
"""The smallest float32 whose reciprocal is one too."""


def finite_tensor(tensors: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor called `name`, of this shape, finite.

    Raises:
        BundleError: It is missing or unusable.
    """
    found = tensors.get(name)
    if found is None or found.shape != shape:
        raise BundleError(
            f"exits.safetensors has no usable tensor {name}",
            got=None if found is None else f"shape {found.shape}",
            expected=f"shape {shape}",
        )
    _check(name, found, np.isfinite(found), "finite numbers")
    return found


def positive_tensor(
    tensors: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...], *, allow_zero: bool = False
) -> NDArray[np.float32]:
    """The tensor called `name`, of this shape, finite and above zero (or not below it).

    Above zero means that the reciprocal is finite as well.

    Raises:
        BundleError: It is missing or unusable.
    """
    found = finite_tensor(tensors, name, shape)
    expected = "finite numbers, " + ("none below zero" if allow_zero else "all above zero")
    _check(name, found, found >= (0.0 if allow_zero else _LEAST), expected)
    return found


def _check(name: str, found: NDArray[np.float32], usable: NDArray[np.bool_], expected: str) -> None:
    if not usable.all():
        raise BundleError(
            f"exits.safetensors: {name} holds an unusable value", got=found[~usable][0].item(), expected=expected
        )
