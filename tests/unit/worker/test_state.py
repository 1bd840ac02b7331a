"""What the worker keeps on disk."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.machines import REF, newer, spec
from worker.records import Cause, Fence, Forget, Instance, Phase, Publish, Save, Status
from worker.state import State

ITEM = Instance(
    ref=REF,
    spec=spec(environment=["A=1"], liveness={"http": {"port": 80}}, on_disconnect="stop_after", unknown={"kept": 1}),
    phase=Phase.RUNNING,
    status=Status.RUNNING,
    detail="fine",
    exit_code=3,
    failures=2,
    has_run=True,
    cause=Cause.UNHEALTHY,
    leased_at=12.5,
)


def test_an_instance_survives_whole(tmp_path: Path) -> None:
    """Every kept field comes back, the specification with its document."""
    State(tmp_path).commit([Save(ITEM)], 0)
    (found,) = State(tmp_path).instances()
    assert found == ITEM
    assert found.spec.document == ITEM.spec.document
    assert found.spec.digest == ITEM.spec.digest


def test_saving_again_replaces_and_forgetting_removes(tmp_path: Path) -> None:
    """One row per generation."""
    state = State(tmp_path)
    state.commit([Save(ITEM), Save(replace(ITEM, status=Status.FAILED)), Save(replace(ITEM, ref=newer()))], 0)
    assert [item.status for item in state.instances()] == [Status.FAILED, Status.RUNNING]
    state.commit([Forget(REF, ITEM.spec)], 0)
    assert [item.ref for item in state.instances()] == [newer()]


def test_outbox_is_ordered_and_its_sequence_never_repeats(tmp_path: Path) -> None:
    """Also when everything was acknowledged before a restart."""
    state = State(tmp_path)
    first = state.commit([Publish(REF, "web", Status.STARTING), Publish(REF, "web", Status.RUNNING, "up", 0)], 77)
    assert [(m.sequence, m.status, m.at_ms) for m in first] == [(1, Status.STARTING, 77), (2, Status.RUNNING, 77)]
    assert State(tmp_path).outbox() == first
    state.commit([], 0, [1, 2])
    again = State(tmp_path)
    assert again.outbox() == []
    assert again.last_sequence() == 2
    assert again.commit([Publish(REF, "web", Status.STOPPED)], 0)[0].sequence == 3


def test_a_failed_commit_writes_nothing(tmp_path: Path) -> None:
    """One transaction: an error in its midst takes all of it back."""
    state = State(tmp_path)
    broken = Publish(REF, None, Status.RUNNING)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        state.commit([Save(ITEM), broken], 0)
    assert state.instances() == []
    state.commit([Save(ITEM)], 0)
    assert state.instances() == [ITEM]


def test_fences_are_kept(tmp_path: Path) -> None:
    """The highest ended generation of each slot."""
    State(tmp_path).commit([Fence(REF), Fence(newer())], 0)
    assert State(tmp_path).fences() == {REF.slot: newer().generation}


def test_a_new_boot_is_noticed_and_its_lease_is_none(tmp_path: Path) -> None:
    """The boot's id decides; the installation's id stays."""
    first = State(tmp_path, boot_id="a")
    assert not first.is_new_boot
    first.save_lease(12.25)
    same, other = State(tmp_path, boot_id="a"), State(tmp_path, boot_id="b")
    assert (same.is_new_boot, same.lease()) == (False, 12.25)
    assert (other.is_new_boot, other.lease()) == (True, None)
    assert first.meta("installation") == other.meta("installation") != ""


def test_a_state_of_the_future_is_refused(tmp_path: Path) -> None:
    """An older worker does not touch what it does not understand."""
    State(tmp_path).close()
    with sqlite3.connect(tmp_path / "worker.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(sqlite3.DatabaseError, match="version 99"):
        State(tmp_path)


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    """A process that commits and dies at once has lost nothing."""
    script = (
        "import sys, os; from pathlib import Path; from worker.state import State\n"
        "from worker.records import Publish, Ref, Status\n"
        "state = State(Path(sys.argv[1]))\n"
        "for number in range(20): state.commit([Publish(Ref('j', number, 1), 'web', Status.RUNNING)], 0)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, cwd=Path(__file__).parents[3])
    assert len(State(tmp_path).outbox()) == 20


def test_a_state_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    """Its unsent messages stay, and an address where a guest is awaited can be kept beside them."""
    State(tmp_path).commit([Publish(REF, "web", Status.RUNNING)], 1)
    old = sqlite3.connect(tmp_path / "worker.db")
    old.executescript("ALTER TABLE outbox DROP COLUMN incoming; PRAGMA user_version = 1;")
    old.close()
    state = State(tmp_path)
    state.commit([Publish(REF, "web", Status.STARTING, incoming="tcp:127.0.0.2:4711")], 2)
    assert [(m.status, m.incoming) for m in state.outbox()] == [("RUNNING", ""), ("STARTING", "tcp:127.0.0.2:4711")]
