"""A search for the architecture of exit heads: accuracy against cost (SelfXit, sections 3.2.1 and A.1.1).

    search_heads(feed, held, places, whole_macs, classes, settings, *, training, folder=None, quiet=False)
        -> list[SearchResult]

`feed` and `held` give activations (`edgeexit.training.frozen.ActivationFeed`), one value an exit, in the order of
`places`: `SearchPlace(name, shape, channels_first, macs_before)`. They are recorded once and used for all trials; a
`Recording` is taken as it is. Each exit has a study of its own, all in one SQLite file, so that a search that was
killed goes on where it was. A result holds the best `spec` with its held-out `accuracy`, `macs`, `saving` and
`worth`, and all `trials`, whose Pareto front is `front`. The first head tried is the one that training would take
without a search, and it is never cut short: on the samples held out no search ends with a head of less worth.

The weights of the trials are thrown away: train the heads found as any others. Which of the exits to keep is a
question for all of them together, `edgeexit.subsets.best_subset`.
"""

from __future__ import annotations

from edgeexit.training.search.objective import Quality, quality
from edgeexit.training.search.recording import Recording, record
from edgeexit.training.search.results import SearchPlace, SearchResult, SearchSettings, SearchTrial, pareto
from edgeexit.training.search.searching import search_heads
from edgeexit.training.search.space import HeadSpace

__all__ = [
    "HeadSpace",
    "Quality",
    "Recording",
    "SearchPlace",
    "SearchResult",
    "SearchSettings",
    "SearchTrial",
    "pareto",
    "quality",
    "record",
    "search_heads",
]
