"""Frozen: heads learn from what a backbone that never changes computes; one pass of it serves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from edgeexit.console import say
from edgeexit.training.activations import ActivationBatch, ActivationFeed
from edgeexit.training.headslearner import HeadsLearner
from edgeexit.training.loop.course import Course
from edgeexit.training.loop.hosting import choose_device, hosted, torch_threads
from edgeexit.training.loop.randomness import preserved_generators
from edgeexit.training.outcomes import ExitOutcome
from edgeexit.training.settings import TrainSettings

__all__ = ["ActivationBatch", "ActivationFeed", "HeadsLearner", "report_failures", "train_heads"]


def train_heads(
    heads: Sequence[nn.Module],
    feed: ActivationFeed,
    held: ActivationFeed,
    settings: TrainSettings,
    *,
    names: Sequence[str],
    folder: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    about: Mapping[str, str] | None = None,
) -> list[ExitOutcome]:
    """Train heads on activations; at the end each holds its best weights.

    Each head has its own optimiser, its own stream of random numbers and its own best epoch: it gets the same bits as
    if it were trained alone.

    Args:
        heads: Modules that map an activation (n, …) and a mask (or None) to logits (n, C).
        feed: What to learn from.
        held: What to judge by; `epoch(0)` is every sample once.
        settings: With a frozen mode.
        names: One name for each head; random numbers follow from it.
        folder: Where checkpoints and metrics go; None keeps nothing.
        resume: Go on from the folder's checkpoint; if there is none, say so and begin.
        quiet: No progress bar; a head that fails is reported all the same.
        about: What else has to be the same when the run is taken up again, such as the backbone's digest.

    Returns:
        One outcome for each head. One that has learnt nothing, or whose loss was not finite, has `converged` False.

    Raises:
        UsageError: Names and heads do not fit, the mode is "joint", or see `Course.run`.
        DataError: Labels are needed and not there, there is one class only, or answers of the whole model are not
            finite.
    """
    device = choose_device(settings.device)
    together = nn.ModuleList(heads)
    with preserved_generators(), torch_threads(settings.threads), hosted(together, device):
        learner = HeadsLearner(heads, names, held, settings, device, feed.steps)
        what = f"exit heads ({settings.mode})"
        course: Course[ActivationBatch] = Course(
            learner, feed, settings, learner.about(about or {}), folder, quiet, what
        )
        course.run(resume=resume)
        outcomes = learner.conclude()
    report_failures(outcomes)
    return outcomes


def report_failures(outcomes: Sequence[ExitOutcome], *, whole: ExitOutcome | None = None) -> None:
    """Say which exits learnt nothing, and why if that is known.

    Args:
        outcomes: Of exits that can be left out.
        whole: Of the last exit, which cannot.
    """
    for outcome in outcomes:
        if not outcome.converged:
            say(f"The exit at {outcome.name} did not converge: {_reason(outcome)}. Leave it out.")
    if whole is not None and not whole.converged:
        say(f"The last exit ({whole.name}) gives no better answers than the commonest one: {_reason(whole)}.")


def _reason(outcome: ExitOutcome) -> str:
    if outcome.problem is not None:
        return outcome.problem
    does = "agrees with the whole model" if outcome.against == "model" else "is right"
    loss = ", and its loss was not finite" if outcome.loss is None else ""
    return f"it {does} on {100 * outcome.accuracy:.1f} % of the held-out samples{loss}"
