"""One provider's lane: what its exchanges share."""

from llm_proxy.forwarding.breaker import CircuitBreaker, ConcurrencyLimit
from llm_proxy.forwarding.credentials import Credentials
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.providers import AllowList, Provider
from llm_proxy.providers.path_model import PathModel


class Lane:
    """A provider with the parts that are its own.

    Attributes:
        provider: The provider.
        allowed: What may be asked of it.
        models: Finds the model in a path; None where no path names one.
        credentials: Finds the caller's token in a request.
        slots: Exchanges at once.
        breaker: Whether it is asked at all.
        is_default: Whether the key in the project's own row is its.
        has_neighbours: Whether other providers are served beside it.
    """

    __slots__ = ("allowed", "breaker", "credentials", "has_neighbours", "is_default", "models", "provider", "slots")

    def __init__(
        self,
        provider: Provider,
        *,
        slots: ConcurrencyLimit,
        breaker: CircuitBreaker,
        is_default: bool = True,
        has_neighbours: bool = False,
    ) -> None:
        self.provider, self.slots, self.breaker = provider, slots, breaker
        self.is_default, self.has_neighbours = is_default, has_neighbours
        self.allowed = AllowList(provider)
        self.models = PathModel(provider.model_from) if provider.model_from else None
        self.credentials = Credentials(provider)

    def key_of(self, project: ProjectSnapshot) -> str | None:
        """Return the project's key for the provider: empty where there is none, None where it does not open."""
        if self.is_default:
            return project.api_key
        return project.provider_keys.get(self.provider.name, "")
