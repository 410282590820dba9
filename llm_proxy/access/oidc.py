"""Sign-in at an OpenID provider: authorization code flow with PKCE, `state` and `nonce` (OpenID Connect Core §3.1).

Authlib does the protocol; `flows` keeps the sign-ins that are under way.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from llm_proxy.access import role_map
from llm_proxy.access.caller import Caller
from llm_proxy.access.flows import Flow, Flows, SignInRefused
from llm_proxy.access.role_map import Entry
from llm_proxy.crypto import digest
from llm_proxy.errors import ManagementError
from llm_proxy.settings import SignInSettings

_LOG = logging.getLogger(__name__)
METADATA_S, KEYS_AGAIN_S = 600.0, 30.0
TIMEOUT_S = 5.0
LEEWAY_S = 60  # between the clocks of the provider and this server
# Signatures by a key that only the provider has: neither `none` nor a shared secret.
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
_ACTOR_CHARACTERS = 255


class NoRole(SignInRefused):
    """403: no entry of ADMIN_OIDC_ROLE_MAP matches. `claims` are names, without values."""

    def __init__(self, actor: str, claims: list[str], wanted: str) -> None:
        message = f"no role is mapped to this account; looked at the claim {wanted}, seen were: {', '.join(claims)}"
        super().__init__(message, code="no_role", audit={"reason": message, "subject": actor})


class ProviderUnavailable(ManagementError):
    """502: the provider does not answer, or not as the protocol says."""

    status, type, message = 502, "upstream_error", "the identity provider is unavailable"


@dataclass(frozen=True, slots=True)
class Config:
    """The client at its provider, and what people become."""

    issuer: str
    client_id: str
    client_secret: str | None
    scopes: str
    role_claim: str
    roles: tuple[Entry, ...]

    @classmethod
    def from_settings(cls, settings: SignInSettings) -> "Config | None":
        """Read the settings; None: sign-in by OpenID is off. Raises ValueError for a wrong map."""
        if settings.oidc_issuer is None:
            return None
        return cls(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id or "",
            client_secret=settings.oidc_client_secret,
            scopes=settings.oidc_scopes,
            role_claim=settings.oidc_role_claim,
            roles=role_map.parse(settings.oidc_role_map or ""),
        )

    def fingerprint(self) -> str:
        """Return the hash of what decides about people: other settings end the sessions of the present ones."""
        return digest("\n".join((self.issuer, self.client_id, self.role_claim, repr(self.roles))))


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that begins: the address at the provider, and what the browser keeps until it comes back."""

    url: str
    state: str
    browser_secret: str


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person that the provider vouches for."""

    caller: Caller
    subject: str
    id_token: str
    return_to: str


class OidcSignIn:
    """Begins and finishes sign-ins at one provider.

    Args:
        flows: Keeps the sign-ins that are under way.
        clock: Monotonic seconds.
    """

    def __init__(self, config: Config, flows: Flows, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._flows, self._clock = flows, clock
        self._metadata: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, list[dict[str, Any]]] | None = None

    def begin(self, redirect_uri: str, return_to: str) -> Begun:
        """Remember a new sign-in, and where it continues. Raises ProviderUnavailable, SignInRefused."""
        endpoint = self._endpoint("authorization_endpoint")
        state, browser, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        verifier = secrets.token_urlsafe(48)
        self._flows.remember(state, browser, Flow(nonce, verifier, return_to))
        with self._client(redirect_uri) as client:
            url, _ = client.create_authorization_url(endpoint, state=state, code_verifier=verifier, nonce=nonce)
        return Begun(url, state, browser)

    def finish(self, callback: Mapping[str, str], browser_secret: str | None, redirect_uri: str) -> SignedIn:
        """Return the person that comes back with these parameters.

        Args:
            callback: The query of the callback.
            browser_secret: What the browser kept for this `state`.

        Raises:
            SignInRefused: Not begun here or by another browser, used before, refused by the provider, or its id token
                is not good.
            NoRole: The person has no role here.
            ProviderUnavailable: The provider does not answer.
        """
        flow = self._flows.take(callback.get("state", ""), browser_secret)
        self._check_issuer(callback)
        if callback.get("error"):
            raise _refused(f"the identity provider refused: {_word(callback['error'])}")
        if not callback.get("code"):
            raise _refused("the identity provider sent no code")
        tokens = self._redeem(callback["code"], flow, redirect_uri)
        claims = self._claims(tokens, flow.nonce)
        return SignedIn(self._caller(claims), str(claims["sub"]), str(tokens["id_token"]), flow.return_to)

    def sign_out_url(self, id_token: str | None, return_uri: str) -> str | None:
        """Return the provider's address that ends its own session; None when it has none, or is unavailable."""
        try:
            endpoint = self._load_metadata().get("end_session_endpoint")
        except ProviderUnavailable:
            return None
        if not isinstance(endpoint, str) or not _is_safe(endpoint):
            return None
        from authlib.common.urls import add_params_to_uri

        params = {"client_id": self.config.client_id, "post_logout_redirect_uri": return_uri}
        if id_token is not None:
            params["id_token_hint"] = id_token
        return str(add_params_to_uri(endpoint, list(params.items())))

    # -- the provider -------------------------------------------------------------------------------------------------

    def _check_issuer(self, callback: Mapping[str, str]) -> None:
        """Refuse the response of another provider (RFC 9207)."""
        given = callback.get("iss")
        is_promised = self._load_metadata().get("authorization_response_iss_parameter_supported") is True
        if (given is None and is_promised) or (given is not None and given != self.config.issuer):
            raise _refused("the response is another identity provider's")

    def _client(self, redirect_uri: str | None = None) -> Any:
        from authlib.integrations.requests_client import OAuth2Session

        config, supported = self.config, self._load_metadata().get("token_endpoint_auth_methods_supported")
        method = "client_secret_basic" if config.client_secret else "none"
        if config.client_secret and isinstance(supported, list) and "client_secret_basic" not in supported:
            method = "client_secret_post"
        return OAuth2Session(
            client_id=config.client_id,
            client_secret=config.client_secret,
            scope=config.scopes,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            token_endpoint_auth_method=method,
            default_timeout=TIMEOUT_S,
        )

    def _redeem(self, code: str, flow: Flow, redirect_uri: str) -> Mapping[str, Any]:
        from authlib.common.errors import AuthlibBaseError

        endpoint = self._endpoint("token_endpoint")
        try:
            with self._client(redirect_uri) as client:
                tokens = client.fetch_token(
                    endpoint,
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=flow.code_verifier,
                    allow_redirects=False,
                )
        except AuthlibBaseError as error:
            raise _refused(f"the identity provider did not take the code: {_word(error.error)}") from error
        except (requests.RequestException, ValueError) as error:
            raise self._unavailable("token endpoint", error) from error
        if not isinstance(tokens, Mapping) or not isinstance(tokens.get("id_token"), str):
            raise _refused("the identity provider sent no id token; is openid among ADMIN_OIDC_SCOPES?")
        return tokens

    def _claims(self, tokens: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """Return the claims of an id token whose signature, issuer, audience, times and nonce are right."""
        from authlib.oidc.core import CodeIDToken
        from joserfc.errors import ExpiredTokenError, JoseError

        config = self.config
        options: Any = {
            "iss": {"essential": True, "value": config.issuer},
            "aud": {"essential": True, "value": config.client_id},
        }
        params = {"nonce": nonce, "client_id": config.client_id, "access_token": tokens.get("access_token")}
        try:
            token = self._decoded(tokens["id_token"])
            claims = CodeIDToken(token.claims, token.header, options, params)
            claims.validate(int(time.time()), LEEWAY_S)
        except ExpiredTokenError as error:
            raise _refused("the id token has expired, or the clocks of this server and the provider differ") from error
        except (JoseError, ValueError, TypeError, AttributeError) as error:
            about = f" ({_word(error.error)}: {_word(error.description)})" if isinstance(error, JoseError) else ""
            raise _refused(f"the id token is not good{about}") from error
        return dict(claims)

    def _decoded(self, id_token: str) -> Any:
        from joserfc import jws, jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet
        from joserfc.jws import JWSRegistry

        supported = self._load_metadata().get("id_token_signing_alg_values_supported") or ["RS256"]
        registry = JWSRegistry(algorithms=[name for name in ALGORITHMS if name in supported], strict_check_header=False)
        kid = jws.extract_compact(id_token.encode("ascii"), registry=registry).headers().get("kid")
        failure: JoseError = JoseError("no key of the provider fits")
        for key in self._keys_for(kid):
            try:
                return jwt.decode(id_token, KeySet.import_key_set({"keys": [key]}), registry=registry)
            except JoseError as error:
                failure = error
        raise failure

    def _keys_for(self, kid: object) -> list[dict[str, Any]]:
        """Return the provider's keys that the token may be signed with; an unknown id asks again, now and then."""

        def fitting() -> list[dict[str, Any]]:
            return [key for key in self._load_keys() if kid is None or key.get("kid") == kid]

        found = fitting()
        if not found and self._keys is not None and self._clock() - self._keys[0] >= KEYS_AGAIN_S:
            self._keys = None
            found = fitting()
        return found

    def _load_keys(self) -> list[dict[str, Any]]:
        known = self._keys
        if known is not None and self._clock() - known[0] < METADATA_S:
            return known[1]
        found = self._fetch(self._endpoint("jwks_uri")).get("keys")
        keys = [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []
        usable = [key for key in keys if key.get("use", "sig") == "sig" and key.get("kty") != "oct"]
        self._keys = (self._clock(), usable)
        return usable

    def _load_metadata(self) -> dict[str, Any]:
        known = self._metadata
        if known is not None and self._clock() - known[0] < METADATA_S:
            return known[1]
        found = self._fetch(f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.config.issuer:
            raise ProviderUnavailable("the identity provider calls itself otherwise than ADMIN_OIDC_ISSUER does")
        self._metadata = (self._clock(), found)
        return found

    def _endpoint(self, name: str) -> str:
        address = self._load_metadata().get(name)
        if not isinstance(address, str) or not _is_safe(address):
            raise ProviderUnavailable(f"the identity provider names no usable {name}")
        return address

    def _fetch(self, address: str) -> dict[str, Any]:
        try:
            with requests.Session() as session:
                response = session.get(address, timeout=TIMEOUT_S, headers={"Accept": "application/json"})
                response.raise_for_status()
                found = response.json()
        except (requests.RequestException, ValueError) as error:
            raise self._unavailable(urlsplit(address).path, error) from error
        if not isinstance(found, dict):
            raise ProviderUnavailable
        return found

    @staticmethod
    def _unavailable(what: str, error: Exception) -> ProviderUnavailable:
        _LOG.warning("the identity provider is unavailable: %s: %s", what, type(error).__name__)
        return ProviderUnavailable()

    def _caller(self, claims: dict[str, Any]) -> Caller:
        config, address = self.config, _address(claims)
        actor = f"oidc:{address}"[:_ACTOR_CHARACTERS]
        granted = role_map.grant(config.roles, role_map.values_of(claims, config.role_claim))
        if granted is None:
            raise NoRole(actor, sorted(map(_word, claims)), config.role_claim)
        role, projects = granted
        return Caller(actor, role, projects, identity=f"oidc:{config.issuer}:{claims['sub']}")


def is_safe_issuer(address: str) -> bool:
    """Whether the address may name a provider: HTTPS, or this machine."""
    parts = urlsplit(address)
    return _is_safe(address) and not parts.query and not parts.fragment and parts.username is None


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and is_local))


def _address(claims: dict[str, Any]) -> str:
    """Return the name of a person: the verified e-mail address, else the user name, else the provider's own id."""
    if claims.get("email_verified") is not False and isinstance(claims.get("email"), str) and claims["email"]:
        return _word(claims["email"])
    name = claims.get("preferred_username")
    return _word(name) if isinstance(name, str) and name else _word(claims["sub"])


def _word(text: Any) -> str:
    """Return a foreign text as it may be shown: printable, and short."""
    return "".join(character if character.isprintable() else "\ufffd" for character in str(text))[:200]


def _refused(message: str) -> SignInRefused:
    return SignInRefused(message, audit={"reason": message})
