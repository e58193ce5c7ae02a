"""Exit heads: what they are to be, and the small networks that they become."""

from edgeexit.training.heads.head import Head, build_head, head_macs
from edgeexit.training.heads.spec import HeadSpec

__all__ = ["Head", "HeadSpec", "build_head", "head_macs"]
