"""What an exit head is to be: a kind and its sizes, as a value and as one word of text.

The text is KIND[:CHANNELS][/HIDDEN][@OPTION=VALUE,…]:

    linear              pooled on a grid, a linear layer
    linear/128@grid=2   2×2 cells, a hidden layer of 128
    conv:32,64/128      two convolutions, a hidden layer
    conv:2x,4x          two convolutions with twice and four times as many channels as the activation
    conv@kernel=5       one convolution as wide as sensible
    token@tokens=mean   the mean token rather than the first

CHANNELS and HIDDEN are one or two whole numbers with a comma between them, CHANNELS also multiples such as 2x;
the options are `grid`, `kernel`, `stride`, `tokens` and `dropout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import ceil, prod
from typing import Literal, get_args

import msgspec

from edgeexit.errors import UsageError

__all__ = ["HeadSpec", "Kind", "coarse_grid", "convolved", "feature_limit"]

Kind = Literal["auto", "linear", "conv", "mixed", "token"]
Tokens = Literal["first", "mean"]
Map = tuple[int, int, int]

_GRIDS = (8, 4, 2, 1)
_MAX_FEATURES = 1536
_FLAT = 1024
_MAX_CLASSIFIER_MACS = 4_000_000
_MAX_CONV_MACS = 8_000_000
_CONV_CHANNELS = (16, 128)
_CONV_SIDE = 32
_CONV_FEATURES = 1024
_MOST_LAYERS = 2
_MOST_WIDE = 65_536
_LISTS = ("channels", "multiples", "hidden")
_OPTIONS = ("grid", "kernel", "stride", "tokens", "dropout")


class HeadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exit head's architecture; sizes left open are filled in by `sized`.

    Attributes:
        kind: "linear": maps are pooled on grids (finer by average, coarser by maximum), then linear layers.
            "mixed": SDN's learned mix of maximum and average pooling, then linear layers. "conv": one or two
            strided convolutions, pooling, linear layers (SelfXit, section 3.2.1). "token": the first token
            or the mean token, then linear layers. "auto": "linear", and on tokens "token".
        grid: Side of the pooling grid in cells; 0: as fine as sensible.
        channels: Output channels of the convolutions, kind "conv"; empty: one convolution of a sensible width.
        kernel: Side of the convolutions' kernels.
        stride: Stride of the convolutions.
        hidden: Widths of up to two hidden linear layers.
        tokens: Which token is read, kind "token".
        dropout: Probability with which a feature before the classifier is dropped in training.
        multiples: Instead of `channels`, the same as multiples of the activation's channels.

    Raises:
        UsageError: A value is out of its range, or belongs to another kind.
    """

    kind: Kind = "auto"
    grid: int = 0
    channels: tuple[int, ...] = ()
    kernel: int = 3
    stride: int = 2
    hidden: tuple[int, ...] = ()
    tokens: Tokens = "first"
    dropout: float = 0.0
    multiples: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for word in _LISTS:
            if isinstance(getattr(self, word), list):  # as a frozen structure, which can be hashed, holds them
                msgspec.structs.force_setattr(self, word, tuple(getattr(self, word)))
        for got, expected in self._faults():
            raise UsageError("the head cannot be built as described", got=got, expected=expected)

    @classmethod
    def parse(cls, text: str) -> HeadSpec:
        """Read the text form; see the module's first lines.

        Raises:
            UsageError: It is not of that form.
        """
        front, _, options = text.strip().partition("@")
        front, _, hidden = front.partition("/")
        kind, _, channels = front.partition(":")
        fields: dict[str, object] = {"kind": kind}
        try:
            for option in options.split(",") if options else ():
                word, value = option.split("=")
                if word not in _OPTIONS or word in fields:
                    raise ValueError(word)
                fields[word] = value if word == "tokens" else float(value) if word == "dropout" else int(value)
            fields |= {**_widths(channels), "hidden": _numbers(hidden)}
            return msgspec.convert(fields, cls)
        except (ValueError, msgspec.ValidationError) as error:
            raise UsageError(
                "a head's description cannot be read",
                got=text,
                expected=f"KIND[:CHANNELS][/HIDDEN][@OPTION=VALUE,…], KIND one of {', '.join(get_args(Kind))}",
                remedy="for example linear, conv:32,64/128, conv:2x,4x or token@tokens=mean",
            ) from error

    def __str__(self) -> str:
        """The text form, without what is as by default: `parse` gives the same value back."""
        plain = HeadSpec()
        options = ",".join(f"{word}={getattr(self, word)}" for word in _OPTIONS if self._differs(word, plain))
        marked = ((":", "", self.channels), (":", "x", self.multiples), ("/", "", self.hidden))
        layers = "".join(mark + ",".join(f"{size}{end}" for size in sizes) for mark, end, sizes in marked if sizes)
        return f"{self.kind}{layers}" + (f"@{options}" if options else "")

    def sized(self, shape: tuple[int, ...], classes: int, *, channels_first: bool = True) -> HeadSpec:
        """The same head with nothing left open, for activations of a shape.

        Args:
            shape: One sample's: maps (C, H, W) or (C, T, H, W), sequences (T, D) or (C, L), vectors (D,).
            classes: Number of classes.
            channels_first: Whether maps and sequences have their channels first; tokens (T, D) have them last.

        Raises:
            UsageError: A head of this kind cannot read such activations, or a multiple of their channels is too wide.
        """
        is_map = len(shape) > 2 or (len(shape) == 2 and channels_first)
        if not is_map:
            return self._sized_without_map(shape)
        if self.kind == "token" or len(shape) > 4:
            raise _unreadable(self.kind, shape)
        spec = msgspec.structs.replace(self, kind="linear" if self.kind == "auto" else self.kind)
        size = as_map(shape, channels_first=channels_first)
        if spec.kind == "conv":
            return spec._sized_convolutions(size)
        limit = feature_limit(size[0], classes)
        finest = max(size[1:]) if prod(size) <= min(limit, _FLAT) else _finest(size, 2 * limit // 3)
        return msgspec.structs.replace(spec, grid=min(spec.grid or finest, max(size[1:])))

    def _sized_without_map(self, shape: tuple[int, ...]) -> HeadSpec:
        kinds = {1: ("linear",), 2: ("token", "linear")}.get(len(shape), ())
        if self.kind not in ("auto", *kinds):
            raise _unreadable(self.kind, shape)
        return msgspec.structs.replace(self, kind=kinds[0])

    def _sized_convolutions(self, size: Map) -> HeadSpec:
        widths = tuple(multiple * size[0] for multiple in self.multiples)
        spec = msgspec.structs.replace(self, channels=self.channels or widths, multiples=())
        if not spec.channels:
            least, most = _CONV_CHANNELS
            each = convolved(msgspec.structs.replace(spec, channels=(1,)), size).macs
            width = min(max(2 * size[0], least), most)
            while width > least // 2 and width * each > _MAX_CONV_MACS:
                width //= 2
            spec = msgspec.structs.replace(spec, channels=(width,))
        after = convolved(spec, size).size
        grid = min(spec.grid or _finest(after, _CONV_FEATURES), max(after[1:]))
        return msgspec.structs.replace(spec, grid=grid)

    def _differs(self, word: str, plain: HeadSpec) -> bool:
        return bool(getattr(self, word) != getattr(plain, word))

    def _faults(self) -> Iterator[tuple[str, str]]:
        for word, least, most in (("grid", 0, 256), ("kernel", 1, 63), ("stride", 1, 63)):
            if not least <= getattr(self, word) <= most:
                yield f"{word} {getattr(self, word)}", f"{word} from {least} to {most}"
        for word in _LISTS:
            sizes = getattr(self, word)
            if len(sizes) > _MOST_LAYERS or any(not 1 <= size <= _MOST_WIDE for size in sizes):
                yield f"{word} {sizes}", f"at most {_MOST_LAYERS} numbers from 1 to {_MOST_WIDE}"
        if not 0 <= self.dropout < 1:
            yield f"dropout {self.dropout}", "0 ≤ dropout < 1"
        if (self.channels or self.multiples) and self.kind != "conv":
            yield f"channels {self.channels or self.multiples} and kind {self.kind}", 'channels with kind "conv" alone'
        if self.channels and self.multiples:
            yield f"channels {self.channels} and multiples {self.multiples}", "one of them"


class Convolved(msgspec.Struct, frozen=True):
    """What the convolutions of a head make of a map.

    Attributes:
        shrunk: Factor by which the map's rows and columns are averaged down first.
        kernels: Rows and columns of each convolution's kernel.
        size: (C, H, W) after the last convolution.
        macs: Multiply-accumulates of one sample.
    """

    shrunk: tuple[int, int]
    kernels: tuple[tuple[int, int], ...]
    size: Map
    macs: int


def convolved(spec: HeadSpec, size: Map) -> Convolved:
    """What the convolutions of `spec` make of a map (C, H, W).

    Maps of more than 32 rows or columns are averaged down first. An axis of length 1 is not convolved over.
    """
    shrunk = (ceil(size[1] / _CONV_SIDE), ceil(size[2] / _CONV_SIDE))
    size = (size[0], size[1] // shrunk[0], size[2] // shrunk[1])
    macs, kernels = 0, []
    for channels in spec.channels:
        kernel = (_side(spec, size[1]), _side(spec, size[2]))
        rows, columns = (
            (length + 2 * (side // 2) - side) // spec.stride + 1 for length, side in zip(size[1:], kernel, strict=True)
        )
        macs += channels * rows * columns * size[0] * prod(kernel)
        size = (channels, rows, columns)
        kernels.append(kernel)
    return Convolved(shrunk, tuple(kernels), size, macs)


def feature_limit(channels: int, classes: int) -> int:
    """Most features that pooling should leave of a map with so many channels."""
    return min(_MAX_FEATURES, max(channels, _MAX_CLASSIFIER_MACS // classes))


def coarse_grid(size: Map, grid: int, classes: int) -> int:
    """Side of the grid for maxima beside one of `grid` cells for averages; 0: no room for maxima."""
    room = feature_limit(size[0], classes) // 3
    if grid >= max(size[1:]):
        return 0
    return next((side for side in _GRIDS if side <= grid and size[0] * side**2 <= room), 0)


def as_map(shape: tuple[int, ...], *, channels_first: bool) -> Map:
    """The shape (C, H, W) as which a head sees maps of rank 2 to 4: (C, L) is (C, 1, L)."""
    if not channels_first:
        shape = (shape[-1], *shape[:-1])
    return (shape[0], prod(shape[1:-1]), shape[-1])


def _finest(size: Map, room: int) -> int:
    cells = ((grid, min(grid, rows) * min(grid, columns)) for grid, (rows, columns) in product(_GRIDS, [size[1:]]))
    return next((grid for grid, number in cells if size[0] * number <= room), 1)


def _side(spec: HeadSpec, length: int) -> int:
    return spec.kernel if length > 1 else 1


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",")) if text else ()


def _widths(channels: str) -> dict[str, tuple[int, ...]]:
    """The field that channels such as 32,64 or 2x,4x stand for."""
    words = [word.strip() for word in channels.split(",")]
    if all(word.endswith("x") for word in words):
        return {"multiples": tuple(int(word[:-1]) for word in words)}
    return {"channels": _numbers(channels)}


def _unreadable(kind: str, shape: tuple[int, ...]) -> UsageError:
    return UsageError(
        f'a head of kind "{kind}" cannot read such activations',
        got=f"shape {shape} for one sample",
        expected='maps for "linear", "mixed" and "conv", tokens for "token", vectors for "linear"',
        remedy='head="auto"',
    )
