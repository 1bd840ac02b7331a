"""The supervisor with real children: restarts, orderly ends, and nothing left over."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.leftovers import kill_processes_mentioning, processes_mentioning
from testbed.processes import Process
from testbed.waiting import wait_until

SUPERVISE = """
import asyncio, json, sys
from pathlib import Path
from clusterctl.child import Program
from clusterctl.formats import note
from clusterctl.guardian import Guardian
from clusterctl.supervisor import Supervisor

async def never():
    return False

async def main(folder, stages, guardian):
    async with Supervisor(guardian, note) as supervisor:
        for stage in stages:
            supervisor.start([
                Program(name=name, argv=[sys.executable, "-c", code, str(folder)], environment={"FOLDER": str(folder)},
                        log_path=folder / f"{name}.log", stop_grace_s=1.0)
                for name, code in stage.items()
            ])
        await supervisor.until(never, 0.02)

guardian = Guardian()
try:
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2]), guardian))
finally:
    guardian.close()
"""
SLEEPER = "import time\ntime.sleep(600)"
STUBBORN = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nopen('{folder}/deaf', 'w').close()\ntime.sleep(600)"
POLITE = """
import os, signal, time
def end(*_):
    with open(os.environ["FOLDER"] + "/order", "a") as order:
        order.write("{name} ")
    raise SystemExit
signal.signal(15, end)
open(os.environ["FOLDER"] + "/{name}.up", "w").close()
time.sleep(600)
"""


class Supervised:
    """A supervisor process over stages of children, each a name and its Python code; all mention `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = Process([], os.environ, folder / "supervisor.log")

    def start(self, *stages: dict[str, str]) -> Process:
        """Run the children, stage after stage."""
        self.process.argv = [sys.executable, "-c", SUPERVISE, str(self.folder), json.dumps(stages)]
        return self.process.start()

    def children(self) -> set[int]:
        """The processes that mention the folder, supervisor and guardian aside."""
        mine = [pid for pid in processes_mentioning(str(self.folder)) if b"Supervisor" not in _command(pid)]
        return set(mine)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"Supervisor"


@pytest.fixture(name="supervised")
def _supervised(tmp_path: Path) -> Iterator[Supervised]:
    supervised = Supervised(tmp_path)
    yield supervised
    supervised.process.reap()
    kill_processes_mentioning(str(tmp_path))


def test_a_child_that_dies_is_started_again(supervised: Supervised) -> None:
    """After `kill -9` there is a new one, and the operator is told."""
    supervised.start({"sleeper": SLEEPER})
    first = wait_until(supervised.children)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    second = wait_until(lambda: supervised.children() - first)
    assert len(second) == 1
    supervised.process.wait_for_output("sleeper was ended by SIGKILL; starting it again")


def test_the_last_words_of_a_dying_child_are_shown(supervised: Supervised) -> None:
    """And a child that never comes up ends the whole, with an exit status that says so."""
    supervised.start({"broken": "raise SystemExit('no such thing as a free port')", "sleeper": SLEEPER})
    assert supervised.process.wait() != 0
    assert "no such thing as a free port" in supervised.process.output()
    assert "broken does not start; see" in supervised.process.output()
    assert processes_mentioning(str(supervised.folder)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_last_started_first(supervised: Supervised, number: int) -> None:
    """Workers go before the parts that they need."""
    names = ("broker", "manager", "worker")
    supervised.start(*({name: POLITE.replace("{name}", name)} for name in names))
    wait_until(lambda: all((supervised.folder / f"{name}.up").exists() for name in names))
    supervised.process.signal(number)
    assert supervised.process.wait() == 0
    assert (supervised.folder / "order").read_text().split() == ["worker", "manager", "broker"]
    assert processes_mentioning(str(supervised.folder)) == []


def test_a_child_that_does_not_end_is_killed(supervised: Supervised) -> None:
    """After its grace, and this is said."""
    supervised.start({"stubborn": STUBBORN.replace("{folder}", str(supervised.folder))})
    wait_until((supervised.folder / "deaf").exists)
    supervised.process.signal(signal.SIGTERM)
    assert supervised.process.wait() == 0
    assert "stubborn did not end within 1 s; killed" in supervised.process.output()
    assert processes_mentioning(str(supervised.folder)) == []


def test_a_killed_supervisor_leaves_nothing(supervised: Supervised) -> None:
    """Even children that ignore SIGTERM end soon after `kill -9` of the supervisor."""
    deaf = STUBBORN.replace("{folder}", str(supervised.folder))
    supervised.start({"sleeper": SLEEPER, "polite": POLITE.replace("{name}", "polite")}, {"stubborn": deaf})
    wait_until((supervised.folder / "deaf").exists)
    wait_until((supervised.folder / "polite.up").exists)
    wait_until(lambda: len(supervised.children()) == 3)
    supervised.process.kill()
    wait_until(lambda: processes_mentioning(str(supervised.folder)) == [], what="everything is gone")
    assert (supervised.folder / "order").read_text().split() == ["polite"]


def test_a_second_signal_kills_at_once(supervised: Supervised) -> None:
    """An operator who is in a hurry does not wait for the grace."""
    code = STUBBORN.replace("{folder}", str(supervised.folder))
    supervised.start({"stubborn": code})
    wait_until((supervised.folder / "deaf").exists)
    supervised.process.signal(signal.SIGINT)
    supervised.process.signal(signal.SIGINT)
    assert supervised.process.wait() == 0
    assert processes_mentioning(str(supervised.folder)) == []
