"""The workstation side of EdgeExit: cuts models at early exits, fits the exits and writes bundles."""

from __future__ import annotations

from edgeexit_exporters.exporting import export
from edgeexit_exporters.heads import HeadSettings
from edgeexit_exporters.settings import ExportSettings

__all__ = ["ExportSettings", "HeadSettings", "__version__", "export"]

__version__ = "0.1.0"
