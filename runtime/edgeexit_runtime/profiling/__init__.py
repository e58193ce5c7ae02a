"""Profiling: the segments, checks, compaction, decisions and exits of a bundle, measured on this device.

A round goes through every batch size, each in a pass with the exits' checks and one without, in an order
that changes from round to round, so that whatever else the machine does hits all alike. A pass runs the
segments one behind another as the cascade does, so that each finds the caches as it will. The first round
warms up and is not counted; the others give medians, and of compaction the least time.
"""

from __future__ import annotations

from edgeexit_runtime.profiling.measurement import MIN_ROUNDS, profile
from edgeexit_runtime.profiling.subject import Subject, opened_subject

__all__ = ["MIN_ROUNDS", "Subject", "opened_subject", "profile"]
