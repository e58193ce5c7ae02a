"""Randomness that follows from names and numbers alone.

Nothing remembers where a generator has got to: before each piece of work the generators are set from the seed, the
work's name and its number. So a run taken up in the middle draws what an uninterrupted one draws, and what one head
draws does not depend on which other heads are there.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derived_seed", "preserved_generators", "seed_generators"]

_SEED_BYTES = 8
_LEGACY_SEEDS = 1 << 32  # what NumPy's global generator takes


def derived_seed(*parts: int | str) -> int:
    """A seed from 0 to 2⁶³ − 1 that follows from these parts, the same on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=_SEED_BYTES).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generators(seed: int, *, others: bool = True) -> None:
    """Set torch's global generators, and with `others` those of NumPy and Python too.

    Dropout draws from torch's; a user's model may draw from any.
    """
    torch.manual_seed(seed)
    if others:
        random.seed(seed)
        np.random.seed(seed % _LEGACY_SEEDS)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Within this, the global generators may be set at will; afterwards they are as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
