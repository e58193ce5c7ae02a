"""Contenders: a policy together with a threshold method, under one name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeexit.errors import UsageError
from edgeexit.policies import POLICIES
from edgeexit.thresholds import METHODS

__all__ = ["Contender", "default_contenders", "find_contenders"]

NAMED = {("max-probability", "tolerance"): "selfxit"}
"""Pairs that a text describes as one method."""

EVERYWHERE = "joint"
"""Every policy is tried with it besides: it tells the gain of a score from that of its thresholds."""


@dataclass(frozen=True)
class Contender:
    """A policy and how its thresholds are found.

    Attributes:
        name: The policy's name if the method is that of the policy's own text; else `policy+method`.
        policy: A key of `edgeexit.policies.POLICIES`.
        method: A key of `edgeexit.thresholds.METHODS`.
    """

    name: str
    policy: str
    method: str

    def seeds(self, most: int) -> int:
        """How many fits tell something: one, unless chance enters."""
        return most if POLICIES[self.policy].random else 1


def default_contenders() -> list[Contender]:
    """Every policy by its own text's method, the named pairs, and every policy with joint thresholds."""
    pairs = [(policy, row.thresholds) for policy, row in POLICIES.items()]
    pairs += [pair for pair in NAMED if pair not in pairs]
    pairs += [(policy, EVERYWHERE) for policy in POLICIES if (policy, EVERYWHERE) not in pairs]
    return [_contender(*pair) for pair in pairs]


def find_contenders(words: Sequence[str]) -> list[Contender]:
    """Contenders by name: a policy, a named pair, or `policy+method`. The word "all" stands for the default ones.

    Raises:
        UsageError: No such policy or method, or none at all.
    """
    found: list[Contender] = []
    for word in words:
        found += default_contenders() if word == "all" else [_found(word)]
    if not found:
        raise UsageError("no policy was named", expected=f"all, {', '.join(POLICIES)}")
    return list(dict.fromkeys(found))


def _contender(policy: str, method: str) -> Contender:
    own = POLICIES[policy].thresholds == method
    return Contender(NAMED.get((policy, method), policy if own else f"{policy}+{method}"), policy, method)


def _found(word: str) -> Contender:
    for (policy, method), name in NAMED.items():
        if word == name:
            return Contender(name, policy, method)
    policy, plus, method = word.partition("+")
    if policy not in POLICIES:
        raise UsageError("no such policy", got=word, expected=f"all, {', '.join([*POLICIES, *NAMED.values()])}")
    if plus and method not in METHODS:
        raise UsageError("no such threshold method", got=word, expected=f"{policy}+ one of {', '.join(METHODS)}")
    return _contender(policy, method if plus else POLICIES[policy].thresholds)
