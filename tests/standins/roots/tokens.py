"""JWTs as a root R1 signs them: HS256, with the claims that the contract lists."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import Any


class InvalidTokenError(Exception):
    """A root's words about a token."""


def sign(key: str, subject: str, audience: str, life_s: float, cluster_name: str) -> str:
    """A token of this life."""
    now = time.time()
    claims = {
        "fresh": audience == "addClusterAPI",
        "iat": now,
        "jti": secrets.token_hex(8),
        "type": "access",
        "sub": subject,
        "nbf": now,
        "exp": now + life_s,
        "aud": audience,
        "clusterName": cluster_name,
        "num": str(secrets.randbelow(10**8)),
    }
    head = f"{_part({'typ': 'JWT', 'alg': 'HS256'})}.{_part(claims)}"
    return f"{head}.{_encode(_signature(key, head))}"


def verify(key: str, token: object) -> dict[str, Any]:
    """The claims. Raises InvalidTokenError with the texts of the real root."""
    if not isinstance(token, str):
        raise InvalidTokenError("Invalid token type. Token must be a <class 'bytes'>")
    parts = token.split(".")
    if len(parts) != 3:
        raise InvalidTokenError("The key introduced is invalid")
    try:
        claims: dict[str, Any] = json.loads(_decode(parts[1]))
        signature = _decode(parts[2])
    except ValueError:
        raise InvalidTokenError("Invalid crypto padding") from None
    if not hmac.compare_digest(signature, _signature(key, f"{parts[0]}.{parts[1]}")):
        raise InvalidTokenError("The key introduced is invalid")
    if claims["exp"] < time.time():
        raise InvalidTokenError("Signature has expired")
    return claims


def _signature(key: str, text: str) -> bytes:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()


def _part(value: object) -> str:
    return _encode(json.dumps(value).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
