"""The processor: architecture, cores, clock, and the instructions that inference lives on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeexit.targets import Target
from edgeexit_runtime.doctor.finding import Finding, ok, problem, warning
from edgeexit_runtime.doctor.host import Host

__all__ = ["check_processor", "online_cores"]

CPU = "sys/devices/system/cpu"
_SPAN = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")

SAME = {"amd64": "x86_64", "arm64": "aarch64"}
STEADY = "performance"
CLOSE = 0.95
"""Of the promised clock: what is above it is rounding."""

USEFUL = {
    "x86_64": ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    "aarch64": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
}
NEEDED = {"x86_64": "avx2", "aarch64": "asimd"}


def check_processor(host: Host, target: Target | None) -> Iterator[Finding]:
    """Everything about the processor."""
    yield from _architecture(host, target)
    yield from _cores(host, target)
    yield from _governor(host, target)
    yield from _clock(host, target)
    yield from _instructions(host)


def online_cores(host: Host) -> int:
    """The cores that are switched on; those of the process where the kernel does not tell."""
    return _count(host.text(f"{CPU}/online")) or host.process.cores


def _count(cores: str | None) -> int:
    """How many a list such as 0-3,6 names; 0 where it is none."""
    count = 0
    for part in (cores or "").split(","):
        match = _SPAN.fullmatch(part)
        if match is None:
            return 0
        count += max(0, int(match[2] or match[1]) - int(match[1]) + 1)
    return count


def _architecture(host: Host, target: Target | None) -> Iterator[Finding]:
    found = SAME.get(host.process.architecture, host.process.architecture)
    expected = None if target is None else target.architecture
    if host.process.bits != 64:
        yield problem(
            "architecture",
            f"{found}, a {host.process.bits}-bit Python",
            expected or "64 bits",
            "install the 64-bit system: ONNX Runtime has no wheels for 32 bits",
        )
    elif expected is not None and found != expected:
        yield problem("architecture", found, expected, "name this device's own target: --target")
    else:
        yield ok("architecture", found, expected)


def _cores(host: Host, target: Target | None) -> Iterator[Finding]:
    online, usable = online_cores(host), host.process.cores
    if target is not None and online < target.cores.value:
        remedy = "name the target that this is, or write one of its own: edgeexit targets"
        if target.jetson is not None:
            remedy = "choose a power mode with more cores: sudo nvpmodel -p --verbose"
        elif _count(host.text(f"{CPU}/present")) > online:
            remedy = f"echo 1 | sudo tee /{CPU}/cpu*/online"
        yield warning("cores", str(online), f"{target.cores.value}", remedy)
    else:
        yield ok("cores", str(online), None if target is None else str(target.cores.value))
    if usable < online:
        yield warning(
            "affinity",
            f"this process may use {usable} of {online} cores",
            "all",
            f"taskset -c 0-{online - 1} edgeexit …, or a larger --cpuset-cpus of the container",
        )
    else:
        yield ok("affinity", "all cores", "all")
    if target is not None and target.threads > usable:
        yield warning(
            "threads",
            f"{usable} cores for the target's {target.threads} threads",
            f"at least {target.threads}",
            f"edgeexit … --threads {usable}",
        )


def _governor(host: Host, target: Target | None) -> Iterator[Finding]:
    governors = {host.text(path) or "" for path in host.paths(f"{CPU}/cpufreq/policy*/scaling_governor")} - {""}
    if not governors:
        return
    found = ", ".join(sorted(governors))
    if governors == {STEADY}:
        yield ok("governor", found, STEADY)
        return
    remedy = f"echo {STEADY} | sudo tee /{CPU}/cpufreq/policy*/scaling_governor"
    if target is not None and target.jetson is not None:
        remedy = "sudo jetson_clocks"
    yield warning("governor", f"{found}: the clock follows the load, so timings vary", STEADY, remedy)


def _clock(host: Host, target: Target | None) -> Iterator[Finding]:
    best = allowed = current = 0
    for policy in host.paths(f"{CPU}/cpufreq/policy*"):
        top = host.number(f"{policy}/cpuinfo_max_freq") or 0
        if top >= best:
            best = top
            allowed = host.number(f"{policy}/scaling_max_freq") or top
            current = host.number(f"{policy}/scaling_cur_freq") or 0
    if best <= 0:
        return
    promised = None if target is None or target.clock is None else target.clock.value
    found = f"{_ghz(current)} now, up to {_ghz(allowed)}" if current else f"up to {_ghz(allowed)}"
    expected = f"up to {promised:g} GHz" if promised else f"up to {_ghz(best)}"
    if allowed < CLOSE * best:
        yield warning(
            "clock", f"{found}: capped", expected, f"echo {best} | sudo tee /{CPU}/cpufreq/policy*/scaling_max_freq"
        )
    elif promised is not None and best < CLOSE * promised * 1e6:
        yield warning("clock", found, expected, "is it the board that the target names, in its fastest mode?")
    else:
        yield ok("clock", found, expected)


def _instructions(host: Host) -> Iterator[Finding]:
    architecture = SAME.get(host.process.architecture, host.process.architecture)
    fields = host.fields("proc/cpuinfo")
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    if architecture not in USEFUL or not flags:
        return
    useful = [name for name in USEFUL[architecture] if name in flags]
    found, needed = ", ".join(useful) or "none that help", NEEDED[architecture]
    if needed in flags:
        yield ok("instructions", found, needed)
    else:
        yield warning("instructions", found, needed, "none: ONNX Runtime runs, and slowly")


def _ghz(khz: int) -> str:
    return f"{khz / 1e6:.2f} GHz"
