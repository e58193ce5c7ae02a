"""Fixtures for tests of training."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are quicker on one thread, and the same bits come out everywhere."""
    torch = sys.modules.get("torch")
    if torch is None:  # these tests are skipped, or about its absence
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
