"""A core that is slower for a while: a real-time process takes it most of the time, in turns of a millisecond or less.

Everything that is pinned to the core then takes about so many times as long, whether it computes, compresses or
talks to the network, and however short it is. (A quota of CPU time does not do that: what waits for the network
saves it up, and then runs at full speed.)

    with slowed(0, 8):
        subprocess.run(["taskset", "-c", "0", …])

It takes root, and Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["MOST_TIMES", "slowed"]

MOST_TIMES = 16.0
"""Linux keeps a twentieth of each second from real-time processes."""

TURN_S = 100e-6
"""How long the others have the core at a time."""


@contextmanager
def slowed(core: int, times: float) -> Iterator[None]:
    """Slow a core down.

    Args:
        core: Its number.
        times: How many times as long things are to take, 1 to 16. What comes out is somewhat more, since changing
            turns takes time too.

    Raises:
        ValueError: `times` is out of range.
        RuntimeError: Real-time priority or the core is refused.
    """
    if not 1 <= times <= MOST_TIMES:
        raise ValueError(f"a core cannot be slowed down {times} times: 1 to {MOST_TIMES:g}")
    if times == 1:
        yield
        return
    line = [sys.executable, __file__, str(core), str(times), str(os.getpid())]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the core cannot be slowed down: that takes root")
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def take_turns(core: int, times: float, parent: int) -> None:
    """Have the core for `times` − 1 of `times` parts of the time, until the parent is gone."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("ready", flush=True)
    now_s = time.perf_counter
    ends_s = now_s()
    while os.getppid() == parent:
        left_s = now_s()
        time.sleep(TURN_S)
        ends_s = now_s()
        ends_s += (ends_s - left_s) * (times - 1)
        while now_s() < ends_s:
            pass


if __name__ == "__main__":
    take_turns(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
