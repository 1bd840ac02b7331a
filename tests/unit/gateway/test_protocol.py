"""What is changed below the HTTP parser."""

from __future__ import annotations

import pytest

from gateway.protocol import without_upgrade

BODY = b"\r\n\r\n{}\r\nUpgrade: in the body"


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_the_header_is_renamed_in_the_head_alone(name: bytes) -> None:
    """Whatever its case; the body stays as it is."""
    changed = without_upgrade(b"POST / HTTP/1.1\r\nHost: x\r\n" + name + b": h2c" + BODY)
    assert changed == b"POST / HTTP/1.1\r\nHost: x\r\nx-upgrade-ignored: h2c" + BODY


def test_other_headers_stay() -> None:
    """A head without the header passes unchanged."""
    data = b"GET / HTTP/1.1\r\nUpgrade-Insecure-Requests: 1" + BODY
    assert without_upgrade(data) == data
