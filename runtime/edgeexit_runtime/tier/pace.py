"""The pace of two ways to answer: handing samples on, and finishing them here."""

from __future__ import annotations

__all__ = ["Pace"]

SLOWER, QUICKER = 0.2, 0.5
"""The weight of the newest question in the mean, where it took longer than expected and where it did not."""

LOOKING_AGAIN = 20.0
"""After that many times a question's time was spent here, one is asked again: the link may be better now."""


class Pace:
    """Says which way is quicker. What asking takes is known from the questions asked so far.

    To be told and asked by any thread: a figure that is a question old does no harm.
    """

    def __init__(self) -> None:
        self._asked_s: float | None = None
        self._here_s = 0.0

    def is_quicker_here(self, here_s: float) -> bool:
        """Whether samples that take so many seconds here should be finished here.

        It counts them as finished here if so. Nothing is known of asking before the first answer: then not.
        """
        if self._asked_s is None or here_s >= self._asked_s or self._here_s >= LOOKING_AGAIN * self._asked_s:
            return False
        self._here_s += here_s
        return True

    def asking_took(self, elapsed_s: float) -> None:
        """A question came to an end, with an answer or without."""
        known_s, self._here_s = self._asked_s, 0.0
        if known_s is None:
            self._asked_s = elapsed_s
        else:
            self._asked_s = known_s + (QUICKER if elapsed_s < known_s else SLOWER) * (elapsed_s - known_s)
