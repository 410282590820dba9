"""Settings of people's sign-in at an OpenID provider."""

from dataclasses import dataclass

from llm_proxy.settings.variable import boolean, setting, text, url


@dataclass(frozen=True, kw_only=True)
class SignInSettings:
    """The client at the provider, and what people become."""

    oidc_issuer: str | None = setting(
        "ADMIN_OIDC_ISSUER",
        url("http", "https"),
        None,
        "Issuer of the OpenID provider for sign-in to the admin UI; unset: no sign-in by OpenID.",
    )
    oidc_client_id: str | None = setting("ADMIN_OIDC_CLIENT_ID", text, None, "Client id at the OpenID provider.")
    oidc_client_secret: str | None = setting(
        "ADMIN_OIDC_CLIENT_SECRET", text, None, "Its secret; unset: a public client, with PKCE alone.", secret=True
    )
    oidc_scopes: str = setting(
        "ADMIN_OIDC_SCOPES", text, "openid email profile", "Scopes that are asked for, separated by blanks."
    )
    oidc_role_claim: str = setting(
        "ADMIN_OIDC_ROLE_CLAIM", text, "groups", "Claim of the id token that roles are read from; a.b looks inside a."
    )
    oidc_role_map: str | None = setting(
        "ADMIN_OIDC_ROLE_MAP", text, None, "Claim values to roles, such as llm-admins:admin,ml:operator@PROJECT-ID."
    )
    oidc_only: bool = setting(
        "ADMIN_OIDC_ONLY", boolean, "false", "Sign in to the admin UI by OpenID alone, not by token or key."
    )
