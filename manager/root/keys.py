"""The keys of roots R1: when they expire, read from the token itself, and in which members to try them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import orjson

RENEWAL_SHARE: Final = 3


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The two members of a registration with R1."""

    pairing_key: str
    secret_key: str


def attempts_of(pairing_key: str, *secret_keys: str) -> list[Attempt]:
    """What to try, in order: each secret key, then the pairing key in both members, once each.

    A root that was restarted takes the pairing key of a cluster that it knows in the member `secret_key` only.
    """
    found = [Attempt(pairing_key=pairing_key, secret_key=key) for key in dict.fromkeys(secret_keys) if key]
    if pairing_key:
        found += [Attempt(pairing_key=pairing_key, secret_key=""), Attempt(pairing_key="", secret_key=pairing_key)]
    return list(dict.fromkeys(found))


def claims_of(token: str) -> dict[str, Any]:
    """What a JWT says of itself, unverified: only the root can verify it. {} for what is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def expires_at_s(token: str) -> float | None:
    """Seconds since 1970 at which a JWT ends to be valid; None where it does not say."""
    value = claims_of(token).get("exp")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def renew_after_s(token: str, now_s: float) -> float | None:
    """How long after it was made to renew a JWT: with a third of its life left. None where it never expires.

    The times are those of the root's clock where the token tells both: ours may be wrong by years.
    """
    expires_s, began_s = expires_at_s(token), claims_of(token).get("iat", now_s)
    if expires_s is None or not isinstance(began_s, int | float) or expires_s <= began_s:
        return None
    return (expires_s - began_s) * (1 - 1 / RENEWAL_SHARE)


def advice(key: str, now_s: float) -> str:
    """What a key's own words say about why a root may refuse it; "" where they say nothing."""
    expires_s = expires_at_s(key)
    if key and expires_s is None:
        return "it is no key of a root (copy it whole, from eyJ to the end)"
    return "it has expired" if expires_s is not None and expires_s <= now_s else ""
