"""Small pictures as `data:` addresses."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["data_address"]

_SIDE = 64
_COLOURS = 96
_PLAIN_PIXELS = 40 * 40


def data_address(pixels: NDArray[np.uint8]) -> str:
    """A picture as a PNG in a `data:` address, no side longer than 64 pixels.

    Args:
        pixels: (height, width, 1 or 3).
    """
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((_SIDE, _SIDE))
    if image.mode == "RGB" and image.width * image.height > _PLAIN_PIXELS:
        image = image.quantize(_COLOURS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
