"""What a machine makes of a bundle: `python probe.py BUNDLE SAMPLES.npz OUT.npz`.

Run by the interpreter that is looked at, which has the device side and nothing of the tests. The arrays go to OUT,
facts about the process to standard output, as one JSON document.
"""

from __future__ import annotations

import json
import platform
import sys
import sysconfig
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from edgeexit_runtime import Cascade

ONE_BY_ONE = 16
BATCH = 64
STREAMED = 16
NOT_ON_A_DEVICE = ("edgeexit_exporters", "onnx", "onnxscript", "sklearn", "torch")

bundle, samples_file, out = sys.argv[1:]
cascade = Cascade.open(bundle)
with np.load(samples_file) as archive:
    samples = {spec.name: archive[spec.name] for spec in cascade.manifest.inputs}
n = len(next(iter(samples.values())))


def rows(start: int, size: int) -> dict[str, np.ndarray]:
    """Some of the samples."""
    return {name: array[start : start + size] for name, array in samples.items()}


batches = [rows(start, BATCH) for start in range(0, n, BATCH)]
answered = [cascade.run(batch) for batch in batches]
single = [cascade.run(rows(index, 1)) for index in range(min(n, ONE_BY_ONE))]
streamed = sorted(cascade.stream(rows(start, STREAMED) for start in range(0, n, STREAMED)), key=lambda a: a.index)
np.savez(
    out,
    logits=np.concatenate([cascade.logits(batch) for batch in batches], axis=1),
    label=np.concatenate([answers.label for answers in answered]),
    exit=np.concatenate([answers.exit for answers in answered]),
    probability=np.concatenate([answers.probability for answers in answered]),
    single_label=np.concatenate([answers.label for answers in single]),
    single_exit=np.concatenate([answers.exit for answers in single]),
    streamed_index=np.array([answer.index for answer in streamed]),
    streamed_label=np.array([answer.label for answer in streamed]),
    streamed_exit=np.array([answer.exit for answer in streamed]),
)
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name != "__main__"}
facts = {
    "machine": platform.machine(),
    "platform": sysconfig.get_platform(),
    "python": platform.python_version(),
    "packages": {name: version(name) for name in ("numpy", "onnxruntime", "click", "msgspec", "rich", "pillow")},
    "not_on_a_device": [name for name in NOT_ON_A_DEVICE if find_spec(name)],
    "files": {name: file for name, file in files.items() if file},
}
print(json.dumps(facts))
