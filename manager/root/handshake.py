"""Getting admitted: which dialect the root speaks, the keys to try, and what to tell the operator when it refuses.

Every registration writes the location of the cluster at the root, in all generations (recordings R1/25 and R3/03), and
it cannot be left out. Where none is set, what the root itself has is sent back: an administrator may have put it there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from manager.domain.roots import Era
from manager.root import registration, socketio
from manager.root.errors import RootAwayError, RootRefusedError
from manager.root.keys import Attempt, advice, attempts_of
from manager.root.settings import RootSettings
from manager.root.socketio import Admission, NoAnswerError
from manager.root.web import RootWeb, known_location


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """An admission, and the era of the root as far as the registration shows it."""

    admission: Admission
    era: Era


async def find_era(web: RootWeb, settings: RootSettings) -> Era:
    """The era that was set, else what a probe finds: gRPC first, then socket.io. Raises RootAwayError."""
    if settings.root_dialect != "auto":
        return Era(settings.root_dialect)
    if await registration.is_spoken(settings):
        return Era.UNDECIDED
    if await socketio.is_spoken(web):
        return Era.R1
    raise RootAwayError(
        f"{web.base_url} speaks no socket.io and {settings.grpc_address} no gRPC: check SYSTEM_MANAGER_URL, or set "
        "ROOT_DIALECT"
    )


async def handshake(
    web: RootWeb, settings: RootSettings, saved_secret_key: str, saved_cluster_id: str = ""
) -> Admitted:
    """Be admitted. Raises RootRefusedError, whose text tells what to do, or RootAwayError."""
    era = await find_era(web, settings)
    settings = await _located(web, settings, saved_cluster_id)
    if era is Era.R1:
        return Admitted(admission=await _register_r1(web, settings, saved_secret_key), era=era)
    return Admitted(admission=await registration.register(settings), era=era)


async def _located(web: RootWeb, settings: RootSettings, cluster_id: str) -> RootSettings:
    """The settings with the location that the root has, where they name none."""
    if settings.cluster_location:
        return settings
    location = known_location(await web.clusters(), cluster_id, settings.cluster_name, settings.user_name)
    return settings.model_copy(update={"cluster_location": location})


async def _register_r1(web: RootWeb, settings: RootSettings, saved_secret_key: str) -> Admission:
    attempts = attempts_of(settings.cluster_pairing_key, settings.cluster_secret_key, saved_secret_key)
    if not attempts or not settings.user_name:
        raise RootRefusedError(
            f"this root admits no cluster without a key: add cluster {settings.cluster_name} at the root's dashboard, "
            "then set USER_NAME and CLUSTER_PAIRING_KEY as it shows them"
        )
    reasons: dict[str, None] = {}
    for attempt in attempts:
        try:
            return await socketio.register(web, settings, attempt)
        except (RootRefusedError, NoAnswerError) as error:
            reasons[_reason(error, attempt)] = None
    raise RootRefusedError(
        f"the root refused cluster {settings.cluster_name} of user {settings.user_name} ({'; '.join(reasons)}): add "
        "the cluster again at the root's dashboard, and set the CLUSTER_PAIRING_KEY that it shows"
    )


def _reason(error: Exception, attempt: Attempt) -> str:
    """The root's own words, and what the key itself tells."""
    known = advice(attempt.secret_key or attempt.pairing_key, time.time())
    return f"{error}, and {known}" if known else str(error)
