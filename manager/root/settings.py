"""What ties this cluster to a root: the settings that the root's dashboard hands out, and those of the link."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from cluster.process import ProcessSettings

_QUOTES: Final = ("'", '"')
_HOST_AND_PORT: Final = re.compile(r"\[?([^][/@\s]+)\]?:(\d{1,5})")
_REMEDY: Final = "write SYSTEM_MANAGER_URL as host, host:port or http://host:port"


def _unquoted(value: Any) -> Any:
    """A value less the blanks and the pair of quotes around it, which some readers of `.env` leave on."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        text = text[1:-1].strip()
    return text


def _word(value: Any) -> Any:
    text = _unquoted(value)
    return text.lower() if isinstance(text, str) else text


def _host_and_port(value: Any) -> Any:
    """Both parts of `HOST:PORT`; a host with colons may stand in brackets."""
    if not isinstance(value, str):
        return value
    found = _HOST_AND_PORT.fullmatch(_unquoted(value))
    if not found:
        raise ValueError("write it as HOST:PORT")
    return found.groups()


Text = Annotated[str, BeforeValidator(_unquoted)]
Port = Annotated[int, BeforeValidator(_unquoted), Field(ge=1, le=65535)]
Address = Annotated[tuple[str, Port], NoDecode, BeforeValidator(_host_and_port)]
Dialect = Annotated[Literal["auto", "r1", "r2", "r3"], BeforeValidator(_word)]


class RootSettings(ProcessSettings):
    """Environment variables of the same names in capitals, else `.env` in the working directory."""

    model_config = SettingsConfigDict(env_file_encoding="utf-8-sig", env_ignore_empty=True, hide_input_in_errors=True)

    system_manager_url: Text = Field(default="", description="the root: host, host:port or URL; empty: stand-alone")
    system_manager_port: Port = Field(default=10000, description="port of its HTTP API, where the URL names none")
    system_manager_grpc_port: Port = Field(default=50052, description="port of its gRPC (roots since 2024)")
    cluster_name: Text = Field(default="cluster", description="the name that the root knows this cluster by")
    user_name: Text = Field(default="", description="the user of the root's dashboard who added this cluster")
    cluster_location: Text = Field(default="", description="latitude,longitude,radius in metres; empty: the root's")
    cluster_pairing_key: Text = Field(default="", description="from the root's dashboard, for the first time")
    cluster_secret_key: Text = Field(default="", description="in place of the one that was received and saved")
    root_dialect: Dialect = Field(default="auto", description="auto, r1, r2 or r3")
    gateway_port: Port = Field(default=10100, description="where the root calls this cluster")
    root_callback_relay: Address | None = Field(
        default=None, description="HOST:PORT of the gateway, where it has another address than the manager"
    )
    cluster_service_manager_addr: Text = Field(
        default="", description="host of the network plug-in, where there is one"
    )
    cluster_service_manager_port: Port = Field(default=10110, description="port of the network plug-in")
    root_report_period_s: float = Field(default=0.0, ge=0, description="0: 5 s to R1 and R2, 15 s to R3")
    root_refresh_s: float = Field(default=0.0, ge=0, description="pause before an unchanged instance is told again")
    root_retry_base_s: float = Field(default=1.0, gt=0, description="first pause before the root is tried again")
    root_retry_cap_s: float = Field(default=60.0, gt=0, description="longest pause before the root is tried again")
    root_answer_s: float = Field(default=10.0, gt=0, description="how long one answer of the root is waited for")
    root_guard: bool = Field(default=True, description="hold deletes of a root that lost its database")

    @property
    def is_stand_alone(self) -> bool:
        """Whether there is no root to attach to."""
        return not self.system_manager_url

    @property
    def has_keys(self) -> bool:
        """Whether a key of a root was given."""
        return bool(self.cluster_pairing_key or self.cluster_secret_key)

    @property
    def base_url(self) -> str:
        """`http://HOST:PORT` of the root's HTTP API. Raises ValueError for what is no address."""
        return f"{self._parts[0]}://{_bracketed(self._parts[1])}:{self._parts[2]}"

    @property
    def grpc_address(self) -> str:
        """`HOST:PORT` of the root's gRPC. Raises ValueError for what is no address."""
        return f"{_bracketed(self._parts[1])}:{self.system_manager_grpc_port}"

    @property
    def network_plugin_address(self) -> str:
        """`HOST:PORT` of the network plug-in; "" where there is none."""
        host = self.cluster_service_manager_addr
        return f"{_bracketed(host)}:{self.cluster_service_manager_port}" if host else ""

    @property
    def location(self) -> str:
        """The location, which roots require."""
        return self.cluster_location or "0.0,0.0,1000"

    @property
    def _parts(self) -> tuple[str, str, int]:
        text = self.system_manager_url
        if "://" not in text:
            text = f"http://[{text}]" if text.count(":") > 1 and not text.startswith("[") else f"http://{text}"
        try:
            parts = urlsplit(text)
            port = parts.port or self.system_manager_port
        except ValueError as error:
            raise ValueError(f"{_REMEDY}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or " " in parts.hostname:
            raise ValueError(_REMEDY)
        return parts.scheme, parts.hostname, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
