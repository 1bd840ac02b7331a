"""When each node was heard, and when anybody could be heard at all."""

from manager.domain.hearing import GAP_S, Hearing


def _listening(begin_s: float, end_s: float, hearing: Hearing | None = None) -> Hearing:
    """Echoes came back twice a second from one time to another."""
    hearing = hearing or Hearing(begin_s)
    for half in range(int(begin_s * 2), int(end_s * 2) + 1):
        hearing.echoed(half / 2)
    return hearing


def test_silence_is_known_up_to_the_newest_echo() -> None:
    """What was sent to the broker before the echo has been received; later nobody knows."""
    hearing = _listening(100.0, 110.0)
    assert hearing.as_of_s == 110.0
    assert hearing.listened_s(110.0) - hearing.listened_s(100.0) == 10.0
    assert hearing.is_listening(110.0 + GAP_S)
    assert not hearing.is_listening(110.1 + GAP_S)


def test_echoes_out_of_order_change_nothing() -> None:
    """An older echo that comes late is passed over."""
    hearing = _listening(100.0, 110.0)
    hearing.echoed(105.0)
    assert hearing.as_of_s == 110.0


def test_a_node_that_was_never_heard_is_forgotten_like_the_others() -> None:
    """Nothing is left of either."""
    hearing = _listening(100.0, 110.0)
    hearing.heard("a", 105.0)
    hearing.forget(["never", "a"])
    assert hearing.last_heard_s(["a", "never"]) is None


def test_an_outage_is_nobodys_silence() -> None:
    """While echoes stayed away nothing could be heard: that time is not listened time."""
    hearing = _listening(120.0, 130.0, _listening(100.0, 110.0))
    assert [(item.began_s, item.ended_s) for item in hearing.outages] == [(100.0, 100.0), (110.0, 120.0)]
    assert hearing.listened_s(130.0) - hearing.listened_s(105.0) == 15.0
    assert hearing.listened_s(115.0) == hearing.listened_s(110.0)


def test_a_broken_session_is_an_outage_however_short() -> None:
    """Messages at QoS 0 were lost meanwhile."""
    hearing = _listening(100.0, 110.0)
    hearing.deafen()
    assert not hearing.is_listening(110.0)
    hearing.echoed(111.0)
    assert hearing.longest_outage_s(100.5) == 1.0


def test_a_late_echo_is_no_outage() -> None:
    """Echoes that were all sent in time and came back late show that nothing was missed."""
    hearing = _listening(100.0, 110.0)
    for half in range(221, 250):
        hearing.echoed(half / 2)
    assert len(hearing.outages) == 1


def test_the_longest_outage_since_a_time_is_found() -> None:
    """What ended before a node was heard last does not count for it."""
    hearing = _listening(100.0, 101.0)
    for begin_s, end_s in ((110.0, 111.0), (140.0, 141.0), (146.0, 147.0), (150.0, 151.0)):
        _listening(begin_s, end_s, hearing)
    assert hearing.longest_outage_s(100.5) == 29.0
    assert hearing.longest_outage_s(140.5) == 5.0
    assert hearing.longest_outage_s(146.5) == 3.0
    assert hearing.longest_outage_s(151.0) == 0.0


def test_a_begin_after_deafness_is_an_outage() -> None:
    """A manager that was away itself does not know who spoke meanwhile."""
    hearing = Hearing(100.0, deaf_s=40.0)
    assert hearing.origin_s == 60.0
    hearing.echoed(101.0)
    assert hearing.longest_outage_s(hearing.origin_s) == 41.0


def test_thousands_of_outages_are_not_remembered_for_ever() -> None:
    """A link that flaps for days fills no memory, and recent silence is still measured rightly."""
    hearing = Hearing(0.0)
    for number in range(5000):
        hearing.echoed(number * 10.0)
        hearing.echoed(number * 10.0 + 1.0)
    assert len(hearing.outages) <= 1000
    assert hearing.listened_s(49_991.0) - hearing.listened_s(49_890.0) == 11.0


def test_the_newest_sign_of_life_under_any_id_counts() -> None:
    """A node may speak under its own id and under an alias."""
    hearing = Hearing(0.0)
    hearing.heard("a", 5.0)
    hearing.heard("b", 7.0)
    assert hearing.last_heard_s(("a", "b")) == 7.0
    assert hearing.last_heard_s(("c",)) is None
    hearing.forget(("a", "b"))
    assert hearing.last_heard_s(("a", "b")) is None


def test_what_is_told_late_does_not_put_the_clock_back() -> None:
    """The newest sign of life counts, in whatever order they are noted."""
    hearing = Hearing(0.0)
    hearing.heard("n0", 5.0)
    hearing.heard("n0", 3.0)
    assert hearing.last_heard_s(["n0"]) == 5.0


def test_a_node_is_back_when_it_is_first_heard_after_the_last_outage() -> None:
    """Until then nobody knows; what it says later does not count as another return."""
    hearing = Hearing(0.0)
    hearing.echoed(1.0)
    hearing.heard("n0", 2.0)
    assert hearing.back_s(["n0"]) == 2.0
    hearing.deafen()
    hearing.echoed(20.0)
    assert hearing.back_s(["n0"]) is None
    hearing.heard("n0", 25.0)
    hearing.heard("n0", 27.0)
    assert hearing.back_s(["n0"]) == 25.0


def test_who_is_heard_before_the_echo_comes_back_is_back() -> None:
    """The outage ended when the echo was sent: what arrived between that and its return came after the outage."""
    hearing = Hearing(0.0)
    hearing.echoed(1.0)
    hearing.heard("n0", 2.0)
    hearing.heard("n0", 20.5)
    hearing.echoed(20.0)
    assert hearing.back_s(["n0"]) == 20.5
    hearing.heard("n0", 22.5)
    assert 20.5 <= (hearing.back_s(["n0"]) or 0.0) <= 22.5
