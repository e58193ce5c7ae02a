"""The device of the fake `tensorrt` and `pycuda` beside this file, which a process finds on its path."""

import atexit
import os

from edgeexit_runtime.backends.tensorrt.fake import FakeMemory

MEMORY = FakeMemory(int(os.environ.get("FAKE_DEVICE_BYTES", str(1 << 30))))


@atexit.register
def _abort_as_pycuda_does():
    """A context that is still pushed when pycuda ends makes it abort the process."""
    if MEMORY.entered:
        os._exit(134)
