"""Names of tails on the wire: `NAME__from_k`."""

from __future__ import annotations

from edgeexit.tails import model_name, parse_tail_name, tail_name

__all__ = ["model_name", "parse_tail_name", "tail_name"]
