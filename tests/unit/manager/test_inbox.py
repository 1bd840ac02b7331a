"""What nodes sent and nobody has handled yet: nothing that matters is lost, and what does not takes no room."""

import threading
from collections import Counter
from itertools import groupby
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.topics import Channel
from manager.mqtt import inbox as module
from manager.mqtt.inbox import LISTS_KEPT, Inbox, Incoming

INVENTORY = b'{"inventory":true,"services":[]}'
LIST = b'{"services":[]}'
ALL = 10**9
KINDS = {
    "telemetry": (Channel.INFORMATION, b"{}"),
    "state": (Channel.STATE, b"{}"),
    "loose state": (Channel.STATE, b"{}"),
    "inventory": (Channel.RESOURCES, INVENTORY),
    "list": (Channel.RESOURCES, LIST),
    "connection": (Channel.CONNECTION, b"{}"),
}


class Post:
    """An inbox, and messages numbered as they come."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.inbox = Inbox(self.counters)
        self.last = 0

    def put(self, kind: str, topic_id: str = "n1") -> int:
        """A message of a kind; answers its number."""
        channel, payload = KINDS[kind]
        self.last += 1
        self.inbox.put(Incoming(topic_id, channel, payload, float(self.last), self.last, int(kind != "loose state")))
        return self.last

    def telemetry(self, limit: int = ALL) -> list[int]:
        """The numbers of what is taken."""
        return [message.mid for message in self.inbox.take_telemetry(limit)]

    def others(self, limit: int = ALL) -> list[int]:
        """The numbers of what is taken."""
        return [message.mid for message in self.inbox.take_others(limit)]


def test_of_telemetry_the_newest_of_each_node_is_kept() -> None:
    """What is older is counted, and the nodes come in the order in which the newest arrived."""
    post = Post()
    first, _, other, newest = (post.put("telemetry", name) for name in ("n1", "n2", "n3", "n2"))
    assert post.inbox.has_telemetry
    assert post.telemetry() == [first, other, newest]
    assert not post.inbox.has_telemetry
    assert post.counters["mqtt_telemetry_superseded"] == 1


@pytest.mark.parametrize("kind", ["inventory", "connection"])
def test_of_a_whole_inventory_the_newest_is_kept(kind: str) -> None:
    """So with a word about the connection: what it says now counts, after the states that came before it."""
    post = Post()
    post.put(kind)
    state, newest, other = post.put("state"), post.put(kind), post.put(kind, "n2")
    assert post.others() == [state, newest, other]
    assert post.counters["mqtt_lists_superseded"] == 1


def test_of_lists_the_newest_few_of_each_engine_are_kept() -> None:
    """One per runtime and more, in order; another engine's are not touched."""
    post = Post()
    other = post.put("list", "n2")
    numbers = [post.put("list") for _ in range(3 * LISTS_KEPT)]
    assert post.others() == [other, *numbers[-LISTS_KEPT:]]
    assert post.counters["mqtt_lists_superseded"] == 2 * LISTS_KEPT


def test_lists_that_were_handled_leave_room_for_new_ones() -> None:
    """What was taken is not counted against those that come later."""
    post = Post()
    for _ in range(5):
        numbers = [post.put("list") for _ in range(LISTS_KEPT)]
        state = post.put("state")
        assert post.others(LISTS_KEPT) == numbers
        assert post.others() == [state]
    assert post.counters["mqtt_lists_superseded"] == 0


def test_no_state_is_lost() -> None:
    """However many wait, each is given out once, in order of arrival."""
    post = Post()
    numbers = [post.put("state", f"n{number % 3}") for number in range(5000)]
    assert [number for _ in range(50) for number in post.others(100)] == numbers
    assert not post.inbox.has_others


def test_an_hour_without_a_store_takes_no_more_room_than_a_minute() -> None:
    """A thousand nodes go on sending: per node there is one telemetry, one inventory, and a few lists."""
    post = Post()
    sizes = []
    for _ in range(20):
        for number in range(1000):
            for kind in ("telemetry", "inventory", "connection", "list"):
                post.put(kind, f"n{number}")
        sizes.append(len(post.inbox))
    assert sizes[-1] == sizes[LISTS_KEPT] == 1000 * (3 + LISTS_KEPT)


@pytest.mark.parametrize("kind", ["telemetry", "list", "inventory", "connection", "loose state"])
def test_ids_that_somebody_makes_up_take_no_room_without_end(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Beyond all that a cluster can have messages are dropped; states that are to be acknowledged are not."""
    monkeypatch.setattr(module, "MOST_KEPT", 50)
    post = Post()
    for number in range(1000):
        post.put(kind, f"made-up-{number}")
    assert (len(post.inbox), post.counters["mqtt_dropped"]) == (50, 950)
    state = post.put("state")
    assert post.others()[-1] == state


def test_a_message_is_taken_once() -> None:
    """Telemetry and all else, each up to the limit that was asked for."""
    post = Post()
    told = [post.put("telemetry", f"n{number}") for number in range(5)]
    states = [post.put("state") for _ in range(5)]
    assert (post.telemetry(2), post.telemetry(2), post.telemetry(2)) == (told[:2], told[2:4], told[4:])
    assert (post.others(3), post.others(3), post.others(3)) == (states[:3], states[3:], [])
    assert len(post.inbox) == 0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([*KINDS, "take"]), st.sampled_from(["n1", "n2"]), st.integers(1, 12)), max_size=80
    )
)
def test_what_is_given_out_is_in_order_and_no_newer_is_missing(script: list[tuple[str, str, int]]) -> None:
    """Against a plain model: all that came, less what something newer of its kind and node took the place of."""
    post = Post()
    came: dict[int, tuple[str, str]] = {}
    for kind, name, count in script:
        if kind != "take":
            came[post.put(kind, name)] = (kind, name)
            continue
        due = [number for number in _kept(came) if came[number][0] != "telemetry"][:count]
        assert post.others(count) == due
        came = {number: came[number] for number in _kept(came) if number not in due}
    assert post.others() == [number for number in _kept(came) if came[number][0] != "telemetry"]
    assert post.telemetry() == [number for number in _kept(came) if came[number][0] == "telemetry"]


def _kept(came: dict[int, tuple[str, str]]) -> list[int]:
    """Of what came and was not taken, what is kept."""
    kept = [number for number, (kind, _) in came.items() if kind.endswith("state")]
    for (kind, _), group in groupby(sorted(came, key=came.__getitem__), came.__getitem__):
        if not kind.endswith("state"):
            kept += sorted(group)[-(LISTS_KEPT if kind == "list" else 1) :]
    return sorted(kept)


def test_it_is_written_while_it_is_read() -> None:
    """The thread that receives and the loop that handles miss nothing and see nothing twice."""
    post, taken = Post(), list[int]()
    writer = threading.Thread(target=lambda: [post.put("state") for _ in range(20_000)])
    writer.start()
    while writer.is_alive():
        taken += post.others(50)
    writer.join()
    taken += post.others()
    assert taken == list(range(1, 20_001))


def test_how_long_the_oldest_has_waited_is_known() -> None:
    """Of what is not telemetry; a list that was superseded counts no more."""
    post = Post()
    assert post.inbox.others_since_s == inf
    post.put("telemetry")
    assert post.inbox.others_since_s == inf
    post.put("inventory")
    state, _ = post.put("state"), post.put("inventory")
    assert post.inbox.others_since_s == state
    post.others()
    assert post.inbox.others_since_s == inf
