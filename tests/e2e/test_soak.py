"""Random outages of every part over real processes, workers of ours and engines: nothing healthy is touched."""

import os
import random
import signal

import pytest
from e2e.soaking import Soak, soak_for, soaking

from testbed.operating import copies_of

pytestmark = pytest.mark.real("mosquitto")


def seed() -> int:
    """SOAK_SEED, else one that is printed."""
    return int(os.environ.get("SOAK_SEED") or random.randrange(1_000_000))


@pytest.mark.timeout(900)
def test_random_outages_for_a_short_time_touch_nothing() -> None:
    """A few outages of a few seconds: every copy is the one of before, everything acknowledged is kept."""
    found = soak_for(25.0, seed(), longest_s=4.0)
    assert found.violations == []
    assert found.outages.total() >= 1


@pytest.mark.timeout(900)
def test_a_violation_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is killed amid an outage, and restarted by its worker, is told as touched."""
    with soaking(seed(), longest_s=2.0) as soak:

        def murder() -> None:
            os.kill(copies_of(soak.made)[0].pid, signal.SIGKILL)

        monkeypatch.setattr(Soak, "kinds", lambda _: [murder])
        soak.round()
        assert ["after murder" in text and "became" in text for text in soak.violations] == [True]


@pytest.mark.nightly
@pytest.mark.timeout(86400)
def test_soak_of_random_outages() -> None:
    """The same for ten minutes, or SOAK_S seconds, with outages of up to 25 s."""
    found = soak_for(float(os.environ.get("SOAK_S", "600")), seed(), longest_s=25.0)
    assert found.violations == []
