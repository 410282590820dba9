"""What a provider file that cannot be served raises."""

from llm_proxy.runtime.faults import Faults


class ProviderFileError(Faults):
    """The provider file, or what the settings say about it, cannot be served; a line each, no secret in any."""
