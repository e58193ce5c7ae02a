"""Training runs that are killed in the middle of an epoch: `resumed_child.py FOLDER MODE…`; a folder in it for each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.training.small_nets import a_pretrained_network, picture_feeds
from edgeexit.training.feeding import Feed, TrainBatch
from edgeexit.training.settings import TrainSettings
from edgeexit.training.trainer import train


class Dying(Feed):
    """Ends the process, as the system does when memory is short, in the third epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[TrainBatch]:
        for step, batch in enumerate(super().epoch(number, start), start):
            if (number, step) == (2, 5):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def settings(mode: str) -> TrainSettings:
    """Augmentation, dropout, several optimisers, a frozen and an unfrozen phase, checkpoints between epochs."""
    joint = {"self_distillation": 0.5, "heads_first": 1} if mode == "joint" else {}
    return TrainSettings(
        mode=mode, epochs=4, batch=16, rate=0.05, augment="crop", checkpoint_every=3, threads=1, **joint
    )


def killed(mode: str, folder: Path) -> int:
    """What ended a run in a process of its own: a number as `subprocess` gives it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        data, held = picture_feeds()
        dying = Dying(**{name: getattr(data, name) for name in data.__dataclass_fields__})
        train(a_pretrained_network(head="conv"), dying, held, settings(mode), folder=folder, quiet=True)
    finally:
        os._exit(1)  # not reached by a run that was killed


if __name__ == "__main__":
    torch.set_num_threads(1)
    a_pretrained_network()
    print(*(killed(mode, Path(sys.argv[1]) / mode) for mode in sys.argv[2:]))
