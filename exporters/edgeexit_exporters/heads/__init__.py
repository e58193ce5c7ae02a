"""Exit heads that are fitted in one pass over data, with no gradient, and run inside the segment's graph."""

from __future__ import annotations

from edgeexit_exporters.heads.base import Head, HeadFitter, HeadSettings
from edgeexit_exporters.heads.table import HEADS

__all__ = ["HEADS", "Head", "HeadFitter", "HeadSettings"]
