"""A siege: mutated requests from several clients at once, good clients among them, and the server watched."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event
from typing import Any
from urllib.request import urlopen

import grpc

from edgeexit.bundle import Bundle
from hostile.attackers import WEIGHTS, Attacker
from hostile.clients import SERVICE, GoodClient, ask, channel_to, over_websocket, streamed
from hostile.honest import Honest, honest_requests
from hostile.judge import OVERLOADED, Judge
from hostile.victim import Resources, Victim

__all__ = ["Outcome", "siege"]

EVERY = 1000
STOP_S = 30.0
SETTLE_S = 5.0
GRPC_S_TRACEBACK = re.compile(
    r"Traceback \(most recent call last\):\n(?:  .*\n)+grpc\._cython\.cygrpc\.ExecuteBatchError: .*\n"
)
"""Printed by grpcio when it cannot tell a client that is gone of a call whose name is no UTF-8."""


@dataclass
class Outcome:
    """What came of a siege.

    Attributes:
        requests: How many attacks there were.
        seconds: How long they took.
        answers: By kind of attack and status.
        grpc_s_own: What gRPC itself said of bytes that are no call, by its words; and its tracebacks.
        findings, found: What should not be, and how often.
        good: How good clients' requests ended.
        good_ms: The median, 99th percentile and maximum of the time to their answers.
        checks: How often the server was looked at; each time it was live, ready and right.
        resources: At the start, the most of each, and at the end.
        rss_kib: Resident memory at each look.
        exit_code: After SIGTERM.
        stop_s: How long that took, with half-open connections around.
        log: What is in the log besides documents of one line: nothing, it should be.
        failures: Documents of the log that tell of a failure.
    """

    requests: int = 0
    seconds: float = 0.0
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    grpc_s_own: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    found: int = 0
    good: dict[str, int] = field(default_factory=dict)
    good_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    checks: int = 0
    resources: dict[str, Resources] = field(default_factory=dict)
    rss_kib: list[int] = field(default_factory=list)
    exit_code: int | None = None
    stop_s: float = 0.0
    log: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def siege(
    bundle: Path,
    requests: int,
    *,
    seed: int = 0,
    attackers: int = 6,
    good: int = 2,
    pause_s: float = 0.02,
    every: int = EVERY,
    kinds: Sequence[str] = tuple(WEIGHTS),
    options: Sequence[object] = (),
) -> Outcome:
    """Attack a server of its own, and stop it while half-open connections are there.

    Args:
        bundle: What it serves, from segment 0 on.
        requests: How many attacks.
        seed: Of all of them.
        attackers: Clients that attack.
        good: Good clients of each protocol.
        pause_s: Between two requests of a good client.
        every: After how many attacks the server is looked at.
        kinds: Which attacks.
        options: Further options of `edgeexit serve`.
    """
    outcome, judge, over = Outcome(requests), Judge(), Event()
    opened = Bundle.open(bundle)
    with Victim(bundle, *options) as victim, ExitStack() as stack:
        assert victim.websocket is not None
        honest = honest_requests(bundle, victim.models, attackers + 2 * good + 1, 12, seed=seed)
        mine, theirs = honest[: attackers + 1], honest[attackers + 1 :]
        channel = stack.enter_context(channel_to(victim.grpc))
        friends = [
            GoodClient(f"good {i}", own, lambda _: channel_to(victim.grpc), ask, judge, over, pause_s)
            for i, own in enumerate(theirs[:good])
        ] + [
            GoodClient(
                f"streaming {i}",
                own,
                over_websocket(victim.websocket),
                lambda connection, request: streamed(connection, request, opened),
                judge,
                over,
                pause_s,
            )
            for i, own in enumerate(theirs[good:])
        ]
        numbers = itertools.count()
        foes = [
            Attacker(victim, mine[i], judge, Random(f"{seed}.{i}"), numbers, requests, kinds) for i in range(attackers)
        ]
        watch = _Watch(victim, channel, mine[-1], judge)
        watch.look()
        started_s = time.monotonic()
        for thread in (*friends, *foes):
            thread.start()
        while any(foe.is_alive() for foe in foes):
            if sum(foe.done for foe in foes) >= watch.looks * every:
                watch.look()
            time.sleep(0.01)
        outcome.seconds = time.monotonic() - started_s
        over.set()
        for friend in friends:
            friend.join(60)
        held = [connection for foe in foes for connection in foe.close()]
        for connection in held[10:]:
            connection.close()
        time.sleep(SETTLE_S if requests >= EVERY else 0.1)
        watch.look()
        _stop(victim, judge, outcome)
        for connection in held:
            connection.close()
        _read_log(victim.log(), outcome)
    _tell(outcome, judge, friends, watch)
    return outcome


class _Watch:
    """Looks at the server: does it serve, and what does it hold?"""

    def __init__(self, victim: Victim, channel: Any, requests: Sequence[Honest], judge: Judge) -> None:
        self.looks = 0
        self.seen: list[Resources] = []
        self._victim = victim
        self._channel = channel
        self._requests = requests
        self._judge = judge

    def look(self) -> None:
        self.seen.append(self._victim.resources())
        for _ in range(20):
            status, misfit = ask(self._channel, self._requests[self.looks % len(self._requests)])
            if status not in OVERLOADED:
                break
            time.sleep(0.05)
        if status != "OK" or misfit is not None:
            self._judge.finding("watch", f"a good request ended with {status}, {misfit}")
        for call, answer in (("ServerLive", b"\x08\x01"), ("ServerReady", b"\x08\x01")):
            if self._told(call) != answer:
                self._judge.finding("watch", f"{call} is not true")
        with urlopen("http://{}:{}/metrics".format(*self._victim.metrics), timeout=20) as page:
            text = page.read()
        if b"edgeexit_requests_total" not in text:
            self._judge.finding("watch", f"the metrics are gone: {text[:200]!r}")
        self._judge.text("metrics", text, b"")
        self.looks += 1

    def _told(self, call: str) -> bytes:
        """What the server says to a call without a message, asked again where gRPC ended it."""
        for last in (*(False,) * 19, True):
            try:
                answer: bytes = self._channel.unary_unary(f"{SERVICE}/{call}")(b"", timeout=20)
                return answer
            except grpc.RpcError as error:
                if last or error.code().name not in OVERLOADED:
                    raise
                time.sleep(0.05)
        raise AssertionError


def _stop(victim: Victim, judge: Judge, outcome: Outcome) -> None:
    started_s = time.monotonic()
    try:
        outcome.exit_code = victim.stop(STOP_S)
    except Exception as error:
        judge.finding("stop", f"it does not end: {error}")
    outcome.stop_s = time.monotonic() - started_s


def _read_log(text: str, outcome: Outcome) -> None:
    text, count = GRPC_S_TRACEBACK.subn("", text)
    if count:
        outcome.grpc_s_own["Traceback: ExecuteBatchError"] = count
    for line in text.splitlines():
        if not line.startswith('{"time": '):
            outcome.log.append(line)
        elif '"event": "failure"' in line:
            outcome.failures.append(line)


def _tell(outcome: Outcome, judge: Judge, friends: Sequence[GoodClient], watch: _Watch) -> None:
    for (kind, status), count in sorted(judge.answers.items()):
        outcome.answers.setdefault(kind, {})[status] = count
    outcome.findings, outcome.found = judge.findings, judge.found
    outcome.grpc_s_own.update(judge.grpc_s_own)
    outcome.good = dict(sum((friend.statuses for friend in friends), Counter[str]()))
    took = sorted(1e3 * s for friend in friends for s in friend.took_s) or [0.0]
    outcome.good_ms = (took[len(took) // 2], took[int(len(took) * 0.99)], took[-1])
    outcome.checks = watch.looks
    outcome.rss_kib = [seen.rss_kib for seen in watch.seen]
    fields = ("rss_kib", "descriptors", "threads")
    most = Resources(*(max(getattr(seen, name) for seen in watch.seen) for name in fields))
    outcome.resources = {"start": watch.seen[0], "most": most, "end": watch.seen[-1]}
