"""The registered policies, and how a bundle's policy is rebuilt.

A policy's module is imported when the policy is used: a device loads the one that its bundle names.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError, UsageError
from edgeexit.manifest import Manifest
from edgeexit.policies.base import Policy, PolicyKind

__all__ = ["AUTO", "POLICIES", "PolicyRow", "load_policy", "policy_kind"]


class PolicyRow(NamedTuple):
    """A policy: where its class is, and how its own text chooses thresholds.

    Attributes:
        where: `module:class`.
        thresholds: The threshold method that its source uses, a key of `edgeexit.thresholds.METHODS`.
        source: Who proposed it.
        uses_budget: Whether the fit depends on the budget, so that each budget needs its own.
        random: Whether chance enters the fit.
    """

    where: str
    thresholds: str
    source: str
    uses_budget: bool = False
    random: bool = False


POLICIES: dict[str, PolicyRow] = {
    "max-probability": PolicyRow(
        "edgeexit.policies.max_probability:MaxProbability", "geometric", "MSDNet, Huang et al. 2018"
    ),
    "entropy": PolicyRow(
        "edgeexit.policies.confidence:Entropy", "geometric", "BranchyNet, Teerapittayanon et al. 2016; EENet eq. 6"
    ),
    "log-probability": PolicyRow("edgeexit.policies.confidence:LogProbability", "geometric", "Distiller, Intel"),
    "margin": PolicyRow("edgeexit.policies.confidence:Margin", "geometric", "Big/Little, Park et al. 2015"),
    "patience": PolicyRow("edgeexit.policies.agreement:Patience", "geometric", "PABEE, Zhou et al. 2020"),
    "vote": PolicyRow("edgeexit.policies.agreement:Vote", "geometric", "EENet eq. 7, Ilhan et al. 2024"),
    "class-means": PolicyRow("edgeexit.policies.class_means:ClassMeans", "bisection", "E2CM, Görmez et al. 2022"),
    "either": PolicyRow("edgeexit.policies.combined:Either", "bisection", "E2CM section III-B, Görmez et al. 2022"),
    "veto": PolicyRow("edgeexit.policies.combined:Veto", "bisection", "E2CM section IV-A, Görmez et al. 2022"),
    "confusion": PolicyRow(
        "edgeexit.policies.confusion:Confusion", "geometric", "Shallow-Deep Networks, Kaya et al. 2019"
    ),
    "gate": PolicyRow("edgeexit.policies.gate:LearnedGate", "common", "BWDS, Bolukbasi et al. 2017", uses_budget=True),
    "eenet": PolicyRow(
        "edgeexit.policies.eenet:LearnedScheduler",
        "assignment",
        "EENet, Ilhan et al. 2024",
        uses_budget=True,
        random=True,
    ),
    "pooled-probability": PolicyRow("edgeexit.policies.pooled:PooledProbability", "joint", "EdgeExit"),
    "stacked-margin": PolicyRow("edgeexit.policies.stacked:StackedMargin", "risk", "EdgeExit"),
}

AUTO = ("max-probability", "pooled-probability", "stacked-margin")
"""What "auto" chooses from: the cheapest on the calibration split is taken."""


def policy_kind(name: str) -> PolicyKind:
    """The class of policies called `name`.

    Raises:
        UsageError: There is none.
    """
    row = POLICIES.get(name)
    if row is None:
        raise UsageError("no such policy", got=name, expected=" or ".join(POLICIES))
    module, _, attribute = row.where.partition(":")
    return cast("PolicyKind", getattr(import_module(module), attribute))


def load_policy(manifest: Manifest, tensors: Mapping[str, NDArray[np.float32]]) -> Policy:
    """The policy that a manifest names, with its thresholds and tensors.

    Raises:
        BundleError: The name is not registered, or its tensors do not fit.
    """
    if manifest.policy.name not in POLICIES:
        raise BundleError(
            "manifest.json names a policy that this version does not know",
            got=manifest.policy.name,
            expected=" or ".join(sorted(POLICIES)),
            remedy="pip install --upgrade edgeexit",
        )
    thresholds = [np.inf if e.threshold is None else e.threshold for e in manifest.exits]
    return policy_kind(manifest.policy.name).load(thresholds, tensors)
