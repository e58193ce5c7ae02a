"""The fake TensorRT as the module `tensorrt`; FAKE_TENSORRT is its version."""

import os

from fake_machine import MEMORY

from edgeexit_runtime.backends.tensorrt.fake import fake_tensorrt

globals().update(vars(fake_tensorrt(MEMORY, os.environ.get("FAKE_TENSORRT", "10.3.0"))))
