"""Settings as the root's dashboard writes them, from `.env` and from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from manager.root.settings import RootSettings

KEY = "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2ln"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in RootSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "line",
    [
        "CLUSTER_PAIRING_KEY={}",
        "CLUSTER_PAIRING_KEY='{}'",
        'CLUSTER_PAIRING_KEY="{}"',
        "CLUSTER_PAIRING_KEY=' {} '",
        "   CLUSTER_PAIRING_KEY={}",
        "export CLUSTER_PAIRING_KEY='{}'",
        "  export CLUSTER_PAIRING_KEY = {}  ",
        "CLUSTER_PAIRING_KEY= {}",
        "\ufeffCLUSTER_PAIRING_KEY={}",
        "# a comment\n\nCLUSTER_PAIRING_KEY={}\nexport OTHER=1",
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_env_file_is_read_as_it_is_written(tmp_path: Path, line: str, ending: str) -> None:
    """Unquoted, quoted, blanks in front, `export`, a byte order mark and CRLF all give the same key."""
    text = line.format(KEY).replace("\n", ending) + ending + f"SYSTEM_MANAGER_URL=10.0.0.1{ending}"
    (tmp_path / ".env").write_bytes(text.encode())
    settings = RootSettings()
    assert (settings.cluster_pairing_key, settings.system_manager_url) == (KEY, "10.0.0.1")


@pytest.mark.parametrize("value", [KEY, f"'{KEY}'", f'"{KEY}"', f" {KEY} ", f"' {KEY} '"])
def test_quotes_that_a_reader_left_on_are_taken_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """`docker run --env-file` keeps quotes; a root answers a key in quotes with "Invalid crypto padding"."""
    monkeypatch.setenv("CLUSTER_SECRET_KEY", value)
    assert RootSettings().cluster_secret_key == KEY


def test_empty_variables_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compose file hands on what is not set as empty text."""
    monkeypatch.setenv("SYSTEM_MANAGER_PORT", "")
    monkeypatch.setenv("ROOT_DIALECT", "")
    assert (RootSettings().system_manager_port, RootSettings().root_dialect) == (10000, "auto")


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is exported counts."""
    (tmp_path / ".env").write_text("USER_NAME=file\nCLUSTER_NAME=file\n")
    monkeypatch.setenv("USER_NAME", "exported")
    assert (RootSettings().user_name, RootSettings().cluster_name) == ("exported", "file")


@pytest.mark.parametrize(
    ("url", "http", "grpc"),
    [
        ("root", "http://root:10000", "root:50052"),
        ("10.0.0.1:8080", "http://10.0.0.1:8080", "10.0.0.1:50052"),
        ("http://root", "http://root:10000", "root:50052"),
        ("http://root:1234/", "http://root:1234", "root:50052"),
        ("https://root.example/path", "https://root.example:10000", "root.example:50052"),
        ("[::1]:9", "http://[::1]:9", "[::1]:50052"),
        ("fd00::1", "http://[fd00::1]:10000", "[fd00::1]:50052"),
    ],
)
def test_root_is_a_host_a_host_with_port_or_a_url(url: str, http: str, grpc: str) -> None:
    """All three are understood."""
    settings = RootSettings(system_manager_url=url)
    assert (settings.base_url, settings.grpc_address) == (http, grpc)


@pytest.mark.parametrize("url", ["ftp://root", "http://", "a b", "root:abc", "root:99999", "http://[::1"])
def test_what_is_no_address_is_said(url: str) -> None:
    """An address that cannot be one raises with the remedy."""
    with pytest.raises(ValueError, match="SYSTEM_MANAGER_URL"):
        _ = RootSettings(system_manager_url=url).base_url


def test_nothing_set_is_stand_alone() -> None:
    """Neither root nor keys."""
    assert RootSettings().is_stand_alone
    assert not RootSettings().has_keys


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("gateway:10100", ("gateway", 10100)),
        ("'gateway:10100'", ("gateway", 10100)),
        ("192.0.2.7:80", ("192.0.2.7", 80)),
        ("[2001:db8::7]:10100", ("2001:db8::7", 10100)),
    ],
)
def test_relay_goes_to_a_host_and_a_port(monkeypatch: pytest.MonkeyPatch, text: str, address: tuple[str, int]) -> None:
    """Names and addresses, in quotes or not; without one there is no relay."""
    assert RootSettings().root_callback_relay is None
    monkeypatch.setenv("ROOT_CALLBACK_RELAY", "")
    assert RootSettings().root_callback_relay is None
    monkeypatch.setenv("ROOT_CALLBACK_RELAY", text)
    assert RootSettings().root_callback_relay == address


@pytest.mark.parametrize(
    "text", ["gateway", "gateway:", ":10100", "http://gateway:10100", "gateway:0", "gateway:65536"]
)
def test_relay_to_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The manager says so and does not start, rather than keeping the root's calls to itself."""
    monkeypatch.setenv("ROOT_CALLBACK_RELAY", text)
    with pytest.raises(ValidationError, match="root_callback_relay"):
        RootSettings()


def test_dialect_is_one_of_four() -> None:
    """Any case; another word is refused, and the message does not repeat secrets."""
    assert RootSettings(root_dialect=" R3 ").root_dialect == "r3"
    with pytest.raises(ValidationError) as caught:
        RootSettings(root_dialect="r4", cluster_secret_key=KEY)
    assert KEY not in str(caught.value)
