"""Core dumps are off: the memory of these processes holds provider keys and tokens."""

import resource


def disable() -> None:
    """Set the limit of core files to 0 for this process and its children, for good."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
