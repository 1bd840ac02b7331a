"""The worker's settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from worker.settings import WorkerSettings, address_towards


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith(("WORKER_", "GATEWAY_", "MQTT_", "DOCKER_")):
            monkeypatch.delenv(name)


def test_defaults_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment wins over `.env`, `.env` over the defaults."""
    (tmp_path / ".env").write_text("WORKER_NAME=from-file\nGATEWAY_URL=http://10.0.0.1:1\n")
    monkeypatch.setenv("WORKER_NAME", "from-environment")
    settings = WorkerSettings()
    assert settings.worker_name == "from-environment"
    assert settings.gateway_host == "10.0.0.1"
    assert settings.technologies == ("docker", "unikernel", "wasm")
    assert settings.bind == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORKER_NAME", "a b"), ("WORKER_IP", "host"), ("WORKER_TECHNOLOGIES", "docker,vm"), ("WORKER_PORT", "70000")],
)
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """At the start, and by name."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        WorkerSettings()


def test_the_process_names_the_wrong_variable() -> None:
    """Exit status 2 and one line, no traceback."""
    environment = os.environ | {"WORKER_PORT": "x", "PYTHONPATH": str(Path(__file__).parents[3])}
    found = subprocess.run(
        [sys.executable, "-m", "worker"], capture_output=True, text=True, check=False, env=environment
    )
    assert found.returncode == 2
    assert found.stderr.startswith("WORKER_PORT: ")
    assert "Traceback" not in found.stderr


def test_technologies_may_be_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas or blanks."""
    monkeypatch.setenv("WORKER_TECHNOLOGIES", "wasm, docker")
    assert WorkerSettings().technologies == ("wasm", "docker")


def test_address_towards_a_peer() -> None:
    """Loopback towards loopback, and where the name does not exist."""
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert address_towards("no-such-host.invalid") == "127.0.0.1"
