"""How a list is cut: whole, by page number, or by cursor; in which order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import gevent
import orjson
from flask import Response, request

from llm_proxy.db.listing import InvalidCursor, Order
from llm_proxy.errors import BadRequest
from llm_proxy.web.management import answers, inputs

PAGE_SIZE, LARGEST, LAST_PAGE = 20, 100, 10**9


@dataclass(frozen=True, slots=True)
class Cut:
    """What was asked for; `page` and `limit` both None = everything."""

    order: Order
    page: int | None
    size: int
    limit: int | None
    cursor: str | None


def cut(sorts: Sequence[str], order_of: Callable[..., Order], default: Order) -> Cut:
    """From the query. Raises BadRequest naming the parameter."""
    page = inputs.integer("page", 1, LAST_PAGE)
    size = inputs.integer("page_size", 1, LARGEST)
    limit = inputs.integer("limit", 1, LARGEST)
    cursor = inputs.parameter("cursor")
    if (page or size) and (limit or cursor):
        raise BadRequest("page and limit cannot be combined", param="limit")
    if size and not page:
        page = 1
    if cursor and not limit:
        limit = PAGE_SIZE
    return Cut(_order(sorts, order_of, default), page, size or PAGE_SIZE, limit, cursor)


def _order(sorts: Sequence[str], order_of: Callable[..., Order], default: Order) -> Order:
    wanted = inputs.parameter("sort")
    if wanted is None:
        return default
    name = wanted.removeprefix("-")
    if name not in sorts:
        raise BadRequest(f"sort must be one of {', '.join(sorts)}, with - before it for descending", param="sort")
    return order_of(name, descending=wanted.startswith("-"))


class Source(Protocol):
    """A service that lists."""

    def page(self, wanted: Any, order: Order, page: int, size: int) -> tuple[Sequence[Any], int]:
        """One page by number, and the count of all."""

    def after(self, wanted: Any, order: Order, limit: int, cursor: str | None) -> tuple[Sequence[Any], str | None]:
        """One page by key, and the cursor of the next."""

    def all(self, wanted: Any, order: Order) -> Iterator[Sequence[Any]]:
        """All, in chunks."""


def listed(source: Source, wanted: Any, asked: Cut, shape: Callable[[Any], dict[str, Any]]) -> tuple[Response, int]:
    """Return the response, a JSON array with its place in the header fields, and how many items are in it."""
    if asked.page is not None:
        items, total = source.page(wanted, asked.order, asked.page, asked.size)
        return answers.answer([shape(item) for item in items], headers=_numbered(asked, total)), len(items)
    if asked.limit is not None:
        try:
            items, following = source.after(wanted, asked.order, asked.limit, asked.cursor)
        except InvalidCursor as error:
            raise inputs.invalid("cursor") from error
        headers = {} if following is None else {"Link": link("next", cursor=following, limit=asked.limit)}
        return answers.answer([shape(item) for item in items], headers=headers), len(items)
    parts, count = _whole(source.all(wanted, asked.order), shape)
    return answers.raw(b"[" + b",".join(parts) + b"]\n", headers={"X-Total-Count": str(count)}), count


def _whole(chunks: Iterable[Sequence[Any]], shape: Callable[[Any], dict[str, Any]]) -> tuple[list[bytes], int]:
    parts, count = list[bytes](), 0
    for items in chunks:
        if items:
            parts.append(orjson.dumps([shape(item) for item in items])[1:-1])
        count += len(items)
        gevent.sleep(0)  # a long list is long work: let other requests in between
    return parts, count


def _numbered(asked: Cut, total: int) -> dict[str, str]:
    page, pages = asked.page or 1, -(-total // asked.size)
    links = []
    if page < pages:
        links.append(link("next", page=page + 1, page_size=asked.size))
    if page > 1:
        links.append(link("prev", page=min(page - 1, max(pages, 1)), page_size=asked.size))
    fields = {
        "X-Total-Count": str(total),
        "X-Page": str(page),
        "X-Page-Size": str(asked.size),
        "X-Total-Pages": str(pages),
    }
    return {**fields, "Link": ", ".join(links)} if links else fields


def link(relation: str, **place: int | str) -> str:
    """Return an entry of `Link`: this list, every filter kept.

    Relative, so that it holds under a sub-path (RFC 8288 §3.2).
    """
    kept = [(name, value) for name, value in request.args.items(multi=True) if name not in place]
    return f'<?{urlencode([*kept, *place.items()])}>; rel="{relation}"'
