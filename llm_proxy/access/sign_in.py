"""The ways to begin a session: by root token, by management key, or at an OpenID provider."""

from llm_proxy.access.flows import Flows, SignInRefused
from llm_proxy.access.gate import Gate
from llm_proxy.access.oidc import Config, OidcSignIn, SignedIn, is_safe_issuer
from llm_proxy.access.secret import stored
from llm_proxy.access.sessions import Method, Origin
from llm_proxy.settings import SignInSettings

SECRETS_REFUSED = "sign in with the identity provider: tokens and keys are not accepted here"


class SignIn:
    """Turns credentials into the origin of a session.

    Attributes:
        oidc: Sign-in at an OpenID provider; None when it is not configured.
        takes_secrets: Whether root token and keys begin sessions, too.
    """

    def __init__(self, gate: Gate, oidc: OidcSignIn | None, *, takes_secrets: bool = True) -> None:
        self._gate, self.oidc, self.takes_secrets = gate, oidc, takes_secrets

    def by_secret(self, secret: str, *, peer: str | None, client_ip: str | None) -> Origin:
        """Return the origin for a root token or management key.

        Raises:
            SignInRefused: ADMIN_OIDC_ONLY is set.
            Unauthorized, TooManyFailures, DatabaseUnavailable: As `Gate.of_secret`.
        """
        if not self.takes_secrets:
            raise SignInRefused(SECRETS_REFUSED)
        secret = secret.strip()
        caller = self._gate.of_secret(secret, peer=peer, client_ip=client_ip)
        method = Method.TOKEN if caller.key_id is None else Method.KEY
        return Origin(caller, method, stored(secret))

    def by_person(self, person: SignedIn) -> Origin:
        """Return the origin for a person whom the provider vouches for. Raises SignInRefused when that is off."""
        return of_person(person, self.oidc)


def of_person(person: SignedIn, oidc: OidcSignIn | None) -> Origin:
    """Return the origin for a person whom the provider vouches for. Raises SignInRefused when that is off."""
    if oidc is None:
        raise SignInRefused("sign-in by OpenID is not configured")
    return Origin(person.caller, Method.OIDC, oidc.config.fingerprint(), person.id_token)


def build_oidc(settings: SignInSettings, flows: Flows) -> OidcSignIn | None:
    """Return sign-in at the OpenID provider of the settings; None: it is off. Raises ValueError for a wrong map."""
    config = Config.from_settings(settings)
    return None if config is None else OidcSignIn(config, flows)


def fault_lines(settings: SignInSettings) -> list[str]:
    """Return what is wrong with the OpenID settings, a line each."""
    issuer, faults = settings.oidc_issuer, list[str]()
    if issuer is None:
        if settings.oidc_only:
            faults.append("ADMIN_OIDC_ONLY=true: expected ADMIN_OIDC_ISSUER to be set, else no person can sign in")
        return faults
    if not is_safe_issuer(issuer):
        faults.append(f"ADMIN_OIDC_ISSUER={issuer}: expected an https URL without a query, or http on this machine")
    needed = {
        "ADMIN_OIDC_CLIENT_ID": settings.oidc_client_id,
        "ADMIN_OIDC_ROLE_MAP": settings.oidc_role_map,
    }
    for name, value in needed.items():
        if not value:
            faults.append(f"{name}=: expected a value, because ADMIN_OIDC_ISSUER is set")
    if "openid" not in settings.oidc_scopes.split():
        faults.append(f"ADMIN_OIDC_SCOPES={settings.oidc_scopes}: expected openid among them")
    try:
        Config.from_settings(settings)
    except ValueError as error:
        faults.append(f"ADMIN_OIDC_ROLE_MAP={settings.oidc_role_map}: expected {error}")
    return faults
