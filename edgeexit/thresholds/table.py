"""The threshold methods by name. A method's module is imported when the method is used."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import UsageError
from edgeexit.thresholds.goals import Goal
from edgeexit.thresholds.material import Material

__all__ = ["METHODS", "FitThresholds", "MethodRow", "fit_thresholds"]


class FitThresholds(Protocol):
    """A threshold method."""

    def __call__(self, material: Material, goal: Goal) -> NDArray[np.float64]:
        """(E−1,) thresholds that meet the goal on the material.

        Raises:
            UnreachableError: None do.
        """


class MethodRow(NamedTuple):
    """A threshold method: where its function is, and who proposed it."""

    where: str
    source: str


METHODS: dict[str, MethodRow] = {
    "joint": MethodRow("edgeexit.thresholds.joint:fit_joint", "EdgeExit"),
    "risk": MethodRow("edgeexit.thresholds.risk:fit_risk", "EdgeExit"),
    "common": MethodRow("edgeexit.thresholds.common:fit_common", "BWDS, Bolukbasi et al. 2017, and others"),
    "geometric": MethodRow("edgeexit.thresholds.geometric:fit_geometric", "MSDNet, Huang et al. 2018"),
    "bisection": MethodRow("edgeexit.thresholds.bisection:fit_bisection", "E2CM, Görmez et al. 2022"),
    "assignment": MethodRow("edgeexit.thresholds.assignment:fit_assignment", "EENet algorithm 1, Ilhan et al. 2024"),
    "tolerance": MethodRow("edgeexit.thresholds.tolerance:fit_tolerance", "SelfXit, 2024"),
}


def fit_thresholds(method: str, material: Material, goal: Goal) -> NDArray[np.float64]:
    """(E−1,) thresholds by a method of `METHODS`, infinity where nobody should leave.

    Raises:
        UsageError: There is no such method.
        UnreachableError: No thresholds of this method meet the goal; the message says what is reachable.
    """
    row = METHODS.get(method)
    if row is None:
        raise UsageError("no such threshold method", got=method, expected=" or ".join(METHODS))
    module, _, attribute = row.where.partition(":")
    return cast("FitThresholds", getattr(import_module(module), attribute))(material, goal)
