"""Settings: the target's, unless the user chose otherwise."""

from __future__ import annotations

import pytest

from edgeexit.errors import UsageError
from edgeexit.targets import load_target
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.settings import session_settings


def test_without_a_target_one_thread_is_used() -> None:
    assert session_settings(None) == SessionSettings()
    assert session_settings(None, 3) == SessionSettings(threads=3)


def test_a_targets_settings_are_taken_over() -> None:
    target = load_target("raspberry-pi-5")
    found = session_settings(target)
    assert (found.threads, found.spinning) == (target.threads, target.spinning)
    assert (found.arena, found.memory_pattern) == (target.arena, target.memory_pattern)


def test_the_users_threads_come_first() -> None:
    assert session_settings(load_target("raspberry-pi-5"), 2).threads == 2
    with pytest.raises(UsageError):
        session_settings(load_target("raspberry-pi-5"), 0)
