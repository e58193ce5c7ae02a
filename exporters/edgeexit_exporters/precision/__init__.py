"""Precision of a model's layers: float16, or 8-bit integers by static quantisation."""

from edgeexit_exporters.precision.boundaries import channels_last
from edgeexit_exporters.precision.conversion import in_precision, refuse_missing
from edgeexit_exporters.precision.plan import PRECISIONS, parse_precision
from edgeexit_exporters.precision.stored import stored_precision

__all__ = ["PRECISIONS", "channels_last", "in_precision", "parse_precision", "refuse_missing", "stored_precision"]
