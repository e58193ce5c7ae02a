"""Memory: what the machine has, and what a container leaves of it and of the processor's time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from edgeexit.console import human_bytes
from edgeexit.targets import Target
from edgeexit_runtime.doctor.finding import Finding, ok, problem, warning
from edgeexit_runtime.doctor.host import Host

__all__ = ["available_bytes", "check_memory", "memory_limit_bytes"]

GIB = 1 << 30
LEAST_BYTES = 96 << 20
"""An opened bundle of a small model, with Python and ONNX Runtime."""

USABLE = 0.85
"""Of what is soldered on: the rest is the firmware's and the kernel's."""

SMALL_BYTES = 2 * GIB
MOSTLY_USED = 0.5
NO_LIMIT_BYTES = 1 << 60
CGROUP = "sys/fs/cgroup"


def check_memory(host: Host, target: Target | None) -> Iterator[Finding]:
    """Memory, swap, and limits of the control group."""
    yield from _memory(host, target)
    yield from _swap(host)
    yield from _limits(host, target)


def available_bytes(host: Host) -> int | None:
    """What may still be taken, within the limit of the control group."""
    left = _meminfo(host).get("MemAvailable")
    limit = memory_limit_bytes(host)
    return min((value for value in (left, limit) if value is not None), default=None)


def memory_limit_bytes(host: Host) -> int | None:
    """The limit of the control group and of those around it; None where there is none."""
    limits = [host.number(f"{folder}/memory.max") for folder in _groups(host)]
    limits.append(host.number(f"{CGROUP}/memory/memory.limit_in_bytes"))
    return min((limit for limit in limits if limit is not None and 0 < limit < NO_LIMIT_BYTES), default=None)


def _memory(host: Host, target: Target | None) -> Iterator[Finding]:
    info = _meminfo(host)
    total, left = info.get("MemTotal"), available_bytes(host)
    if total is None:
        return
    expected = None if target is None else f"{target.memory.value:g} GiB"
    if target is not None and total < USABLE * target.memory.value * GIB:
        yield warning("memory", human_bytes(total), expected, "nothing, if this is the variant with less memory")
    else:
        yield ok("memory", human_bytes(total), expected)
    if left is None:
        return
    if left < LEAST_BYTES:
        yield problem("free memory", human_bytes(left), f"at least {human_bytes(LEAST_BYTES)}", "end other programs")
    else:
        yield ok("free memory", human_bytes(left), f"at least {human_bytes(LEAST_BYTES)}")


def _swap(host: Host) -> Iterator[Finding]:
    info = _meminfo(host)
    total, free = info.get("SwapTotal"), info.get("SwapFree", 0)
    if total is None:
        return
    if total and (total - free) > MOSTLY_USED * total:
        found = f"{human_bytes(total - free)} of {human_bytes(total)} in use"
        yield warning("swap", found, "hardly used", "end other programs: what was swapped out answers late")
    elif not total and info.get("MemTotal", 0) < SMALL_BYTES:
        yield warning("swap", "none", "some, on a device with little memory", "sudo apt install zram-tools")
    else:
        yield ok("swap", f"{human_bytes(total)}, hardly used" if total else "none")


def _limits(host: Host, target: Target | None) -> Iterator[Finding]:
    limit, cores = memory_limit_bytes(host), _quota_cores(host)
    if limit is not None:
        tight = limit < LEAST_BYTES
        found, expected = human_bytes(limit), f"at least {human_bytes(LEAST_BYTES)}"
        remedy = "a larger --memory of the container"
        yield problem("memory limit", found, expected, remedy) if tight else ok("memory limit", found, expected)
    if cores is not None:
        threads = 1 if target is None else target.threads
        found, expected = f"{cores:g} cores' worth of time", f"at least {threads}"
        if cores < threads:
            remedy = f"a larger --cpus of the container, or --threads {max(1, int(cores))}"
            yield warning("processor limit", found, expected, remedy)
        else:
            yield ok("processor limit", found, expected)


def _quota_cores(host: Host) -> float | None:
    """What a quota leaves of the processor, in cores; None where there is none."""
    quotas = [(host.text(f"{folder}/cpu.max") or "").split() for folder in _groups(host)]
    old = [host.text(f"{CGROUP}/cpu/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    cores = []
    for words in (*quotas, old):
        if len(words) == 2 and all(word.isdecimal() and len(word) < 16 for word in words) and int(words[1]) > 0:
            cores.append(int(words[0]) / int(words[1]))
    return min(cores, default=None)


def _groups(host: Host) -> list[str]:
    """The folders of the process's control group and of all around it, of version 2."""
    lines = (host.text("proc/self/cgroup") or "").splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    inner = PurePosixPath(path.strip("/"))
    if ".." in inner.parts or inner.is_absolute():
        inner = PurePosixPath()
    return [str(PurePosixPath(CGROUP) / part) for part in (inner, *inner.parents)]


def _meminfo(host: Host) -> dict[str, int]:
    """Bytes by name."""
    found = {}
    for name, value in host.fields("proc/meminfo").items():
        number, _, unit = value.partition(" ")
        if number.isascii() and number.isdecimal() and len(number) < 16:
            found[name] = int(number) * (1024 if unit == "kB" else 1)
    return found
