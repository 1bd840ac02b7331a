"""What the receiving thread makes of messages: it notes who is heard, and nothing that anybody sends can hurt it."""

import time
from collections import Counter

import pytest
from paho.mqtt.client import MQTTMessage

from cluster.topics import Channel, topic
from manager.domain.hearing import Hearing
from manager.mqtt.bridge import Bridge

NODE = "65f1a2b3c4d5e6f7a8b9c0da"


class Post:
    """A bridge without a broker, whose messages a test delivers."""

    def __init__(self) -> None:
        self.hearing = Hearing(time.monotonic() - 100.0)
        self.counters: Counter[str] = Counter()
        self.bridge = Bridge("127.0.0.1", 1, "m", self.counters, self.hearing)

    def deliver(self, name: str, payload: bytes, *, is_retained: bool = False) -> None:
        """As paho's thread does."""
        message = MQTTMessage(topic=name.encode())
        message.payload, message.retain = payload, is_retained
        self.bridge._on_message(self.bridge._client, None, message)

    def say(self, channel: Channel, *, is_retained: bool = False) -> float | None:
        """A node sends something; answers when it was heard last."""
        self.deliver(topic(NODE, channel), b"{}", is_retained=is_retained)
        return self.hearing.last_heard_s([NODE])

    def echo(self) -> None:
        """An echo of our own comes back."""
        self.deliver(self.bridge._echo_topic, self.bridge._echo_payload())


@pytest.fixture(name="post")
async def _post() -> Post:
    return Post()


@pytest.mark.parametrize("channel", [Channel.INFORMATION, Channel.RESOURCES])
async def test_what_a_node_sends_now_is_a_sign_of_life(post: Post, channel: Channel) -> None:
    """It is stamped where it arrives, before any queue."""
    before_s = time.monotonic()
    heard_s = post.say(channel)
    assert heard_s is not None
    assert before_s <= heard_s <= time.monotonic()
    assert len(post.bridge.inbox) == 1


async def test_what_the_broker_kept_is_no_sign_of_life(post: Post) -> None:
    """States may come from before our session began; from its first echo on they are of now."""
    assert post.say(Channel.STATE) is None
    post.echo()
    assert post.say(Channel.STATE) is not None
    assert len(post.bridge.inbox) == 2


async def test_a_word_about_the_connection_is_judged_by_what_it_says(post: Post) -> None:
    """A will comes from the broker: that it arrives tells nothing."""
    post.echo()
    assert post.say(Channel.CONNECTION) is None
    assert len(post.bridge.inbox) == 1


async def test_what_is_retained_or_foreign_is_passed_over(post: Post) -> None:
    """Whatever it says is from whenever, or about nobody; each kind is told once and then counted."""
    assert post.say(Channel.INFORMATION, is_retained=True) is None
    for name in ("a/b", "nodes/x/else", "$SYS/uptime"):
        post.deliver(name, b"x")
    assert len(post.bridge.inbox) == 0
    assert post.counters == {"mqtt_retained": 1, "mqtt_foreign": 3}


async def test_an_echo_tells_up_to_when_everything_was_received(post: Post) -> None:
    """The time at which we sent it."""
    before_s = time.monotonic()
    post.echo()
    assert before_s <= post.hearing.as_of_s <= time.monotonic()
    assert post.hearing.is_listening(time.monotonic())


@pytest.mark.parametrize("payload", [b"", b"x", b"inf", b"nan", b"99999999999.0", b"\xff", b"word inf", b"a b c"])
async def test_an_echo_that_is_not_ours_is_passed_over(post: Post, payload: bytes) -> None:
    """From anybody, or from another process of the same name: it neither ends the thread nor judges anybody."""
    post.echo()
    as_of_s = post.hearing.as_of_s
    post.deliver(post.bridge._echo_topic, payload)
    assert post.hearing.as_of_s == as_of_s
    post.echo()
    assert post.hearing.as_of_s > as_of_s
