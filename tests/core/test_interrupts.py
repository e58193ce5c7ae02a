"""An interrupt ends long work, even where a library has swallowed it."""

from __future__ import annotations

import os
import signal

import pytest

from edgeexit.console import Advance, progress
from edgeexit.interrupts import check_interrupt, remember_interrupts


def swallow_an_interrupt() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # Python handles signals between bytecodes
            pass
    except KeyboardInterrupt:
        pass


def work_on_after_an_interrupt(advance: Advance) -> None:
    advance(1)
    swallow_an_interrupt()
    advance(1)
    pytest.fail("the work went on")


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_raises_an_interrupt_that_was_swallowed(quiet: bool) -> None:
    with pytest.raises(KeyboardInterrupt), remember_interrupts(), progress("work", 2, quiet=quiet) as advance:
        work_on_after_an_interrupt(advance)


def test_the_end_of_the_work_raises_it_too() -> None:
    with pytest.raises(KeyboardInterrupt), remember_interrupts(), progress("work", 1, quiet=True):
        swallow_an_interrupt()


def test_without_a_signal_nothing_is_raised() -> None:
    with remember_interrupts():
        check_interrupt()


def test_afterwards_python_handles_interrupts_as_before() -> None:
    with remember_interrupts():
        swallow_an_interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    check_interrupt()


def test_a_handler_of_the_program_around_us_is_left_alone() -> None:
    def mine(number: int, frame: object) -> None:
        """Do nothing."""

    before = signal.signal(signal.SIGINT, mine)
    try:
        with remember_interrupts():
            assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
