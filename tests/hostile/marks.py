"""Marks: words that occur in one request and nowhere else, so that they are known where they should not be."""

from __future__ import annotations

import re
from random import Random

__all__ = ["MARK", "mark", "strangers"]

MARK = re.compile(rb"zq[0-9a-f]{12}")


def mark(random: Random) -> str:
    """A new one."""
    return "zq" + random.randbytes(6).hex()


def strangers(text: bytes, own: bytes) -> list[str]:
    """Marks in a text that are not in one's own request: somebody else's."""
    return [found.decode() for found in MARK.findall(text) if found not in own]
