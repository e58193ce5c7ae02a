"""Requests whose bytes were damaged: bits, pieces, lengths, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

__all__ = ["DAMAGES", "damaged"]

Damage = Callable[[bytearray, Random], None]
"""Changes bytes in place."""

HEAD = 300
"""Where the names and shapes of a request are."""


def damaged(data: bytes, random: Random) -> tuple[str, bytes]:
    """A message damaged in one or two ways; what was done to it, and its bytes."""
    found = bytearray(data)
    names = random.choices(list(DAMAGES), k=random.choice((1, 1, 2)))
    for name in names:
        DAMAGES[name](found, random)
    return "+".join(names), bytes(found)


def _place(data: bytearray, random: Random) -> int:
    """Any, as often in the head as anywhere."""
    return random.randrange(max(1, min(len(data), HEAD) if random.random() < 0.5 else len(data)))


def _bits(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 100))):
        if data:
            data[_place(data, random)] ^= 1 << random.randrange(8)


def _truncated(data: bytearray, random: Random) -> None:
    del data[_place(data, random) :]


def _cut(data: bytearray, random: Random) -> None:
    place = _place(data, random)
    del data[place : place + random.choice((1, 2, 10, 1000))]


def _inserted(data: bytearray, random: Random) -> None:
    place = _place(data, random)
    data[place:place] = random.randbytes(random.choice((1, 2, 10, 1000)))


def _overwritten(data: bytearray, random: Random) -> None:
    place, length = _place(data, random), random.choice((1, 2, 10, 100))
    data[place : place + length] = random.randbytes(length)


def _spliced(data: bytearray, random: Random) -> None:
    """A piece of the message at another place of it."""
    start, place = _place(data, random), _place(data, random)
    data[place:place] = data[start : start + random.choice((4, 40, 400))]


def _endless_number(data: bytearray, random: Random) -> None:
    """A length, field or axis that does not end, or is 2⁶⁴ − 1."""
    place = _place(data, random)
    data[place : place + 1] = b"\xff" * random.choice((4, 9, 10, 30)) + random.choice((b"\x01", b"\x7f", b""))


def _nested(data: bytearray, random: Random) -> None:
    """Groups in groups in groups."""
    data[:0] = random.choice((b"\x0b", b"\x9b\x06", b"\x2a\x7f")) * random.choice((50, 150, 5000))


def _repeated(data: bytearray, random: Random) -> None:
    """One field many times, empty."""
    data += random.choice((b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x00", b"\x0a\x00")) * 30_000


def _random(data: bytearray, random: Random) -> None:
    data[:] = random.randbytes(random.choice((0, 1, 5, 40, 300, 5000)))


def _constant(data: bytearray, random: Random) -> None:
    data[:] = bytes([random.randrange(256)]) * random.choice((1, 40, 5000, 100_000))


DAMAGES: Mapping[str, Damage] = {
    function.__name__[1:]: function
    for function in (
        _bits, _truncated, _cut, _inserted, _overwritten, _spliced, _endless_number, _nested, _repeated, _random,
        _constant,
    )
}  # fmt: skip
"""By name."""
