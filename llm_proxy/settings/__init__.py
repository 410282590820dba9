"""Every variable that the program reads, parsed once into one frozen object of parts.

`load` is the one loader: wsgi.py, gunicorn's configuration and both command lines use it. `.env` is merged into
a mapping, never into `os.environ`: on a reload the old value would pass for the environment's and win.
"""

from llm_proxy.settings.events import DispatcherSettings, EventSettings
from llm_proxy.settings.limits import CacheSettings, LimitSettings, RedisSettings
from llm_proxy.settings.load import Loaded, SettingsError, load
from llm_proxy.settings.operation import CommandSettings, OperationSettings
from llm_proxy.settings.preloaded import hand_over, handed_over
from llm_proxy.settings.schema import Settings, variables
from llm_proxy.settings.server import ServerSettings, UpstreamSettings
from llm_proxy.settings.sign_in import SignInSettings
from llm_proxy.settings.storage import StorageSettings, TokenSettings
from llm_proxy.settings.websocket import WebSocketSettings

__all__ = [
    "CacheSettings",
    "CommandSettings",
    "DispatcherSettings",
    "EventSettings",
    "LimitSettings",
    "Loaded",
    "OperationSettings",
    "RedisSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "SignInSettings",
    "StorageSettings",
    "TokenSettings",
    "UpstreamSettings",
    "WebSocketSettings",
    "hand_over",
    "handed_over",
    "load",
    "variables",
]
