"""Drift: do the samples of today still leave where, and as surely as, those of the calibration split?

Compared are the share of each exit, the scores with which samples left there, and, on a few samples run
to the end, how often the cascade agrees with the whole model. The reference is counted when thresholds
are chosen, and kept in the manifest.
"""

from __future__ import annotations

from edgeexit.drift.monitor import LEVEL, DriftMonitor
from edgeexit.drift.reference import drift_reference
from edgeexit.drift.report import DriftReport, ExitDrift

__all__ = ["LEVEL", "DriftMonitor", "DriftReport", "ExitDrift", "drift_reference"]
