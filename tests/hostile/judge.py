"""What may come back, and what may not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from threading import Lock

from hostile.marks import strangers

__all__ = ["KNOWN", "OVERLOADED", "PROTOCOL", "Judge"]

PROTOCOL = frozenset(
    {
        "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED",
        "UNAVAILABLE", "UNAUTHENTICATED", "CANCELLED", "DATA_LOSS",
    }
)  # fmt: skip
"""Statuses that say what is the matter."""

OVERLOADED = frozenset({"RESOURCE_EXHAUSTED", "CANCELLED"})
"""How a server refuses that has too much to do: the latter is gRPC's own, of calls that nobody has looked at yet."""

KNOWN = PROTOCOL - {"UNIMPLEMENTED"}
"""Of calls that the server knows."""

GRPC_S_OWN = {
    "INTERNAL": re.compile(r"Failed parsing HTTP/2|Decompression failed|Compressed|Cardinality|Received RST_STREAM"),
    "UNKNOWN": re.compile(r"Unexpected <class 'UnicodeDecodeError'>: 'utf-8' codec can't decode byte"),
}
"""What gRPC itself says of bytes that it can make nothing of: no code of ours ran. UNKNOWN is grpcio's for a call
whose name is no UTF-8."""

INSIDE = re.compile(
    rb"Traceback|File \"|\.py\b|site-packages|numpy|onnx ?runtime|ONNXRuntime|\[E:|Exception\b|\b[A-Z][a-z]\w*Error\b|"
    rb"object at 0x|/(?:root|home|tmp|usr|opt|var)/|NoneType|dtype\(|Python/\d|msgspec|google\.protobuf|server log",
    re.IGNORECASE,
)
"""What only the inside of a server knows."""

_STATUS = re.compile(rb"grpc-status[\x01\x02](\d+)")
_NAMES = {b"2": "UNKNOWN", b"13": "INTERNAL"}
_MOST_FINDINGS = 100


class Judge:
    """Counts answers by kind and status, and keeps what should not be. Several threads may use it.

    Attributes:
        answers: By (kind of attack, status).
        grpc_s_own: What gRPC itself said of bytes that are no call, by its words.
        findings: One sentence each, at most 100.
        found: How many there were.
    """

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str]] = Counter()
        self.grpc_s_own: Counter[str] = Counter()
        self.findings: list[str] = []
        self.found = 0
        self._lock = Lock()

    def finding(self, kind: str, what: str, own: bytes = b"") -> None:
        """Something that should not be."""
        with self._lock:
            self.found += 1
            if len(self.findings) < _MOST_FINDINGS:
                self.findings.append(f"{kind}: {what[:600]} | {len(own)} bytes {own[:120].hex()}")

    def count(self, kind: str, status: str) -> None:
        """An answer came."""
        with self._lock:
            self.answers[kind, status] += 1

    def call(self, kind: str, status: str, text: bytes | str, own: bytes, allowed: Collection[str] = PROTOCOL) -> None:
        """Judge the end of a call.

        Args:
            kind: Of attack.
            status: The name of its status.
            text: The message of an error, or the whole answer.
            own: What was sent.
            allowed: Statuses.
        """
        said = text if isinstance(text, bytes) else text.encode(errors="backslashreplace")
        self.count(kind.split(":", maxsplit=1)[0], status)
        if status not in allowed and not self._is_grpc_s_own(status, said.decode(errors="replace")):
            self.finding(kind, f"the status {status}: {said[:200]!r}", own)
        self.text(kind, said, own)

    def page(self, kind: str, answer: bytes, own: bytes) -> None:
        """Judge what came out of a raw socket."""
        first = answer.split(b"\r\n", 1)[0]
        http = re.match(rb"HTTP/1\.\d (\d{3})", first)
        status = ("bytes" if answer else "nothing") if http is None else http[1].decode()
        self.count(kind.split(":", maxsplit=1)[0], status)
        if status == "500":
            self.finding(kind, f"the status 500: {answer[:200]!r}", own)
        strange = [_NAMES[code] for code in _STATUS.findall(answer) if code in _NAMES]
        words = _words(answer) if strange else ""
        if all(self._is_grpc_s_own(status, words) for status in strange):
            answer = answer.replace(words.encode(), b"") if strange else answer
        else:
            self.finding(kind, f"the status {', '.join(strange)}: {answer[-300:]!r}", own)
        self.text(kind, answer, own)

    def _is_grpc_s_own(self, status: str, words: str) -> bool:
        known = GRPC_S_OWN.get(status)
        if known is None or not known.search(words):
            return False
        with self._lock:
            self.grpc_s_own[f"{status}: {re.sub('[0-9]+', '0', words)[:80]}"] += 1
        return True

    def text(self, kind: str, said: bytes, own: bytes) -> None:
        """Judge words: whose they are, and what they tell."""
        if others := strangers(said, own):
            self.finding(kind, f"somebody else's marks {others[:3]}: {said[:300]!r}", own)
        inside = [found for found in INSIDE.findall(said) if found.lower() not in own.lower()]
        if inside:
            self.finding(kind, f"tells {inside[:3]}: {said[:400]!r}", own)


def _words(answer: bytes) -> str:
    """The message of a status among the bytes of an answer."""
    _, _, after = answer.rpartition(b"grpc-message")
    return after[1 : 1 + (after[0] & 127)].decode(errors="replace") if after else "no message"
