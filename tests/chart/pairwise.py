"""Every pair of settings at least once, in few cases, given which combinations are possible."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

Case = dict[str, str]


def cases(factors: Mapping[str, Sequence[str]], is_possible: Callable[[Case], bool]) -> list[Case]:
    """Cases that cover each possible pair. `is_possible` judges a partial case by what it states so far."""
    names = list(factors)
    open_pairs = {
        (a, x, b, y)
        for a, b in combinations(names, 2)
        for x in factors[a]
        for y in factors[b]
        if _completed({a: x, b: y}, names, factors, is_possible, set())
    }
    found: list[Case] = []
    while open_pairs:
        a, x, b, y = min(open_pairs)
        case = _completed({a: x, b: y}, names, factors, is_possible, open_pairs)
        assert case is not None
        found.append(case)
        open_pairs -= {(p, case[p], q, case[q]) for p, q in combinations(names, 2)}
    return found


def _completed(
    case: Case,
    names: Sequence[str],
    factors: Mapping[str, Sequence[str]],
    is_possible: Callable[[Case], bool],
    wanted: set[tuple[str, str, str, str]],
) -> Case | None:
    """The case filled up so that it is possible and covers many of the wanted pairs; None where it cannot be."""
    if not is_possible(case):
        return None
    left = [name for name in names if name not in case]
    if not left:
        return case
    name = left[0]

    def gain(value: str) -> int:
        return sum(
            ((name, value, other, case[other]) in wanted) + ((other, case[other], name, value) in wanted)
            for other in case
        )

    for value in sorted(factors[name], key=gain, reverse=True):
        done = _completed(case | {name: value}, names, factors, is_possible, wanted)
        if done:
            return done
    return None
