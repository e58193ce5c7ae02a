"""Triton: a bundle's tails as a model repository, each one ONNX graph with its `config.pbtxt`."""

from __future__ import annotations

from edgeexit_exporters.triton.config import INSTANCE_KINDS, InstanceKind, Serving, config_pbtxt
from edgeexit_exporters.triton.merging import LOGITS, merged_tail
from edgeexit_exporters.triton.repository import check_repository, write_repository

__all__ = [
    "INSTANCE_KINDS",
    "LOGITS",
    "InstanceKind",
    "Serving",
    "check_repository",
    "config_pbtxt",
    "merged_tail",
    "write_repository",
]
