"""gevent in place of the library's blocking calls, before anything keeps a reference to them."""

from importlib import metadata

from gevent import monkey


def patch_all() -> None:
    """Patch, with one look through the installed packages instead of 25.

    gevent asks for the entry points of each of its events, and each time the files of all packages are read: that would
    be a tenth of a start's time.
    """
    scan, found = metadata.entry_points, metadata.entry_points()
    vars(metadata)["entry_points"] = found.select
    try:
        monkey.patch_all()
    finally:
        vars(metadata)["entry_points"] = scan
