"""What an operator may set, from the environment or `.env`."""

from __future__ import annotations

from pydantic import Field

from cluster.process import ProcessSettings


class Settings(ProcessSettings):
    """The gateway's settings; times in seconds."""

    gateway_port: int = Field(default=10100, ge=0, le=65535, description="port of the HTTP API")
    bind: str = Field(default="127.0.0.1", description="address to listen on")
    manager_address: str = Field(default="127.0.0.1:10101", description="HOST:PORT of the manager's gRPC")
    scheduler_address: str = Field(default="127.0.0.1:10105", description="HOST:PORT of the scheduler's gRPC")
    cluster_name: str = Field(default="", description="name of this cluster, where the manager tells none")
    call_timeout_s: float = Field(default=8.0, gt=0, description="bound of one call to manager or scheduler")
    read_wait_s: float = Field(default=2.0, ge=0, description="how long a read waits for a peer that restarts")
    command_wait_s: float = Field(default=5.0, ge=0, description="how long a command waits for a manager that restarts")
    body_timeout_s: float = Field(default=30.0, gt=0, description="how long a request's body may take to arrive")
    drain_s: float = Field(default=5.0, ge=0, description="how long requests may go on after SIGTERM")


def settings_help() -> str:
    """One line per setting: its environment variable, its default and its meaning."""
    return "\n".join(
        f"  {name.upper():<18} {field.description or ''} (default {field.default!r})"
        for name, field in Settings.model_fields.items()
    )
