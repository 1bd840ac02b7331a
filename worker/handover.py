"""Live moves as the machine sees them: a guest that is sent away, and one that is waited for.

source: RUNNING ─ MoveAnnounced ─► HandOver ─┬─ Exited(is_moved) ─► ENDED, STOPPED
└─ HandOverFailed ───► runs on
target: Start(is_live) ─ GuestAwaited ─► "incoming" is reported ─┬─ Started
└─ GuestMissed ─► booted afresh, then Started
"""

from __future__ import annotations

from typing import Final

from worker.records import (
    Cause,
    GuestAwaited,
    GuestMissed,
    HandOver,
    HandOverFailed,
    Instance,
    MoveAnnounced,
    Phase,
    Progressed,
    Status,
)
from worker.slots import Slots

OVER: Final = (Cause.DELETED, Cause.REPLACED, Cause.HANDED_OVER)
LEAVE_GRACE_S: Final = 2.0


def can_hand_over(item: Instance, event: MoveAnnounced) -> bool:
    """Whether its guest is to be sent now: it runs, somebody waits for it, and it is not on its way already."""
    return bool(event.incoming) and item.phase is Phase.RUNNING and not item.handing_over_to


def stop_grace_s(item: Instance) -> float:
    """A deletion follows close on the guest's arrival elsewhere: what is left here may tell of the hand-over first."""
    return max(item.spec.stop_grace_s, LEAVE_GRACE_S) if item.handing_over_to else item.spec.stop_grace_s


def cause_after_move(item: Instance) -> Cause:
    """Why it ended whose guest went away: a deletion or a newer generation stays the reason."""
    return item.cause if item.cause in OVER else Cause.HANDED_OVER


class Handovers(Slots):
    """What the machine does about live moves; all else of a start goes on as ever."""

    def _move_announced(self, event: MoveAnnounced, now: float) -> None:
        del now
        item = self.instances.get(event.ref)
        if item is None:
            return
        if can_hand_over(item, event):
            item = self._put(item, handing_over_to=event.target)
            self._emit(HandOver(item.ref, item.spec, event.target, event.incoming))
        else:
            self._publish(item)

    def _hand_over_failed(self, event: HandOverFailed, now: float) -> None:
        del now
        item = self.instances.get(event.ref)
        if item and item.handing_over_to:
            words = f"the live move to {item.handing_over_to} failed: {event.reason}; it runs on here"
            self._report(self._put(item, handing_over_to=""), item.status, words)

    def _guest_awaited(self, event: GuestAwaited, now: float) -> None:
        del now
        item = self.instances.get(event.ref)
        if item and item.phase is Phase.STARTING:
            item = self._put(item, incoming=event.incoming)
            self._report(item, Status.STARTING, "waiting for its running guest")

    def _guest_missed(self, event: GuestMissed, now: float) -> None:
        del now
        item = self.instances.get(event.ref)
        if item and item.phase is Phase.STARTING:
            item = self._put(item, incoming="")
            self._report(item, Status.STARTING, f"{event.reason}; booting the image afresh")

    def _progressed(self, event: Progressed, now: float) -> None:
        del now
        item = self.instances.get(event.ref)
        if item and (item.phase is Phase.STARTING or item.handing_over_to):
            self._report(item, item.status, event.detail)
