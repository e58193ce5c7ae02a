"""Guarantees: thresholds whose loss is within a limit with a stated probability."""

from __future__ import annotations

from edgeexit.guarantees.certificate import LADDER_SHARE, Certificate, certify

__all__ = ["LADDER_SHARE", "Certificate", "certify"]
