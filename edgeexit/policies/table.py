"""The registered policies, and how a bundle's policy is rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.manifest import Manifest
from edgeexit.policies.base import Policy
from edgeexit.policies.max_probability import MaxProbability

__all__ = ["POLICIES", "load_policy"]

Loader = Callable[[Sequence[float], Mapping[str, NDArray[np.float32]]], Policy]

POLICIES: dict[str, Loader] = {
    "max-probability": MaxProbability.load,
}


def load_policy(manifest: Manifest, tensors: Mapping[str, NDArray[np.float32]]) -> Policy:
    """The policy that a manifest names, with its thresholds and tensors.

    Raises:
        BundleError: The name is not registered, or its tensors do not fit.
    """
    loader = POLICIES.get(manifest.policy.name)
    if loader is None:
        raise BundleError(
            "manifest.json names a policy that this version does not know",
            got=manifest.policy.name,
            expected=" or ".join(sorted(POLICIES)),
            remedy="pip install --upgrade edgeexit",
        )
    return loader([np.inf if e.threshold is None else e.threshold for e in manifest.exits], tensors)
