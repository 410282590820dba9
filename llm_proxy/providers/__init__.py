"""Providers: what the file says, what may be asked of them, and which values a request may name."""

from llm_proxy.providers.allow_list import AllowList, mounts
from llm_proxy.providers.errors import ProviderFileError
from llm_proxy.providers.load import LoadedProvider, load_provider
from llm_proxy.providers.parameters import ParameterRules
from llm_proxy.providers.schema import Provider, ProviderTimeouts

__all__ = [
    "AllowList",
    "LoadedProvider",
    "ParameterRules",
    "Provider",
    "ProviderFileError",
    "ProviderTimeouts",
    "load_provider",
    "mounts",
]
