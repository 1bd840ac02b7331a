"""The worker's database on a real full disk: commits of ordinary size go on, over restarts and crashes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.disks import fill, small_disk, small_ext4, small_overlay
from testbed.machines import REF, spec
from testbed.netns import scratch_folder
from testbed.processes import REPOSITORY
from testbed.requirement import require
from worker import reserve
from worker.records import Cause, Fence, Forget, Instance, Phase, Publish, Ref, Save, Status
from worker.state import State

DISKS = {"tmpfs": small_disk, "ext4": small_ext4, "overlay": small_overlay}
_DYING = """
import os, sys
from pathlib import Path
sys.path += ["tests"]
from integration.test_worker_disk import delete_many
from worker.state import State
delete_many(State(Path(sys.argv[1])), 300, first=10_000)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(name="disk", params=DISKS)
def _disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 4 MB for the worker's folder, of each kind that workers usually have."""
    require("small disk" if request.param == "tmpfs" else "ext4 disk")
    with scratch_folder() as folder, DISKS[request.param](folder / "disk", 4) as disk:
        yield disk


def delete_many(state: State, count: int, first: int = 0) -> None:
    """What deploying and deleting instance after instance saves, each change in a commit of its own."""
    for number in range(first, first + count):
        ref = Ref("j", number, 1)
        item = Instance(ref=ref, spec=spec(environment=["A=" + "x" * 500]), phase=Phase.RUNNING, has_run=True)
        sequences = []
        for phase, status in ((Phase.STOPPING, Status.RUNNING), (Phase.ENDED, Status.STOPPED)):
            after = Instance(ref=ref, spec=item.spec, phase=phase, status=status, cause=Cause.DELETED)
            said = state.commit([Save(after), Publish(ref, "web", status, "stopped"), Fence(ref)], 1)
            sequences += [message.sequence for message in said]
        state.commit([Forget(ref, item.spec)], 1, sequences)


def test_commits_need_no_free_disk(disk: Path) -> None:
    """A thousand workloads are stopped and forgotten; so they are after a clean restart, and after a crash."""
    state = State(disk)
    filler = fill(disk)
    delete_many(state, 1000)
    state.close()
    fill(disk)
    state = State(disk)
    delete_many(state, 300, first=5000)
    state.close()
    fill(disk)
    killed = subprocess.run([sys.executable, "-c", _DYING, str(disk)], cwd=REPOSITORY, timeout=120, check=False)
    assert killed.returncode == -9
    state = State(disk)
    assert len(state.fences()) == 1600
    assert state.instances() == state.outbox() == []
    state.commit([Save(Instance(ref=REF, spec=spec()))], 1)
    state.close()
    assert os.statvfs(disk).f_bavail == 0
    assert filler.exists()


def test_what_is_used_of_the_reserve_is_made_up_for(disk: Path) -> None:
    """What is saved while the disk is full takes free pages; once there is room again they are as many as before."""
    state = State(disk)
    filler = fill(disk)
    size = (disk / "worker.db").stat().st_size
    taken = 0
    while reserve.is_enough(state._database, disk / "worker.db"):
        state.commit([Save(Instance(ref=Ref("j", taken, 1), spec=spec(note="x" * 3000)))], 1)
        taken += 1
    assert taken > 100
    assert (disk / "worker.db").stat().st_size == size
    filler.unlink()
    state.commit([Publish(REF, "web", Status.RUNNING)], 1)
    assert reserve.is_enough(state._database, disk / "worker.db")
    state.close()


def test_a_lease_is_noted_on_a_full_disk(disk: Path) -> None:
    """As often as it comes: the file is overwritten in place."""
    state = State(disk)
    fill(disk)
    for number in range(500):
        state.save_lease(number + 0.125)
        assert state.lease() == number + 0.125
    state.close()


def test_a_state_that_finds_its_disk_full_begins_without_a_reserve(disk: Path) -> None:
    """A worker of before the reserve that starts on a full disk reads what it has; later the reserve is made."""
    state = State(disk)
    state.commit([Save(Instance(ref=REF, spec=spec()))], 1)
    state.close()
    (disk / "worker.db-reserve").unlink()
    (disk / "lease").unlink()
    filler = fill(disk)
    state = State(disk)
    assert [item.ref for item in state.instances()] == [REF]
    assert not reserve.is_enough(state._database, disk / "worker.db")
    filler.unlink()
    state.commit([Publish(REF, "web", Status.RUNNING)], 1)
    assert reserve.is_enough(state._database, disk / "worker.db")
    state.close()
