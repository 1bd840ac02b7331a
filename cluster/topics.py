"""The MQTT topics of a node, and the grammar of the ids in them.

A topic is `nodes/{id}/{channel}`. Workers write INFORMATION, STATE, RESOURCES and CONNECTION and read CONTROLS and
LEASE; worker engines of the deployed ecosystem read CONTROL_DEPLOY and CONTROL_DELETE instead of CONTROLS.
Everything under `nodes/{id}/net/` belongs to the network plug-in and is left alone.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

NODE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}\Z")


class Channel(StrEnum):
    """What follows the node's id in a topic."""

    INFORMATION = "information"
    STATE = "job"
    RESOURCES = "jobs/resources"
    CONNECTION = "connection"
    CONTROLS = "controls"
    LEASE = "lease"
    CONTROL_DEPLOY = "control/deploy"
    CONTROL_DELETE = "control/delete"
    CONTROL_ERROR = "control/error"


FROM_NODES: Final = (Channel.INFORMATION, Channel.STATE, Channel.RESOURCES, Channel.CONNECTION)
_CHANNELS: Final = {channel.value: channel for channel in Channel}


def topic(node_id: str, channel: Channel) -> str:
    """The topic of one node, e.g. `nodes/5f…/information`. Raises ValueError for an id that no topic can hold."""
    if not NODE_ID.match(node_id):
        raise ValueError(f"{node_id!r} cannot stand in a topic")
    return f"nodes/{node_id}/{channel.value}"


def subscription(channel: Channel) -> str:
    """The filter that matches a channel of every node."""
    return f"nodes/+/{channel.value}"


def parse(name: str) -> tuple[str, Channel] | None:
    """Node id and channel of a topic; None for a topic that is not ours."""
    parts = name.split("/", 2)
    if len(parts) != 3 or parts[0] != "nodes" or not NODE_ID.match(parts[1]):
        return None
    channel = _CHANNELS.get(parts[2])
    return (parts[1], channel) if channel else None
