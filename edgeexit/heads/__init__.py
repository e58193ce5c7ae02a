"""Exit heads in closed form: what is learned follows from statistics that merge and continue.

The exporter fits heads with these formulas, and the device continues them with new samples. There is
one implementation, in NumPy.
"""

from __future__ import annotations

from edgeexit.heads.base import HeadStatistics, Learner
from edgeexit.heads.class_means import ClassMeansLearner, ClassMeansStatistics
from edgeexit.heads.gaussian import GaussianLearner, GaussianStatistics

__all__ = [
    "ClassMeansLearner",
    "ClassMeansStatistics",
    "GaussianLearner",
    "GaussianStatistics",
    "HeadStatistics",
    "Learner",
]
