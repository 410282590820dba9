"""How a list is cut: whole, by page number, or by cursor; in which order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import gevent
import orjson
from flask import Response, request

from llm_proxy.db.pagination import MOST, InvalidCursor, Order, Total
from llm_proxy.errors import BadRequest
from llm_proxy.web.management import parsing, rendering

PAGE_SIZE, LARGEST, LAST_PAGE = 20, 100, 10**9


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What was asked for; `page` and `limit` both None = everything. `most`: rows that a total counts, None: all."""

    order: Order
    page: int | None
    size: int
    limit: int | None
    cursor: str | None
    most: int | None = None


def page_request(sorts: Sequence[str], order_of: Callable[..., Order], default: Order) -> PageRequest:
    """From the query. Raises BadRequest naming the parameter."""
    page = parsing.integer("page", 1, LAST_PAGE)
    size = parsing.integer("page_size", 1, LARGEST)
    limit = parsing.integer("limit", 1, LARGEST)
    cursor = parsing.parameter("cursor")
    if (page or size) and (limit or cursor):
        raise BadRequest("page and limit cannot be combined", param="limit")
    if size and not page:
        page = 1
    if cursor and not limit:
        limit = PAGE_SIZE
    return PageRequest(_order(sorts, order_of, default), page, size or PAGE_SIZE, limit, cursor, most())


def most() -> int | None:
    """Return how many rows a total counts: all unless `total=bounded` is asked for. Raises BadRequest."""
    wanted = parsing.parameter("total") or "exact"
    if wanted not in ("exact", "bounded"):
        raise BadRequest("total must be one of exact, bounded", param="total")
    return MOST if wanted == "bounded" else None


def _order(sorts: Sequence[str], order_of: Callable[..., Order], default: Order) -> Order:
    wanted = parsing.parameter("sort")
    if wanted is None:
        return default
    name = wanted.removeprefix("-")
    if name not in sorts:
        raise BadRequest(f"sort must be one of {', '.join(sorts)}, with - before it for descending", param="sort")
    return order_of(name, descending=wanted.startswith("-"))


class Source(Protocol):
    """A service that lists."""

    def page(
        self, wanted: Any, order: Order, page: int, size: int, most: int | None = None
    ) -> tuple[Sequence[Any], Total]:
        """One page by number, and how many there are; `most` of them are counted."""

    def after(self, wanted: Any, order: Order, limit: int, cursor: str | None) -> tuple[Sequence[Any], str | None]:
        """One page by key, and the cursor of the next."""

    def all(self, wanted: Any, order: Order) -> Iterator[Sequence[Any]]:
        """All, in chunks."""


def listed(
    source: Source, wanted: Any, asked: PageRequest, shape: Callable[[Any], dict[str, Any]]
) -> tuple[Response, int]:
    """Return the response, a JSON array with its place in the header fields, and how many items are in it."""
    if asked.page is not None:
        items, total = source.page(wanted, asked.order, asked.page, asked.size, asked.most)
        return rendering.json_response(
            [shape(item) for item in items], headers=_numbered(asked, total, len(items))
        ), len(items)
    if asked.limit is not None:
        try:
            items, following = source.after(wanted, asked.order, asked.limit, asked.cursor)
        except InvalidCursor as error:
            raise parsing.invalid("cursor") from error
        headers = {} if following is None else {"Link": link("next", cursor=following, limit=asked.limit)}
        return rendering.json_response([shape(item) for item in items], headers=headers), len(items)
    parts, count = _whole(source.all(wanted, asked.order), shape)
    return rendering.raw(b"[" + b",".join(parts) + b"]\n", headers={"X-Total-Count": str(count)}), count


def _whole(chunks: Iterable[Sequence[Any]], shape: Callable[[Any], dict[str, Any]]) -> tuple[list[bytes], int]:
    parts, count = list[bytes](), 0
    for items in chunks:
        if items:
            parts.append(orjson.dumps([shape(item) for item in items])[1:-1])
        count += len(items)
        gevent.sleep(0)  # a long list is long work: let other requests in between
    return parts, count


def pages(total: Total, page: int, size: int, shown: int) -> tuple[int, bool]:
    """Return how many pages there are, at least, and whether one follows this page, which shows so many rows."""
    known = -(-total.count // size)
    return known, page < known or (total.is_more and shown == size)


def _numbered(asked: PageRequest, total: Total, shown: int) -> dict[str, str]:
    page = asked.page or 1
    last, has_next = pages(total, page, asked.size, shown)
    links = []
    if has_next:
        links.append(link("next", page=page + 1, page_size=asked.size))
    if page > 1:
        before = page - 1 if total.is_more else min(page - 1, max(last, 1))
        links.append(link("prev", page=before, page_size=asked.size))
    fields = {
        "X-Total-Count": str(total.count),
        "X-Page": str(page),
        "X-Page-Size": str(asked.size),
        "X-Total-Pages": str(last),
    }
    if total.is_more:
        fields["X-Total-Is-More"] = "true"
    return {**fields, "Link": ", ".join(links)} if links else fields


def link(relation: str, **place: int | str) -> str:
    """Return an entry of `Link`: this list, every filter kept.

    Relative, so that it holds under a sub-path (RFC 8288 §3.2).
    """
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in place]
    return f'<?{urlencode([*kept, *place.items()])}>; rel="{relation}"'
