"""Every variable that the program reads, parsed once into one frozen object.

`load` is the one loader: wsgi.py, gunicorn's configuration and both command-line doors use it. `.env` is merged into
a mapping, never into `os.environ`: on a reload the old value would pass for the environment's and win.
"""

from llm_proxy.settings.handover import hand_over, handed_over
from llm_proxy.settings.load import Loaded, SettingsError, load
from llm_proxy.settings.schema import Settings, variables

__all__ = ["Loaded", "Settings", "SettingsError", "hand_over", "handed_over", "load", "variables"]
