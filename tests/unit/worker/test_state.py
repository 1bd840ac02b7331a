"""What the worker keeps on disk."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.machines import REF, newer, spec
from worker import state as state_module
from worker.records import Cause, Fence, Forget, Instance, Phase, Publish, Save, Status
from worker.state import Keep, State

ITEM = Instance(
    ref=REF,
    spec=spec(environment=["A=1"], liveness={"http": {"port": 80}}, on_disconnect="stop_after", unknown={"kept": 1}),
    phase=Phase.RUNNING,
    status=Status.RUNNING,
    detail="fine",
    exit_code=3,
    failures=2,
    restarts=7,
    has_run=True,
    cause=Cause.UNHEALTHY,
    leased_at=12.5,
)


Opened = Callable[..., State]


@pytest.fixture(name="opened")
def _opened(tmp_path: Path) -> Iterator[Opened]:
    """Open the state, as another start of the worker would: whoever has it open closes it first."""
    states: list[State] = []

    def opened(boot_id: str = "a") -> State:
        if states:
            states.pop().close()
        states.append(State(tmp_path, boot_id=boot_id))
        return states[-1]

    yield opened
    if states:
        states.pop().close()


def test_an_instance_survives_whole(opened: Opened) -> None:
    """Every kept field comes back, the specification with its document."""
    opened().commit([Save(ITEM)], 0)
    (found,) = opened().instances()
    assert found == ITEM
    assert found.spec.document == ITEM.spec.document
    assert found.spec.digest == ITEM.spec.digest


def test_saving_again_replaces_and_forgetting_removes(opened: Opened) -> None:
    """One row per generation."""
    state = opened()
    state.commit([Save(ITEM), Save(replace(ITEM, status=Status.FAILED)), Save(replace(ITEM, ref=newer()))], 0)
    assert [item.status for item in state.instances()] == [Status.FAILED, Status.RUNNING]
    state.commit([Forget(REF, ITEM.spec)], 0)
    assert [item.ref for item in state.instances()] == [newer()]


def test_outbox_is_ordered_and_its_sequence_never_repeats(opened: Opened) -> None:
    """Also when everything was acknowledged before a restart."""
    state = opened()
    first = state.commit([Publish(REF, "web", Status.STARTING), Publish(REF, "web", Status.RUNNING, "up", 0)], 77)
    assert [(m.sequence, m.status, m.at_ms) for m in first] == [(1, Status.STARTING, 77), (2, Status.RUNNING, 77)]
    state = opened()
    assert state.outbox() == first
    state.commit([], 0, [1, 2])
    again = opened()
    assert again.outbox() == []
    assert again.last_sequence() == 2
    assert again.commit([Publish(REF, "web", Status.STOPPED)], 0)[0].sequence == 3


def test_a_failed_commit_writes_nothing(opened: Opened) -> None:
    """One transaction: an error in its midst takes all of it back."""
    state = opened()
    broken = Publish(REF, None, Status.RUNNING)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        state.commit([Save(ITEM), broken], 0)
    assert state.instances() == []
    state.commit([Save(ITEM)], 0)
    assert state.instances() == [ITEM]


def test_fences_are_kept(opened: Opened) -> None:
    """The highest ended generation of each slot."""
    opened().commit([Fence(REF), Fence(newer())], 0)
    assert opened().fences() == {REF.slot: newer().generation}


def test_a_new_boot_is_noticed_and_its_lease_is_none(opened: Opened) -> None:
    """The boot's id decides; the installation's id stays."""
    first = opened()
    installation = first.meta("installation")
    assert not first.is_new_boot
    first.save_lease(12.25)
    same = opened()
    assert (same.is_new_boot, same.lease()) == (False, 12.25)
    other = opened(boot_id="b")
    assert (other.is_new_boot, other.lease()) == (True, None)
    assert not opened(boot_id="b").is_new_boot
    assert opened(boot_id="b").meta("installation") == installation != ""


def test_a_state_of_the_future_is_refused(tmp_path: Path, opened: Opened) -> None:
    """An older worker does not touch what it does not understand."""
    opened().close()
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(sqlite3.DatabaseError, match="version 99"):
        opened()


def test_a_second_worker_on_the_same_folder_is_refused(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would start everything twice; the words say what to do."""
    monkeypatch.setattr(state_module, "LOCKED_S", 0.1)
    opened()
    with pytest.raises(sqlite3.OperationalError, match=r"in use by another worker.*WORKER_DATA_DIR"):
        State(tmp_path)


