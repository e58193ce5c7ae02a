"""The registered policies, and how a bundle's policy is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.manifest import Manifest
from edgeexit.policies.base import Policy
from edgeexit.policies.max_probability import MaxProbability
from edgeexit.policies.pooled import PooledProbability

__all__ = ["POLICIES", "load_policy"]


class PolicyKind(Protocol):
    """A class of policies: fitted on cached logits, rebuilt from a bundle."""

    def fit(self, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> Policy:
        """Fit on E arrays of shape (n, C) with labels (n,); nobody leaves yet."""

    def load(self, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> Policy:
        """Rebuild from a bundle's tensors."""


POLICIES: dict[str, PolicyKind] = {
    "max-probability": MaxProbability,
    "pooled-probability": PooledProbability,
}


def load_policy(manifest: Manifest, tensors: Mapping[str, NDArray[np.float32]]) -> Policy:
    """The policy that a manifest names, with its thresholds and tensors.

    Raises:
        BundleError: The name is not registered, or its tensors do not fit.
    """
    kind = POLICIES.get(manifest.policy.name)
    if kind is None:
        raise BundleError(
            "manifest.json names a policy that this version does not know",
            got=manifest.policy.name,
            expected=" or ".join(sorted(POLICIES)),
            remedy="pip install --upgrade edgeexit",
        )
    return kind.load([np.inf if e.threshold is None else e.threshold for e in manifest.exits], tensors)
