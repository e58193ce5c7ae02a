"""Pictures: files decoded by Pillow to uint8 arrays of one size and mode.

The EXIF orientation is left alone: a picture is taken as its pixels are stored. Of animations and
multi-page files the first picture counts. Transparency is dropped, not blended. This is the only
module that imports Pillow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgeexit.data.dataset import Batch
from edgeexit.errors import DataError

__all__ = ["MAX_PIXELS", "SUFFIXES", "Mode", "Pictures", "look_at"]

Mode = Literal["L", "RGB"]

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What a picture file may end in."""

MAX_PIXELS = 89_478_485  # a quarter of a GiB of RGB; Pillow warns beyond it
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # none that runs a program, as EPS does
_FORMAT_OF = {".jpe": "JPEG", ".jpeg": "JPEG", ".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF"}
GREYS = frozenset({"1", "L", "LA", "La"})
DEEP_MODES = ("I", "F")  # and I;16 with its variants: a conversion to 8 bits would clip


@dataclass(frozen=True, eq=False)
class Pictures:
    """Picture files as samples: uint8 (batch, height, width, channels) under one input name.

    Args:
        paths: One file per sample.
        input_name: The model's input.
        mode: L (one channel) or RGB (three); pictures of other modes are converted.
        size: (height, width) in pixels.
        resize: "exact" refuses other sizes; "crop" scales with a bilinear filter until the shorter
            side fits, keeping the aspect, and takes the centre.
    """

    paths: Sequence[str]
    input_name: str
    mode: Mode
    size: tuple[int, int]
    resize: Literal["exact", "crop"]
    workers: int = 2

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """See `Source.read`."""
        pixels = np.empty((len(rows), *self.size, 3 if self.mode == "RGB" else 1), dtype=np.uint8)
        for position, row in enumerate(rows):
            pixels[position] = self._decode(self.paths[row])
        return {self.input_name: pixels}

    def _decode(self, path: str) -> NDArray[np.uint8]:
        try:
            with _open(path) as picture:
                _refuse_unusable(picture, path)
                if self.resize == "exact":
                    _refuse_other_size(picture, path, self.size)
                flat = _to_mode(picture, self.mode)
                pixels = np.asarray(_centre(flat, self.size))
        except DataError:
            raise
        except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
            raise _unreadable(path, error) from error
        return pixels.reshape(*self.size, -1)


def _open(path: str | Path) -> Image.Image:
    """Open a picture by the format of its name, and by what it is if that fails.

    Asked for several formats, Pillow loads all its plugins, which costs 3 MB of memory.
    """
    likely = _FORMAT_OF.get(Path(path).suffix.lower())
    if likely is not None:
        with contextlib.suppress(UnidentifiedImageError):
            return Image.open(path, formats=(likely,))
    return Image.open(path, formats=FORMATS)


def look_at(path: str | Path) -> tuple[tuple[int, int], Mode]:
    """The size (height, width) and the mode that suits a picture, from its header.

    Raises:
        DataError: It is not a picture that can be used.
    """
    try:
        with _open(path) as picture:
            _refuse_unusable(picture, path)
            return (picture.height, picture.width), "L" if picture.mode in GREYS else "RGB"
    except DataError:
        raise
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def _refuse_unusable(picture: Image.Image, path: str | Path) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise DataError(
            f"{path} is too large a picture",
            got=f"{picture.height} x {picture.width} pixels (height x width)",
            expected=f"at most {MAX_PIXELS:,} pixels",
            remedy="scale it down",
        )
    if picture.mode.startswith(DEEP_MODES):
        raise DataError(
            f"{path} has more than 8 bits per channel",
            got=f"Pillow mode {picture.mode}",
            expected="8 bits per channel",
            remedy="convert it to 8 bits, or pass arrays in an .npz",
        )


def _refuse_other_size(picture: Image.Image, path: str, size: tuple[int, int]) -> None:
    if (picture.height, picture.width) != size:
        raise DataError(
            f"{path} has the wrong size",
            got=f"{picture.height} x {picture.width} pixels (height x width)",
            expected=f"{size[0]} x {size[1]}",
            remedy="--resize crop at export scales pictures and takes their centre",
        )


def _to_mode(picture: Image.Image, mode: Mode) -> Image.Image:
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture if picture.mode == mode else picture.convert(mode)


def _centre(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if (picture.height, picture.width) == size:
        return picture
    scale = min(picture.height / height, picture.width / width)
    left, top = max(picture.width - width * scale, 0) / 2, max(picture.height - height * scale, 0) / 2
    box = (left, top, min(left + width * scale, picture.width), min(top + height * scale, picture.height))
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _unreadable(path: str | Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as a picture",
        got=f"{type(error).__name__}: {error}",
        expected=f"a whole picture in one of {', '.join(FORMATS)}",
        remedy="replace the file or take it out",
    )
