"""When a command to an engine is sent again."""

from manager.dispatcher import Dispatcher, pause_s
from manager.domain.effects import Effect, Verb
from manager.domain.model import Node
from standins.engines.judged import JOB, Judged


class Sent:
    """A commander that notes what it sends."""

    is_ready = True

    def __init__(self) -> None:
        self.verbs: list[Verb] = []

    def send(self, node: Node, effect: Effect) -> bool:
        """Always works."""
        self.verbs.append(effect.verb)
        return True


class Desk:
    """A dispatcher with a clock of its own and one deploy to an engine outstanding."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sent = Sent()
        self.engine = Judged()
        self.dispatcher = Dispatcher(lambda _node_id: self.engine.node, lambda _node_id: True, lambda: self.now_s)
        self.dispatcher.commander = self.sent
        self.dispatcher.consider(self.engine.deploy())

    def run(self, seconds: float) -> int:
        """Let the tick pass every second; answers how often something was sent in all."""
        for _ in range(round(seconds)):
            self.now_s += 1
            self.dispatcher.tick()
        return len(self.sent.verbs)


def test_deploy_that_no_list_shows_is_repeated_every_minute() -> None:
    """Once at once, then after 60 s, 120 s and so on."""
    desk = Desk()
    assert [desk.run(59), desk.run(2), desk.run(60)] == [1, 2, 3]


def test_deploy_is_repeated_after_a_gap_where_it_was_sent_before_it() -> None:
    """What went out after the engine had subscribed again is not sent twice."""
    desk = Desk()
    desk.now_s += 10
    desk.dispatcher.repeat_for(desk.engine.node_id, 999.0)
    assert desk.run(1) == 1
    desk.dispatcher.repeat_for(desk.engine.node_id, 1005.0)
    assert desk.run(1) == 2


def test_delete_that_was_lost_is_repeated_at_once() -> None:
    """The unwanted appeared: no pause is waited for."""
    desk = Desk()
    desk.engine.delete()
    desk.dispatcher.consider(desk.engine.instance())
    desk.dispatcher.repeat(Verb.DELETE, JOB, desk.engine.node_id, 0.0)
    desk.run(1)
    assert desk.sent.verbs == [Verb.DEPLOY, Verb.DELETE, Verb.DELETE]


def test_deletes_leave_time_for_the_queue_of_a() -> None:
    """15 s, then 30, then a minute: thirty slow deletes in a row are no reason for a storm."""
    node = Judged().node
    assert [pause_s(node, Verb.DELETE, attempt, 2.0) for attempt in (1, 2, 3, 4)] == [15.0, 30.0, 60.0, 60.0]
