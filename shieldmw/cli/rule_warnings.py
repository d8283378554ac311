"""The warnings of ``shieldmw check`` about rules that are valid but have no effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from http import HTTPMethod

from shieldmw.core.paths import PathPattern
from shieldmw.core.rules import Access, Rule


def rule_warnings(rules: Sequence[Rule]) -> Iterator[str]:
    """A line for each method that is not a usual one, and for each rule that never applies, changes nothing or is in
    dry run."""
    for number, rule in enumerate(rules):
        for method in sorted(rule.methods - set(HTTPMethod)):
            nearest = get_close_matches(method, list(HTTPMethod), n=1)
            meant = f": did you mean {nearest[0]}?" if nearest else ": is that what clients send?"
            yield f"rule '{rule.name}' is for the method {method}, which is not a usual one{meant}"
        if rule.dry_run:
            yield f"rule '{rule.name}' is in dry run: what it would refuse passes, and is counted and logged"
        before = next((other for other in rules[:number] if _covers(other, rule)), None)
        if before is not None:
            yield (
                f"rule '{rule.name}' never applies: the first rule that matches counts, and '{before.name}' before it "
                f"matches all of its requests: write '{rule.name}' before it"
            )
        elif _says_nothing(rule) and not any(_overlap(rule.path, other.path) for other in rules[number + 1 :]):
            yield f"rule '{rule.name}' changes nothing: it has no limits, cost, live or emergency"


def _covers(first: Rule, second: Rule) -> bool:
    """Whether the first rule matches every request that the second one does."""
    if first.path != second.path and (first.path.prefix is None or not first.path.matches(second.path.exact)):
        return False
    if not first.methods:
        return True
    return bool(second.methods) and all(first.matches(second.path.exact, method) for method in second.methods)


def _says_nothing(rule: Rule) -> bool:
    return not rule.limits and rule.cost == 1 and not rule.live and rule.emergency is Access.OPEN


def _overlap(one: PathPattern, other: PathPattern) -> bool:
    """Whether a path can match both. Then even a rule without effects of its own exempts it from the other one."""
    return one.matches(other.exact) or other.matches(one.exact)