def test_what_was_committed_survives_kill_9(tmp_path: Path, opened: Opened) -> None:
    """A process that commits and dies at once has lost nothing."""
    script = (
        "import sys, os; from pathlib import Path; from worker.state import State\n"
        "from worker.records import Publish, Ref, Status\n"
        "state = State(Path(sys.argv[1]))\n"
        "for number in range(20): state.commit([Publish(Ref('j', number, 1), 'web', Status.RUNNING)], 0)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, cwd=Path(__file__).parents[3])
    assert len(opened().outbox()) == 20


_VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (
    job_id TEXT, number INTEGER, generation INTEGER, name TEXT NOT NULL, document TEXT NOT NULL,
    phase TEXT NOT NULL, status TEXT NOT NULL, detail TEXT NOT NULL, exit_code INTEGER, failures INTEGER NOT NULL,
    has_run INTEGER NOT NULL, cause TEXT NOT NULL, leased_at REAL,
    PRIMARY KEY (job_id, number, generation)) WITHOUT ROWID;
CREATE TABLE fences (
    job_id TEXT, number INTEGER, generation INTEGER NOT NULL, PRIMARY KEY (job_id, number)) WITHOUT ROWID;
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, number INTEGER NOT NULL,
    generation INTEGER NOT NULL, job_name TEXT NOT NULL, status TEXT NOT NULL, detail TEXT NOT NULL,
    exit_code INTEGER, at_ms INTEGER NOT NULL);
INSERT INTO meta VALUES ('installation', 'kept');
INSERT INTO instances VALUES
    ('j1', 0, 100, 'web', '{"name":"web","image":"x","technology":"wasm"}', 'running', 'RUNNING', 'fine', NULL,
     2, 1, '', 12.5);
INSERT INTO outbox VALUES (41, 'j1', 0, 100, 'web', 'RUNNING', 'fine', NULL, 1);
PRAGMA user_version = 1;
"""
_VERSION_2 = "ALTER TABLE outbox ADD COLUMN incoming TEXT NOT NULL DEFAULT ''; PRAGMA user_version = 2;"


@pytest.mark.parametrize("script", [_VERSION_1, _VERSION_1 + _VERSION_2])
def test_a_state_of_an_earlier_version_is_brought_up(tmp_path: Path, opened: Opened, script: str) -> None:
    """Its instances and unsent messages stay, and what was added since can be kept beside them."""
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db")) as old:
        old.executescript(script)
    state = opened()
    (item,) = state.instances()
    assert (item.ref, item.phase, item.failures, item.has_run, item.leased_at) == (REF, Phase.RUNNING, 2, True, 12.5)
    assert item.restarts == 0
    state.commit([Save(replace(item, restarts=3))], 2)
    state.commit([Publish(REF, "web", Status.STARTING, incoming="tcp:127.0.0.2:4711", restarts=3)], 2)
    again = opened()
    assert again.meta("installation") == "kept"
    assert [item.restarts for item in again.instances()] == [3]
    said = [(m.sequence, m.status, m.incoming, m.restarts) for m in again.outbox()]
    assert said == [(41, "RUNNING", "", 0), (42, "STARTING", "tcp:127.0.0.2:4711", 3)]


def test_an_instance_that_cannot_be_read_holds_up_no_other(tmp_path: Path, opened: Opened) -> None:
    """It is passed over and stays on disk; the worker starts with the others."""
    opened().commit([Save(ITEM), Save(replace(ITEM, ref=newer()))], 0)
    opened().close()
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db", isolation_level=None)) as database:
        database.execute("UPDATE instances SET document = '{not json' WHERE generation = 100")
    assert [item.ref for item in opened().instances()] == [newer()]
    opened().close()
    with contextlib.closing(sqlite3.connect(tmp_path / "worker.db")) as database:
        assert database.execute("SELECT count(*) FROM instances").fetchone() == (2,)


def test_what_is_no_text_is_kept_all_the_same(opened: Opened) -> None:
    """A detail that names a file of odd bytes keeps no batch from being saved, and can be sent."""
    odd = replace(ITEM, detail="no image file /x\udcff")
    state = opened()
    (message,) = state.commit([Save(odd), Publish(REF, "web", Status.FAILED, odd.detail)], 0)
    assert message.detail.encode() == b"no image file /x\\udcff"
    assert opened().instances()[0].detail == message.detail


def test_facts_are_kept_with_the_rest(opened: Opened) -> None:
    """In the same commit as everything else; the newest value counts."""
    state = opened()
    state.commit([Keep("node_id", "a"), Save(ITEM), Keep("node_id", "b")], 0)
    assert opened().meta("node_id") == "b"
    assert opened().meta("unknown") == ""


def test_commits_are_to_survive_a_power_loss(opened: Opened) -> None:
    """The connection in use syncs its write-ahead log at each commit."""
    database = opened()._database
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
