"""Links of a stated bandwidth between network namespaces of this machine, and the bytes that cross them.

    with chain([10, 100]) as (device, gateway, server):
        subprocess.run(device.command("ping", "-c", "1", gateway.address))

It takes root, and `ip` and `tc` of iproute2. The links have no delay of their own: that takes a part of the kernel
(netem) that is often missing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOWN", "UP", "Counters", "LinkError", "Node", "chain", "counters_here", "why_not"]

BURST_BYTES = 1600
"""What may cross at once: a packet. More would let small messages cross a slow link in no time."""

QUEUE_BYTES, QUEUE_PACKETS = 4 << 20, 4096
"""What may wait in front of a link, so that nothing is dropped."""

UP, DOWN = "onward", "back"
"""The names of a node's links, to the next node and to the one before."""

PATIENCE_S = 30
_numbers = itertools.count()


class LinkError(RuntimeError):
    """A namespace or a link could not be made; the message is what `ip` or `tc` said."""


@dataclass(frozen=True)
class Counters:
    """Bytes on a link as one end counted them, headers of Ethernet, IP and TCP included.

    Attributes:
        sent_bytes, received_bytes: From this end, and to it.
    """

    sent_bytes: int
    received_bytes: int

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(self.sent_bytes - earlier.sent_bytes, self.received_bytes - earlier.received_bytes)


@dataclass(frozen=True)
class Node:
    """A network namespace in a chain.

    Attributes:
        name: The namespace's.
        address: IPv4, on the link to the node before it; that of the first node is on the link to the second.
        links: Those of `UP` and `DOWN` that it has.
    """

    name: str
    address: str
    links: tuple[str, ...]

    def command(self, *words: object) -> list[str]:
        """A command line that runs another inside."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def shape(self, link: str, mbit_s: float | None) -> None:
        """Give a link another bandwidth, in Mbit/s, from this node on; as much as the machine can do when None.

        Raises:
            LinkError: `tc` does not do it.
        """
        shape: tuple[object, ...] = ("pfifo", "limit", QUEUE_PACKETS)
        if mbit_s is not None:
            shape = ("tbf", "rate", f"{round(mbit_s * 1e6)}bit", "burst", BURST_BYTES, "limit", QUEUE_BYTES)
        _run("tc", "-n", self.name, "qdisc", "replace", "dev", link, "root", *shape)

    def counters(self, link: str) -> Counters:
        """What crossed a link so far, as this node counts it.

        Raises:
            LinkError: There is no such link.
        """
        return _counters(_run(*self.command("cat", "/proc/net/dev")), link)


@contextmanager
def chain(mbit_s: Sequence[float]) -> Iterator[tuple[Node, ...]]:
    """Namespaces in a row, one more than there are links; they are gone afterwards, whatever happened.

    A node reaches the nodes next to it, and nothing else.

    Args:
        mbit_s: The bandwidth of each link, Mbit/s, the same in both directions.

    Raises:
        LinkError: A namespace, a link or its bandwidth is refused.
    """
    prefix = f"edgeexit-{os.getpid()}-{next(_numbers)}"
    count = len(mbit_s) + 1
    nodes = [Node(f"{prefix}-{i}", _address(max(i - 1, 0), bool(i)), _links(i, count)) for i in range(count)]
    with ExitStack() as stack:
        for node in nodes:
            _run("ip", "netns", "add", node.name)
            stack.callback(_run, "ip", "netns", "delete", node.name)
            _run("ip", "-n", node.name, "link", "set", "lo", "up")
        for i, (here, there, rate) in enumerate(zip(nodes, nodes[1:], mbit_s, strict=False)):
            ends = ("name", UP, "netns", here.name, "type", "veth", "peer", "name", DOWN, "netns", there.name)
            _run("ip", "link", "add", *ends)
            for node, link, upper in ((here, UP, False), (there, DOWN, True)):
                _run("ip", "-n", node.name, "address", "add", f"{_address(i, upper)}/30", "dev", link)
                _run("ip", "-n", node.name, "link", "set", "dev", link, "addrgenmode", "none")  # IPv6 would chatter
                _run("ip", "-n", node.name, "link", "set", "dev", link, "up")
                node.shape(link, rate)
        yield tuple(nodes)


def counters_here(link: str) -> Counters:
    """What crossed a link so far, for a process inside a node.

    Raises:
        LinkError: There is no such link.
    """
    return _counters(Path("/proc/net/dev").read_text(), link)


def why_not() -> str | None:
    """Why there can be no chain on this machine; None where there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}: install iproute2"
    try:
        with chain([1]):
            return None
    except LinkError as error:
        return str(error)


def _links(i: int, count: int) -> tuple[str, ...]:
    return (*((DOWN,) if i else ()), *((UP,) if i + 1 < count else ()))


def _address(link: int, upper: bool) -> str:
    return f"10.73.{link}.{2 if upper else 1}"


def _counters(table: str, link: str) -> Counters:
    for line in table.splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == link:
            fields = figures.split()
            return Counters(sent_bytes=int(fields[8]), received_bytes=int(fields[0]))
    raise LinkError(f"there is no link {link!r} here")


def _run(*words: object) -> str:
    line = list(map(str, words))
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise LinkError(f"{' '.join(line)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
