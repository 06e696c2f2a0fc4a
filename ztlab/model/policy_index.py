"""A large policy, cut down to what can matter between two ends; `decide` says what it means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ztlab.model.identity import ANY
from ztlab.model.policy import Policy, Rule


class PolicyIndex:
    """The rules of one policy by the pair of selectors they name.

    Among ten thousand rules few speak of any two identities: those are found without a look at the
    others, and `decide` gives for them what it gives for all.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._groups_of = groups_by_member(policy)
        self._rules: dict[tuple[str, str], list[tuple[int, Rule]]] = {}
        for at, rule in enumerate(policy.rules):
            self._rules.setdefault((rule.source, rule.destination), []).append((at, rule))

    def between(self, source: str, destination: str) -> Policy:
        """The policy with only the rules that name both, in their order, and without its tests."""
        found = [
            entry
            for one in self._selectors(source)
            for other in self._selectors(destination)
            for entry in self._rules.get((one, other), ())
        ]
        rules = tuple(rule for _, rule in sorted(found, key=lambda entry: entry[0]))
        return replace(self._policy, rules=rules, tests=())

    def _selectors(self, name: str) -> set[str]:
        return selectors_of(name, self._groups_of.get(name, ()))


def groups_by_member(policy: Policy) -> dict[str, list[str]]:
    """The groups that each name is in."""
    found: dict[str, list[str]] = {}
    for group, members in policy.groups.items():
        for member in members:
            found.setdefault(member, []).append(group)
    return found


def selectors_of(name: str, groups: Iterable[str]) -> set[str]:
    """All that a rule may write to mean NAME, which is in GROUPS."""
    return {ANY, name, *groups}
