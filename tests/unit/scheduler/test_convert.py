"""From messages to records."""

import pytest

from cluster.errors import InvalidInputError
from cluster.jobs import Resources
from cluster.v1 import instance_pb2, job_pb2, node_pb2, resources_pb2, scheduler_pb2
from scheduler.convert import ask_of, items_of, node_facts, query_of


def _spec(*constraints: job_pb2.Constraint, **fields: object) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(technology="docker", constraints=constraints, **fields)  # type: ignore[arg-type]


def _request(*items: scheduler_pb2.PlanItem, is_dry_run: bool = False) -> scheduler_pb2.PlanRequest:
    specs = [scheduler_pb2.PlanSpec(job_id="job", spec=_spec())]
    return scheduler_pb2.PlanRequest(specs=specs, items=items, is_dry_run=is_dry_run)


def _item(job_id: str = "job", number: int = 0, **fields: object) -> scheduler_pb2.PlanItem:
    key = instance_pb2.InstanceKey(job_id=job_id, number=number)
    return scheduler_pb2.PlanItem(key=key, **fields)  # type: ignore[arg-type]


def test_node_keeps_all_that_decides() -> None:
    """Every field that a filter or a scorer reads is taken over."""
    node = node_pb2.Node(
        id="0" * 24,
        registration=node_pb2.NodeRegistration(
            name="edge",
            given_id="17",
            technologies=["docker"],
            capacity=resources_pb2.Resources(cpu_millicores=4000),
            architecture="x86_64",
            addons=["a"],
            csi_drivers=["d"],
        ),
        state=node_pb2.NODE_STATE_READY,
        allocated=resources_pb2.Resources(cpu_millicores=5),
        usage=node_pb2.NodeUsage(cpu_percent=50.0, memory_percent=60.0),
        instance_count=3,
        topic_id="17",
    )
    facts = node_facts(node)
    assert (facts.id, facts.name, set(facts.aliases)) == ("0" * 24, "edge", {"edge", "17"})
    assert facts.capacity == Resources(cpu_millicores=4000)
    assert facts.allocated == Resources(cpu_millicores=5)
    assert facts.features == {
        ("technology", "docker"),
        ("architecture", "amd64"),
        ("addons", "a"),
        ("csi_driver", "d"),
    }
    assert (facts.state, facts.instance_count) == ("ready", 3)
    assert (facts.cpu_percent, facts.memory_percent) == (0.0, 60.0)


def test_nodes_of_one_kind_share_their_features() -> None:
    """Ten thousand equal machines cost one set."""
    said = node_pb2.NodeRegistration(name="a", technologies=["docker"])
    first, second = (node_facts(node_pb2.Node(id=name, registration=said)) for name in "ab")
    assert first.features is second.features


def test_direct_constraints_keep_their_nodes() -> None:
    """Each direct constraint is one choice among its nodes; one that names only a cluster asks nothing."""
    direct = job_pb2.Constraint(type="direct", nodes=["a", "b"])
    only_cluster = job_pb2.Constraint(type="direct", document_json='{"type": "direct", "cluster": "c"}')
    assert query_of(_spec(direct, only_cluster), "spec").direct == (frozenset({"a", "b"}),)


def test_addons_and_volumes_become_features() -> None:
    """Every add-on and every storage driver must be there."""
    volumes = [job_pb2.Volume(id="v", csi_driver="nfs"), job_pb2.Volume(id="w")]
    query = query_of(_spec(job_pb2.Constraint(type="addons", needs=["x", "y"]), volumes=volumes), "spec")
    assert query.features == (("addons", "x"), ("addons", "y"), ("csi_driver", "nfs"))


@pytest.mark.parametrize(
    ("kind", "document", "is_refused"),
    [
        ("latency", '{"threshold": 100}', True),
        ("geo", '{"rigidness": 0.7}', True),
        ("geo", '{"rigidness": "1"}', True),
        ("geo", '{"rigidness": 0}', False),
        ("latency", '{"rigidness": "0.0"}', False),
        ("latency", '{"rigidness": "Soft"}', False),
        ("latency", '{"rigidness": [0]}', True),
        ("latency", "not json", True),
        ("latency", "[]", True),
        ("clusters", '{"allowed": ["elsewhere"]}', False),
        ("colour", "{}", True),
        ("addons", '{"needed": ["a"]}', False),
        ("direct", "{}", False),
    ],
)
def test_hard_constraints_that_cannot_be_judged_are_kept(kind: str, document: str, is_refused: bool) -> None:
    """Only a constraint that calls itself soft, or that the root has decided, is passed over."""
    query = query_of(_spec(job_pb2.Constraint(type=kind, document_json=document)), "spec")
    assert query.unjudged == ((kind,) if is_refused else ())


