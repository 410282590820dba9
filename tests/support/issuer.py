"""An OpenID provider on loopback: discovery, keys, token endpoint; honest unless a test tells it otherwise."""

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT_ID, CLIENT_SECRET = "llm-proxy-ui", "fake-issuer-client-secret"


class Issuer:
    """The provider's state.

    Attributes:
        claims: What id tokens say beside the protocol's own claims; a value that is None is left out.
        header: Members of their header; `alg` none and HS256 make them so.
        forgets_codes: Whether a code is good once, as it must be.
        metadata: Members of the discovery document that a test changes.
        seen: Bodies that the token endpoint got.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.key = RSAKey.generate_key(2048, {"kid": "first", "use": "sig", "alg": "RS256"})
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.seen: list[dict[str, str]] = []
        self.is_down = False
        self.forgets_codes = True
        self._codes: dict[str, dict[str, str]] = {}

    def person(self, address: str, *groups: str, **claims: Any) -> None:
        """The next that signs in."""
        self.claims = {"sub": f"id-of-{address}", "email": address, "email_verified": True, "groups": list(groups)}
        self.claims |= claims

    def authorize(self, url: str) -> dict[str, str]:
        """Consent to a sign-in, as the person's browser would: the query that goes back to the client."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.url}

    def document(self) -> dict[str, Any]:
        """The discovery document."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "end_session_endpoint": f"{self.url}/logout",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }

    def redeem(self, form: dict[str, str], authorization: str | None) -> tuple[int, dict[str, Any]]:
        """What the token endpoint answers."""
        self.seen.append(form)
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if authorization != f"Basic {expected}":
            return 401, {"error": "invalid_client"}
        take = self._codes.pop if self.forgets_codes else self._codes.get
        asked = take(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if asked is None or challenge.decode().rstrip("=") != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        if asked["redirect_uri"] != form.get("redirect_uri"):
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": self.id_token(asked["nonce"])}

    def id_token(self, nonce: str) -> str:
        """An id token for the present person."""
        now = int(time.time())
        own = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce}
        claims = {name: value for name, value in {**own, **self.claims}.items() if value is not None}
        header = {"alg": "RS256", "kid": "first", **self.header}
        if header["alg"] == "none":
            return f"{_encoded(header)}.{_encoded(claims)}."
        if header["alg"] == "HS256":  # signed with the public key, which is known
            signed = f"{_encoded(header)}.{_encoded(claims)}"
            mac = hmac.new(self.key.as_pem(private=False), signed.encode(), hashlib.sha256).digest()
            return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
        return jwt.encode(header, claims, self.key, algorithms=["RS256"])


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def _handler(issuer: Issuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/.well-known/openid-configuration":
                self._send(200, issuer.document())
            elif path == "/keys":
                self._send(200, {"keys": [issuer.key.as_dict(private=False)]})
            else:
                self._send(404, {})

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            form = {name: values[0] for name, values in parse_qs(text).items()}
            self._send(*issuer.redeem(form, self.headers.get("Authorization")))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            if issuer.is_down:
                status, body = 503, {}
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *about: Any) -> None:
            """Say nothing."""

    return Handler


@contextlib.contextmanager
def running_issuer() -> Iterator[Issuer]:
    """A provider that responses until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    issuer = Issuer(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = _handler(issuer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
