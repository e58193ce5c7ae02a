"""Whether the two tensor files hold what the manifest promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle.layout import CHECK_FILE, EXITS_FILE, STATISTICS_FILE
from edgeexit.bundle.validate import policy_tensor_specs
from edgeexit.errors import BundleError
from edgeexit.manifest import Manifest

__all__ = ["check_exits", "check_golden", "check_statistics"]

Tensors = Mapping[str, NDArray[Any]]


def check_exits(manifest: Manifest, tensors: Tensors) -> None:
    """Refuse tensors of exits.safetensors that are not those the manifest names, or not finite.

    Raises:
        BundleError: The message names the tensor.
    """
    specs = policy_tensor_specs(manifest)
    _check_names(EXITS_FILE, tensors, {*specs, *manifest.policy.tensors})
    for name, array in tensors.items():
        if name in specs:
            _check_array(EXITS_FILE, name, array, specs[name].dtype, specs[name].shape)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"{EXITS_FILE}: tensor {name!r} holds NaN or infinity")


def check_golden(manifest: Manifest, tensors: Tensors) -> None:
    """Refuse tensors of check.safetensors that are not golden samples of this cascade.

    Raises:
        BundleError: The message names the tensor.
    """
    exits, classes = len(manifest.exits), len(manifest.labels)
    samples = len(tensors["labels"]) if "labels" in tensors and tensors["labels"].ndim else 0
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        **{f"input.{spec.name}": (spec.dtype, (samples, *spec.shape)) for spec in manifest.inputs},
        **{f"logits.{index}": ("float32", (samples, classes)) for index in range(exits)},
        "labels": ("int64", (samples,)),
        "exits": ("int64", (samples,)),
        "probabilities": ("float32", (samples,)),
    }
    _check_names(CHECK_FILE, tensors, set(expected))
    for name, (dtype, shape) in expected.items():
        _check_array(CHECK_FILE, name, tensors[name], dtype, shape)
    for name, largest in (("labels", classes - 1), ("exits", exits - 1), ("probabilities", 1)):
        values = tensors[name]
        if not ((values >= 0) & (values <= largest)).all():
            raise BundleError(f"{CHECK_FILE}: tensor {name!r} holds a value outside 0 to {largest}")


def check_statistics(manifest: Manifest, tensors: Tensors) -> None:
    """Refuse tensors of statistics.safetensors that are not those of this cascade's heads, or unusable.

    Raises:
        BundleError: The message names the tensor.
    """
    from edgeexit.heads.stored import statistics_shapes  # a device that only runs needs no closed forms

    expected = statistics_shapes(manifest)
    _check_names(STATISTICS_FILE, tensors, set(expected))
    for name, (dtype, shape) in expected.items():
        _check_array(STATISTICS_FILE, name, tensors[name], dtype, shape)
        if not np.isfinite(tensors[name]).all():
            raise BundleError(f"{STATISTICS_FILE}: tensor {name!r} holds NaN or infinity")
        if name.startswith("counts.") and (tensors[name].min() < 0 or tensors[name].sum() <= 0):
            raise BundleError(f"{STATISTICS_FILE}: tensor {name!r} holds no counts", expected="none below 0, one above")


def _check_names(file: str, tensors: Tensors, expected: set[str]) -> None:
    if missing := expected - set(tensors):
        raise BundleError(f"{file}: tensor {min(missing)!r} is missing")
    if extra := set(tensors) - expected:
        raise BundleError(f"{file}: tensor {min(extra)!r} is not one that the manifest names")


def _check_array(file: str, name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> None:
    if (array.dtype.name, array.shape) != (dtype, shape):
        raise BundleError(
            f"{file}: tensor {name!r} does not fit the manifest",
            got=f"{array.dtype.name} {list(array.shape)}",
            expected=f"{dtype} {list(shape)}",
        )
