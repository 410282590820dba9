"""Sums over a long span: read part by part, and those of parts that are over are kept where reading took long.

One statement over a year of rows would stop a worker on SQLite, and every page of a list would read them again.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final

import gevent

LONG_S: Final = 0.05  # a span that takes longer is kept
KEPT_S: Final = 600.0  # sums of the past change when usage is reconciled or pruned
MOST_PARTS: Final = 1_000
MOST_ROWS: Final = 1_000  # of a part; longer ones are read again

Row = tuple[Any, ...]


class KeptSums:
    """Adds rows up by their key, out of parts of a span.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, Sequence[Row]]] = OrderedDict()

    def of(
        self, name: Hashable, parts: Iterable[tuple[Hashable, bool]], width: int, read: Callable[[Any], Sequence[Row]]
    ) -> list[Row]:
        """Return rows of a key and sums, in the order of their keys.

        Args:
            name: What is summed: two calls with one name read the same rows of a part.
            parts: Parts of the span that do not overlap, and whether each is over.
            width: Columns of the key, which are the first of a row. The rest are numbers, or None for no number.
            read: Returns the rows of a part.
        """
        merged, new, began = dict[Row, Row](), list[tuple[Hashable, Sequence[Row]]](), self._clock()
        for part, is_over in parts:
            rows = self._known((name, part)) if is_over else None
            if rows is None:
                rows = read(part)
                gevent.sleep(0)
                if is_over and len(rows) <= MOST_ROWS:
                    new.append(((name, part), rows))
            for row in rows:
                key, sums = row[:width], row[width:]
                merged[key] = _added(merged[key], sums) if key in merged else sums
        if self._clock() - began > LONG_S:
            self._keep(new)
        return [(*key, *merged[key]) for key in sorted(merged)]

    def _known(self, key: Hashable) -> Sequence[Row] | None:
        kept = self._kept.get(key)
        if kept is None or self._clock() - kept[0] > KEPT_S:
            return None
        return kept[1]

    def _keep(self, parts: Iterable[tuple[Hashable, Sequence[Row]]]) -> None:
        for key, rows in parts:
            self._kept[key] = (self._clock(), rows)
            self._kept.move_to_end(key)
        while len(self._kept) > MOST_PARTS:
            self._kept.popitem(last=False)


def _added(left: Row, right: Row) -> Row:
    """Add number by number; None and a number are the number."""
    return tuple(a if b is None else b if a is None else a + b for a, b in zip(left, right, strict=True))
