"""The bench works: each part measures something tiny and answers its keys; no figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench import deploys, memory, own_figures, placement, startup, store_writes, telemetry
from bench.figures import Figure, percentile, table

from testbed.processes import REPOSITORY


@pytest.mark.real("mosquitto")
def test_telemetry_part() -> None:
    """A small flood is counted without loss, and the rates are told."""
    result = telemetry.run(nodes=5, flood=2000, seconds=0.2, publishers=2)
    assert result["flooded_lost"] == result["bare_lost"] == result["dropped"] == 0
    assert len(own_figures.figures_of("telemetry", result)) >= 5


def test_deploys_part() -> None:
    """Each deploy of a few arrives as a command, and times and rates are told."""
    result = deploys.run(nodes=2, singles=5, many=20, clients=2, paced=10)
    assert set(result["cpu_ms_per_deploy"]) == {"broker", "manager", "scheduler", "gateway"}
    assert [figure.limit for figure in own_figures.figures_of("deploys", result)][:4] == [10, 40, 100, 300]


def test_startup_part() -> None:
    """One first and one further start are told."""
    assert set(startup.run(times=1)) == {"first_s", "again_s"}


def test_memory_part() -> None:
    """Every process is told, the worker too."""
    result = memory.run(rest_s=0.0)
    assert set(result["pss_mb"]) == {"broker", "manager", "scheduler", "gateway", "worker"}
    assert result["core_mb"] > 0


def test_placement_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of decision has a figure."""
    monkeypatch.setattr(placement, "NODE_COUNTS", (10,))
    names = [figure.name for figure in own_figures.figures_of("placement", placement.run())]
    assert "placement, 10 nodes: same p50" in names


def test_store_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each size of batch has a figure."""
    monkeypatch.setattr(store_writes, "_SECONDS", 0.01)
    monkeypatch.setattr(store_writes, "LOADED", 10)
    names = [figure.name for figure in own_figures.figures_of("store_writes", store_writes.run())]
    assert "sqlite: writes in batches of 100" in names


def test_command_writes_json_and_prints_a_table(tmp_path: Path) -> None:
    """`--only` measures one part, `--json` says where the figures go."""
    path = tmp_path / "figures.json"
    command = [sys.executable, str(REPOSITORY / "tests" / "bench"), "--only", "placement", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written = json.loads(path.read_text())
    assert set(written) == {"machine", "placement", "figures"}
    assert all(figure["name"] in done.stdout for figure in written["figures"])


def test_table_tells_misses() -> None:
    """A figure beyond its limit is printed as it is, with MISS."""
    floor = Figure(name="rate", value=5, unit="/s", limit=10, is_floor=True)
    ceiling = Figure(name="time", value=5, unit="ms", limit=10)
    lines = table([floor, ceiling, Figure(name="other", value=1, unit="")]).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["MISS", "ok", "1"]


def test_percentile_is_a_value_that_was_measured() -> None:
    """The 99th percentile of 1..100 is among them, and a single value is its own."""
    assert percentile(range(1, 101), 0.99) == 100
    assert percentile([7.0], 0.5) == 7.0
