"""Tracebacks of failures that are over."""


def drop_tracebacks(error: BaseException) -> None:
    """Remove the tracebacks of an exception, and of those that led to it, once nothing will read them.

    A traceback holds the frames that the exception has passed. Their variables hold the exchange, its sockets and
    buffers, and often the exception itself: such a circle stays in memory until the garbage collector comes.
    """
    rest, seen = [error], {id(error)}
    while rest:
        found = rest.pop()
        found.__traceback__ = None
        for behind in (found.__cause__, found.__context__):
            if behind is not None and id(behind) not in seen:
                seen.add(id(behind))
                rest.append(behind)
