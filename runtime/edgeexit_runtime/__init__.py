"""The device side of EdgeExit: runs bundles with NumPy and ONNX Runtime.

    from edgeexit_runtime import Cascade

    cascade = Cascade.open("model.eexit", threads=2)
    answers = cascade.run(batch)
    answers.label, answers.probability, answers.exit

The command line's part is in `edgeexit_runtime.commands`.
"""

from __future__ import annotations

from edgeexit_runtime.answers import Answer, Answers
from edgeexit_runtime.backends.base import SessionSettings
from edgeexit_runtime.backends.fake import FakeBackend, FakeSegment
from edgeexit_runtime.cascade import Cascade

__all__ = ["Answer", "Answers", "Cascade", "FakeBackend", "FakeSegment", "SessionSettings", "__version__"]

__version__ = "0.1.0"
