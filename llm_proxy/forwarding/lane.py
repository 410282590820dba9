"""One provider's lane: what its exchanges share."""

from dataclasses import dataclass, field

from llm_proxy.forwarding.breaker import CircuitBreaker, ConcurrencyLimit
from llm_proxy.forwarding.credentials import Credentials
from llm_proxy.model.project import ProjectSnapshot
from llm_proxy.providers import AllowList, Provider
from llm_proxy.providers.path_model import PathModel


@dataclass(slots=True, eq=False)
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

    provider: Provider
    slots: ConcurrencyLimit
    breaker: CircuitBreaker
    is_default: bool = True
    has_neighbours: bool = False
    allowed: AllowList = field(init=False)
    models: PathModel | None = field(init=False)
    credentials: Credentials = field(init=False)

    def __post_init__(self) -> None:
        self.allowed = AllowList(self.provider)
        self.models = PathModel(self.provider.model_from) if self.provider.model_from else None
        self.credentials = Credentials(self.provider)

    def key_of(self, project: ProjectSnapshot) -> str | None:
        """Return the project's key for the provider: empty where there is none, None where it does not open."""
        if self.is_default:
            return project.api_key
        return project.provider_keys.get(self.provider.name, "")
