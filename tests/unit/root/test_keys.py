"""Keys of roots R1."""

from __future__ import annotations

import base64

import orjson
import pytest
from unit.root.recordings import load

from manager.root.keys import Attempt, advice, attempts_of, claims_of, expires_at_s, renew_after_s
from standins.roots.tokens import sign


def test_expiry_is_read_from_a_recorded_key() -> None:
    """The claims of a real root's secret key, thirty days long, unverified."""
    key = load("R1/06-sc2")["body"]["secret_key"]
    claims = claims_of(key)
    assert claims["clusterName"] == "cluster-1"
    assert expires_at_s(key) == claims["exp"] == claims["iat"] + 30 * 86400
    assert renew_after_s(key, 0) == pytest.approx(20 * 86400)


@pytest.mark.parametrize("text", ["", "a", "a.b.c", "a.eyJ.c", "..", "a.bnVsbA.c", "ä.ö.ü"])
def test_what_is_no_key_has_no_claims(text: str) -> None:
    """Nothing raises."""
    assert claims_of(text) == {}
    assert expires_at_s(text) is None
    assert renew_after_s(text, 0) is None


def _token(**claims: object) -> str:
    return f"a.{base64.urlsafe_b64encode(orjson.dumps(claims)).decode().rstrip('=')}.c"


@pytest.mark.parametrize(
    ("claims", "after_s"),
    [
        ({"iat": 1000, "exp": 1300}, 200),
        ({"exp": 300}, 200),
        ({"iat": "soon", "exp": 300}, None),
        ({"iat": 1000}, None),
        ({"iat": 1000, "exp": 1000}, None),
        ({"iat": 1000, "exp": -5}, None),
        ({"iat": 1000, "exp": True}, None),
    ],
)
def test_renewal_follows_the_roots_clock(claims: dict[str, object], after_s: float | None) -> None:
    """A key lives as long as its own two times say; a key that is dead at birth is no reason to ask all the time."""
    assert renew_after_s(_token(**claims), 0) == (None if after_s is None else pytest.approx(after_s))


def test_what_a_refused_key_says_of_itself() -> None:
    """Expired and mangled keys are named as such; of a good one nothing is known."""
    key = sign("k", "Admin", "connectCluster", 100, "c")
    expires_s = expires_at_s(key)
    assert expires_s
    assert advice(key, expires_s - 1) == ""
    assert advice(key, expires_s + 1) == "it has expired"
    assert "copy it whole" in advice("abc", 0)


def test_every_key_is_tried_once_in_each_member() -> None:
    """The override first, the saved one next, the pairing key in both members last."""
    assert attempts_of("p", "override", "saved") == [
        Attempt(pairing_key="p", secret_key="override"),
        Attempt(pairing_key="p", secret_key="saved"),
        Attempt(pairing_key="p", secret_key=""),
        Attempt(pairing_key="", secret_key="p"),
    ]
    assert attempts_of("", "s", "s") == [Attempt(pairing_key="", secret_key="s")]
    assert attempts_of("") == []
