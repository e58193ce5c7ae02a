"""TensorRT: engines built and kept on the device, run with boundary tensors in its memory.

Nothing here has run on a GPU yet; `docs/tensorrt.md` says what was checked, and how.
"""

from __future__ import annotations

__all__: list[str] = []
