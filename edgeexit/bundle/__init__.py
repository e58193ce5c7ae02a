"""Bundles: all that passes between exporter and runtime.

A folder or an `.eexit` archive of it, described byte by byte in `docs/bundle-format.md`. Writing
is atomic; reading believes nothing before its hash matched.
"""

from __future__ import annotations

from edgeexit.bundle.layout import (
    ARCHIVE_SUFFIX,
    CHECK_FILE,
    EXITS_FILE,
    STATISTICS_FILE,
    file_entry,
    segment_path,
)
from edgeexit.bundle.reader import Bundle
from edgeexit.bundle.writer import check_destination, write_bundle

__all__ = [
    "ARCHIVE_SUFFIX",
    "CHECK_FILE",
    "EXITS_FILE",
    "STATISTICS_FILE",
    "Bundle",
    "check_destination",
    "file_entry",
    "segment_path",
    "write_bundle",
]