def test_architectures_are_known_by_either_word() -> None:
    """The kernel's words become those that nodes are kept by; any other is taken as it is."""
    query = query_of(_spec(architectures=["x86_64", "arm64", "riscv64"]), "spec")
    assert query.architectures == ("amd64", "arm64", "riscv64")


def test_equal_specifications_make_equal_queries() -> None:
    """What does not decide about the place does not matter."""
    one, other = (query_of(_spec(name=name, image=name, architectures=["aarch64"]), "spec") for name in "ab")
    assert one == other
    assert hash(one) == hash(other)
    assert one.architectures == ("arm64",)


def test_ask_takes_the_peers_over() -> None:
    """Peers are counted by node id."""
    spec = scheduler_pb2.PlanSpec(job_id="j", spec=_spec(), peers=[scheduler_pb2.PeerCount(node_id="n", count=2)])
    ask = ask_of(spec, "specs[0]")
    assert (ask.job_id, ask.peers) == ("j", {"n": 2})


def test_item_takes_everything_over() -> None:
    """Exclusions, the target and the old reservation reach the planner."""
    released = resources_pb2.Resources(cpu_millicores=7)
    message = _item(number=4, excluded_node_ids=["a"], target_node_id="b", released_node_id="c", released=released)
    (item,) = items_of(_request(message))
    assert (item.job_id, item.number, item.excluded, item.target) == ("job", 4, frozenset({"a"}), "b")
    assert (item.released_node_id, item.released) == ("c", Resources(cpu_millicores=7))


@pytest.mark.parametrize("spec_index", [-1, 1])
def test_spec_index_must_be_in_range(spec_index: int) -> None:
    """An index beyond the specifications names its field."""
    with pytest.raises(InvalidInputError) as caught:
        items_of(_request(_item(), _item(number=1, spec_index=spec_index)))
    assert caught.value.field == "items[1].spec_index"


def test_a_real_plan_needs_distinct_keys() -> None:
    """Without its key a promise could never be settled; a dry run promises nothing."""
    with pytest.raises(InvalidInputError) as caught:
        items_of(_request(_item(job_id="")))
    assert caught.value.field == "items[0].key.job_id"
    with pytest.raises(InvalidInputError) as caught:
        items_of(_request(_item(), _item()))
    assert caught.value.field == "items[1].key"
    assert len(items_of(_request(_item(job_id=""), _item(job_id=""), is_dry_run=True))) == 2


def test_batches_are_bounded() -> None:
    """More than ten thousand items are refused before any is planned."""
    with pytest.raises(InvalidInputError) as caught:
        items_of(_request(*[_item(number=number) for number in range(10_001)]))
    assert caught.value.field == "items"


def test_specification_is_checked() -> None:
    """A missing technology and a negative amount name their fields."""
    with pytest.raises(InvalidInputError) as caught:
        ask_of(scheduler_pb2.PlanSpec(), "specs[3]")
    assert caught.value.field == "specs[3].spec.technology"
    with pytest.raises(InvalidInputError) as caught:
        query_of(_spec(demand=resources_pb2.Resources(memory_bytes=-1)), "spec")
    assert caught.value.field == "spec.demand.memory_bytes"


@pytest.mark.parametrize("kind", [kind for kind in node_pb2.NodeKind.values() if kind])
def test_kinds_of_nodes_arrive(kind: int) -> None:
    """What the manager rules out is what the nodes are."""
    facts = node_facts(node_pb2.Node(id="n", registration=node_pb2.NodeRegistration(name="n"), kind=kind))  # type: ignore[arg-type]
    [item] = items_of(_request(_item(excluded_kinds=[kind])))
    assert {("kind", word) for word in item.excluded_kinds} == {each for each in facts.features if each[0] == "kind"}
    assert item.excluded_kinds != {""}
