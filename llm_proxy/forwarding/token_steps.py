"""Steps 9 to 12: what a token, its project, their quota, budgets and windows allow. Requests and turns share them."""

from llm_proxy.accounting.quota import Quota
from llm_proxy.errors import LlmProxyError, ProjectInactive, ProviderNotAllowed, ProviderNotConfigured
from llm_proxy.forwarding.exchange import Exchange
from llm_proxy.forwarding.lane import Lane
from llm_proxy.limits.rate_limiter import RateLimiter
from llm_proxy.model.token import TokenSnapshot
from llm_proxy.tokens.authenticator import TokenAuthenticator
from llm_proxy.tokens.bearer import hint_of_unknown
from llm_proxy.usage.budgets import Budgets


class TokenSteps:
    """The steps, for all exchanges of one provider.

    Args:
        lane: The provider's.
        enforces_project: LLM_PROXY_ENFORCE_PROJECT_ACTIVE.
    """

    def __init__(
        self,
        lane: Lane,
        *,
        directory: TokenAuthenticator,
        quota: Quota,
        limits: RateLimiter,
        budgets: Budgets,
        enforces_project: bool = True,
    ) -> None:
        self._lane = lane
        self._directory, self._quota, self._limits, self._budgets = directory, quota, limits, budgets
        self.enforces_project = enforces_project

    def admit(self, exchange: Exchange, bearer: str) -> TokenSnapshot:
        """Note the token in the exchange and return it. Raises what refuses it."""
        try:
            token = exchange.token = self._directory.authenticate(bearer)  # 9
        except LlmProxyError:
            exchange.bearer_hint = hint_of_unknown(bearer)
            raise
        if self.enforces_project and not token.project.is_active:  # 10
            raise ProjectInactive
        if self._lane.has_neighbours:
            self._check_provider(token)
        self._quota.check(token)  # 11
        self._budgets.check_token(token)
        self._limits.admit_token(token, bearer)  # 12
        self._budgets.check_project(token)
        exchange.is_usable = True
        return token

    def look(self, bearer: str) -> TokenSnapshot:
        """Return the token if it could be used now; no window counts that. Raises what refuses it."""
        token = self._directory.authenticate(bearer)
        if self.enforces_project and not token.project.is_active:
            raise ProjectInactive
        if self._lane.has_neighbours:
            self._check_provider(token)
        self._quota.check(token)
        self._budgets.check_token(token)
        self._budgets.check_project(token)
        return token

    def check_price(self, model: str) -> None:
        """Raise ModelNotPriced where the provider's model has no price."""
        self._budgets.check_model(model, self._lane.provider.name)

    def _check_provider(self, token: TokenSnapshot) -> None:
        """Raise ProviderNotAllowed, or ProviderNotConfigured where the project has no key for it."""
        if token.providers is not None and self._lane.provider.name not in token.providers:
            raise ProviderNotAllowed
        if self._lane.key_of(token.project) == "":
            raise ProviderNotConfigured
