"""Checks on the tensors that policies keep in a bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError

__all__ = ["positive_tensor"]


def positive_tensor(
    tensors: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...], *, allow_zero: bool = False
) -> NDArray[np.float32]:
    """The tensor called `name`, of this shape, finite and above zero (or not below it).

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
    if not (np.isfinite(found).all() and ((found >= 0) if allow_zero else (found > 0)).all()):
        raise BundleError(
            f"exits.safetensors: {name} holds an unusable value",
            got=found.tolist(),
            expected="finite numbers, " + ("none below zero" if allow_zero else "all above zero"),
        )
    return found
