"""What callers read: the truth about silent nodes, pages in order, and nothing that is not saved."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InvalidInputError, NotFoundError
from cluster.v1 import instance_pb2, manager_pb2, node_pb2
from manager.domain.events import DeleteRequested
from manager.domain.model import Instance, InstanceKey, InstanceState, NodeState
from manager.figures import instance_counts, node_counts
from manager.rpc.convert import INSTANCE_STATES, NODE_STATES
from manager.rpc.paging import MAX_SIZE, page, size_of
from manager.rpc.reading import Reader
from testbed.live_core import LiveCore, live_core

S = InstanceState
RUNNING, UNKNOWN = INSTANCE_STATES[S.RUNNING], INSTANCE_STATES[S.UNKNOWN]


@pytest.fixture(name="live")
async def _live(tmp_path: Path) -> AsyncIterator[LiveCore]:
    async with live_core(tmp_path) as live:
        yield live


@pytest.fixture(name="reader")
def _reader(live: LiveCore) -> Reader:
    return Reader(live.core)


def _listed(reader: Reader, **asked: object) -> dict[str, int]:
    request = manager_pb2.ListInstancesRequest(**asked)  # type: ignore[arg-type]
    return {f"{item.key.job_id}/{item.key.number}": item.state for item in reader.instances(request).instances}


# Silent nodes


async def _with_a_silent_node(live: LiveCore) -> tuple[str, str]:
    """Two nodes of three are silent and held; one of them runs, starts and stops something."""
    kept, silent, other = [(await live.add(f"n{number}")).id for number in range(3)]
    await live.run(kept, 0)
    await live.run(silent, 1, 2)
    live.core.state.delete([InstanceKey("web", 2)], "root", live.clock.at_ms)
    await live.run(other, 3)
    await live.core.saved()
    live.pass_time(20, kept)
    return kept, silent


async def test_what_is_on_a_silent_node_is_shown_unknown(live: LiveCore, reader: Reader) -> None:
    """In lists, alone, in its job and on its node; what is being stopped there is still being stopped."""
    _, silent = await _with_a_silent_node(live)
    stopping = INSTANCE_STATES[S.STOPPING]
    expected = {"web/0": RUNNING, "web/1": UNKNOWN, "web/2": stopping, "web/3": UNKNOWN}
    assert _listed(reader) == _listed(reader, job_id="web") == expected
    assert _listed(reader, node=silent) == {"web/1": UNKNOWN, "web/2": stopping}
    shown = reader.find_instance(instance_pb2.InstanceKey(job_id="web", number=1))
    assert shown.state is S.UNKNOWN
    assert "its node is not heard: nothing heard of it for" in shown.detail
    job = await reader.get_job(manager_pb2.GetJobRequest(job="web"))
    assert [item.state for item in job.instances] == list(expected.values())
    assert (job.job.running_count, job.job.state) == (1, "UNKNOWN")
    assert live.core.saved_records.instances[InstanceKey("web", 1)].state is S.RUNNING


async def test_a_node_is_shown_suspect_until_it_is_saved_that_it_is_down(live: LiveCore, reader: Reader) -> None:
    """Not READY, which nobody believes any more, and not DOWN, which the store may refuse."""
    node = await live.add("n0")
    live.store.hold()
    live.core.state.set_node_state(node.id, NodeState.DOWN, "silent", live.clock.at_ms)
    saved = live.core.commit()
    [shown] = reader.nodes(manager_pb2.ListNodesRequest()).nodes
    assert shown.state == NODE_STATES[NodeState.SUSPECT]
    live.store.let_go()
    await saved
    [shown] = reader.nodes(manager_pb2.ListNodesRequest()).nodes
    assert shown.state == NODE_STATES[NodeState.DOWN]


async def test_filters_and_counts_tell_the_same(live: LiveCore, reader: Reader) -> None:
    """Who asks for RUNNING gets what runs as far as is known, and the figures add up."""
    await _with_a_silent_node(live)
    assert set(_listed(reader, states=[RUNNING])) == {"web/0"}
    assert set(_listed(reader, states=[UNKNOWN])) == {"web/1", "web/3"}
    assert instance_counts(live.core) == {"RUNNING": 1, "UNKNOWN": 2, "STOPPING": 1}
    assert node_counts(live.core) == {"READY": 1, "SUSPECT": 2}
    status = reader.status([], "edge")
    assert dict(status.instance_counts) == instance_counts(live.core)
    assert (status.held_node_count, len(status.held_node_ids)) == (2, 2)
    assert "fell silent together" in status.hold_cause
    assert 0 < status.hold_left.seconds <= 120


async def test_a_node_that_is_heard_again_shows_what_it_runs(live: LiveCore, reader: Reader) -> None:
    """At once, without anything having been saved."""
    kept, silent = await _with_a_silent_node(live)
    before = len(live.store.batches)
    live.pass_time(1, kept, silent)
    assert _listed(reader, states=[UNKNOWN]).keys() == {"web/3"}
    assert len(live.store.batches) == before


async def test_a_suspect_is_not_silent_yet(live: LiveCore, reader: Reader) -> None:
    """Within its grace what it runs is shown as it was."""
    kept, late = [(await live.add(f"n{number}")).id for number in range(2)]
    await live.run(late, 0)
    live.pass_time(12, kept)
    assert _listed(reader) == {"web/0": RUNNING}
    states = [
        [node.id for node in reader.nodes(manager_pb2.ListNodesRequest(states=[state])).nodes]
        for state in (node_pb2.NODE_STATE_READY, node_pb2.NODE_STATE_SUSPECT)
    ]
    assert states == [[kept], [late]]
    [node] = reader.nodes(manager_pb2.ListNodesRequest(name="n1")).nodes
    assert "nothing heard of it for" in node.detail


# Pages


async def test_instances_come_in_pages_by_job_and_number(live: LiveCore, reader: Reader) -> None:
    """Each once, in order of their numbers, however they were made; the last page has no token."""
    for job_id in ("b", "a-1", "a"):
        await live.deploy(10, 2, 0, job_id=job_id)
    found: list[str] = []
    token = ""
    for _ in range(10):
        request = manager_pb2.ListInstancesRequest(page_size=2, page_token=token)
        response = reader.instances(request)
        found += [f"{item.key.job_id}/{item.key.number}" for item in response.instances]
        token = response.next_page_token
        if not token:
            break
    assert found == [f"{job}/{number}" for job in ("a", "a-1", "b") for number in (0, 2, 10)]


async def test_a_page_goes_on_where_the_last_one_ended(live: LiveCore, reader: Reader) -> None:
    """What came or went meanwhile, the last element itself included, neither repeats nor hides anything."""
    await live.deploy(*range(6))
    first = reader.instances(manager_pb2.ListInstancesRequest(page_size=2))
    await live.deploy(0, job_id="earlier")
    live.core.state.delete([InstanceKey("web", 1)], "root", 1)
    live.core.state.purge(InstanceKey("web", 1))
    await live.core.saved()
    token = first.next_page_token
    rest = reader.instances(manager_pb2.ListInstancesRequest(page_token=token))
    assert [item.key.number for item in rest.instances] == [2, 3, 4, 5]


async def test_pages_of_a_job_and_of_a_node(live: LiveCore, reader: Reader) -> None:
    """In the same order; a token of one job begins another from its start."""
    node = await live.add("n0", cpu=None)
    await live.run(node.id, 0, 1, 2, 11)
    await live.run(node.id, 5, job_id="api")
    await live.deploy(3)
    asked = manager_pb2.ListInstancesRequest(job_id="web", page_size=3)
    response = reader.instances(asked)
    assert [item.key.number for item in response.instances] == [0, 1, 2]
    assert set(_listed(reader, job_id="web", page_token=response.next_page_token)) == {"web/3", "web/11"}
    assert set(_listed(reader, job_id="api", page_token=response.next_page_token)) == {"api/5"}
    assert list(_listed(reader, node="n0")) == ["api/5", "web/0", "web/1", "web/2", "web/11"]
    assert list(_listed(reader, node="n0", page_token="web/1")) == ["web/2", "web/11"]
    assert list(_listed(reader, node="n0", job_id="web")) == ["web/0", "web/1", "web/2", "web/11"]


async def test_a_page_is_filtered_before_it_is_cut(live: LiveCore, reader: Reader) -> None:
    """A page of what runs is full, though few of many run."""
    node = await live.add("n0", cpu=None)
    await live.deploy(*range(50))
    await live.run(node.id, 50, 51, 52)
    request = manager_pb2.ListInstancesRequest(page_size=2, states=[RUNNING])
    response = reader.instances(request)
    assert [item.key.number for item in response.instances] == [50, 51]
    request.page_token = response.next_page_token
    response = reader.instances(request)
    assert ([item.key.number for item in response.instances], response.next_page_token) == ([52], "")


async def test_nodes_come_in_pages_by_name(live: LiveCore, reader: Reader) -> None:
    """A removed one does not break the next page."""
    for name in ("n2", "n10", "a", "n1"):
        await live.add(name)
    first = reader.nodes(manager_pb2.ListNodesRequest(page_size=2))
    assert [node.registration.name for node in first.nodes] == ["a", "n1"]
    await live.nodes.remove(live.core.state.get_node("n1"), is_forced=False)
    rest = reader.nodes(manager_pb2.ListNodesRequest(page_token=first.next_page_token))
    assert [node.registration.name for node in rest.nodes] == ["n10", "n2"]
    assert rest.next_page_token == ""


async def test_jobs_come_in_pages_by_id(live: LiveCore, reader: Reader) -> None:
    """With the sum of their instances; a name may choose among them."""
    for job_id in ("j3", "j1", "j2"):
        await live.deploy(0, 1, job_id=job_id, name="web" if job_id != "j2" else "api")
    first = await reader.jobs(manager_pb2.ListJobsRequest(page_size=2))
    assert [(job.id, job.instance_count) for job in first.jobs] == [("j1", 2), ("j2", 2)]
    rest = await reader.jobs(manager_pb2.ListJobsRequest(page_token=first.next_page_token))
    assert [job.id for job in rest.jobs] == ["j3"]
    named = await reader.jobs(manager_pb2.ListJobsRequest(name="web"))
    assert [job.id for job in named.jobs] == ["j1", "j3"]


@pytest.mark.parametrize("token", ["web", "web/", "web/one", "web/-1", "/", "web/\u0661"])
async def test_a_token_that_was_not_given_out_is_refused(reader: Reader, token: str) -> None:
    """The field is named."""
    with pytest.raises(InvalidInputError) as caught:
        reader.instances(manager_pb2.ListInstancesRequest(page_token=token))
    assert caught.value.field == "page_token"


@settings(deadline=None)
@given(st.lists(st.integers()), st.integers(1, 10))
def test_a_page_knows_whether_more_follow(items: list[int], size: int) -> None:
    """Exactly then, without looking at more than one further element."""
    looked: list[int] = []

    def looking() -> object:
        for item in items:
            looked.append(item)
            yield item

    chosen, has_more = page(looking(), size)  # type: ignore[arg-type,var-annotated]
    assert (chosen, has_more) == (items[:size], len(items) > size)
    assert len(looked) <= size + 1


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_a_page_has_a_size(size: int) -> None:
    """0 is the usual one; too large is refused rather than cut."""
    assert (size_of(0), size_of(1), size_of(MAX_SIZE)) == (100, 1, MAX_SIZE)
    with pytest.raises(InvalidInputError) as caught:
        size_of(size)
    assert caught.value.field == "page_size"


# What is saved


async def test_reads_show_what_is_saved(live: LiveCore, reader: Reader) -> None:
    """While a write is under way nothing of it is seen: not the new, the changed or the removed."""
    node = await live.add("n0")
    await live.run(node.id, 0)
    await live.deploy(1)
    live.store.hold()
    state = live.core.state
    state.deploy([(InstanceKey("new", 0), live.instance(InstanceKey("web", 0)).spec)], "root", 1)
    state.apply(InstanceKey("web", 0), DeleteRequested(actor="root"), live.clock.at_ms)
    state.delete([InstanceKey("web", 1)], "root", 1)
    state.purge(InstanceKey("web", 1))
    state.set_cordoned(node.id, True, "operator", 1)
    saving = live.core.commit()
    requested = INSTANCE_STATES[S.REQUESTED]
    assert _listed(reader) == {"web/0": RUNNING, "web/1": requested}
    assert [job.id for job in (await reader.jobs(manager_pb2.ListJobsRequest())).jobs] == ["web"]
    assert not reader.nodes(manager_pb2.ListNodesRequest()).nodes[0].is_cordoned
    with pytest.raises(NotFoundError):
        reader.find_job("new")
    with pytest.raises(NotFoundError):
        reader.find_instance(instance_pb2.InstanceKey(job_id="new", number=0))
    assert instance_counts(live.core) == {"RUNNING": 1, "REQUESTED": 1}
    live.store.let_go()
    await saving
    assert _listed(reader) == {"new/0": requested, "web/0": INSTANCE_STATES[S.STOPPING]}
    assert reader.nodes(manager_pb2.ListNodesRequest()).nodes[0].is_cordoned


async def test_a_job_and_a_node_show_what_is_saved_of_their_instances(live: LiveCore, reader: Reader) -> None:
    """Also where one of them has just gone in memory: it is there until that is durable."""
    node = await live.add("n0")
    await live.run(node.id, 0, 1)
    live.store.hold()
    state = live.core.state
    for number in (0, 1):
        state.delete([InstanceKey("web", number)], "root", 1)
        placed: Instance = live.instance(InstanceKey("web", number))
        state.put(placed.with_placement(next(placed.placements())[0], None))
    saving = live.core.commit()
    assert _listed(reader, job_id="web") == _listed(reader, node="n0") == {"web/0": RUNNING, "web/1": RUNNING}
    live.store.let_go()
    await saving


async def test_a_history_comes_from_the_log(live: LiveCore, reader: Reader) -> None:
    """Fifty of the last, where the record itself keeps eight; and those while the log cannot be read."""
    node = await live.add("n0")
    for number in range(60):
        live.core.state.note_node(node.id, "noted", f"the {number}th", live.clock.at_ms + number)
    await live.core.saved()
    request = manager_pb2.GetNodeRequest(node="n0")
    assert [event.cause for event in (await reader.get_node(request)).events][-50:] == [
        f"the {number}th" for number in range(10, 60)
    ]
    live.store.fault = "gone"
    live.core.put_setting("x", "y")
    while not live.core.writer.failure:
        await live.core.writer._runner.call(lambda: None)
    assert [event.cause for event in (await reader.get_node(request)).events] == [
        f"the {number}th" for number in range(52, 60)
    ]
    live.store.fault = ""
    await live.core.writer.working.wait()
