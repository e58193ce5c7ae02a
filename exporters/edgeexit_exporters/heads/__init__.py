"""Exit heads that run inside the segment's graph: fitted in one pass over data with no gradient, or trained."""

from __future__ import annotations

from edgeexit_exporters.heads.base import Head, HeadFitter, HeadSettings
from edgeexit_exporters.heads.table import HEADS, KINDS

__all__ = ["HEADS", "KINDS", "Head", "HeadFitter", "HeadSettings"]
