"""gunicorn's log goes through the proxy's: one form, one redaction, no access line of gunicorn's."""

import logging
from typing import Any

from gunicorn.glogging import Logger

from llm_proxy import logs


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Hands gunicorn's records to the root logger; `llm_proxy.logs` decides on level, form and place."""

    def setup(self, cfg: Any) -> None:
        """No handler of gunicorn's own."""
        self.cfg = cfg
        self.logfile = None
        for name in ("gunicorn.error", "gunicorn.access"):
            logs.adopt(name)
        self.error_log.setLevel(logging.NOTSET)

    def info(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log at debug: the proxy's log says the same of workers and signals."""
        self.debug(msg, *args, **kwargs)

    @property
    def access_log_enabled(self) -> bool:
        """Never: the application writes the access line."""
        return False

    def reopen_files(self) -> None:
        """Release a file that another program rotated."""
        logs.reopen()

    def close_on_exec(self) -> None:
        """Nothing to do: descriptors are not inheritable by default."""
