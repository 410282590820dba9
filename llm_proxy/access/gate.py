"""Which credential a caller presents, and which caller it is: the root token, or a management key."""

from collections.abc import Sequence
from typing import Protocol

from llm_proxy.access.caller import ROOT, Caller
from llm_proxy.access.directory import KeyDirectory
from llm_proxy.access.key import Key
from llm_proxy.access.secret import PREFIX, stored
from llm_proxy.crypto import equal
from llm_proxy.errors import TooManyFailures, Unauthorized
from llm_proxy.model.addresses import is_loopback
from llm_proxy.settings import OperationSettings

ANY, LOOPBACK, OFF = "any", "loopback", "off"


class LoginThrottle(Protocol):
    """Counts attempts by client address."""

    def note(self, address: str | None) -> int:
        """Note one that failed: seconds to wait, 0 when it is within the limit."""


class Gate:
    """Admits the root token and live management keys.

    Wrong credentials are refused; from the 21st a minute of one address on, they are put off. Right ones never are.

    Args:
        accepted: The root token, and the one before it while it is rotated; empty ones admit nothing.
        use: MANAGEMENT_TOKEN_USE, where the root token is accepted.
    """

    def __init__(self, accepted: Sequence[str], use: str, keys: KeyDirectory, failures: LoginThrottle) -> None:
        self._accepted = [token for token in accepted if token]
        self._use, self._keys, self._failures = use, keys, failures

    @classmethod
    def from_settings(cls, settings: OperationSettings, keys: KeyDirectory, failures: LoginThrottle) -> "Gate":
        """Make the gate that the settings ask for."""
        accepted = (settings.management_token.strip(), (settings.management_token_previous or "").strip())
        return cls(accepted, settings.management_token_use, keys, failures)

    def admit(self, authorization: str | None, *, peer: str | None, client_ip: str | None) -> Caller:
        """Return the caller of an Authorization field.

        Args:
            peer: Address of the socket's other end, which `loopback` judges.
            client_ip: The client's address, by which failures are counted.

        Raises:
            Unauthorized: No bearer, or a wrong one.
            TooManyFailures: A wrong one too many, with the time to wait.
            DatabaseUnavailable: The keys cannot be read.
        """
        scheme, _, presented = (authorization or "").strip().partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise Unauthorized
        # WSGI hands over latin-1, settings are UTF-8.
        text = presented.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
        return self.of_secret(text, peer=peer, client_ip=client_ip)

    def of_secret(self, secret: str, *, peer: str | None, client_ip: str | None) -> Caller:
        """Return the caller of a root token or key. Raises as `admit`."""
        if self._is_root(secret):
            self.require_root(peer)
            return ROOT
        try:
            return self._key(secret).caller()
        except Unauthorized as wrong:
            wait_s = self._failures.note(client_ip)
            if wait_s:
                raise TooManyFailures(retry_after_s=wait_s) from wrong
            raise

    def require_root(self, peer: str | None) -> None:
        """Raise Unauthorized where MANAGEMENT_TOKEN_USE does not accept the root token."""
        if self._use == OFF or (self._use == LOOPBACK and not is_loopback(peer)):
            raise Unauthorized(f"the root token is not accepted here (MANAGEMENT_TOKEN_USE={self._use})")

    def is_root_fingerprint(self, fingerprint: str) -> bool:
        """Whether this is the hash of a root token that is valid now."""
        return any(equal(fingerprint, stored(token)) for token in self._accepted)

    def _is_root(self, secret: str) -> bool:
        # All are compared, so that time tells nothing.
        return sum(equal(secret, accepted) for accepted in self._accepted) > 0

    def _key(self, secret: str) -> Key:
        if not secret.startswith(PREFIX):
            raise Unauthorized("invalid management token")
        return self._keys.authenticate(secret)
