"""`python -m clusterctl.broker`: the embedded MQTT broker, for machines without mosquitto.

MQTT 3.1.1, a few thousand messages a second; it keeps nothing on disk and nothing for a client that is away.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import warnings
from typing import Any, Final

from amqtt.broker import Broker
from amqtt.errors import BrokerError
from amqtt.mqtt.connect import ConnectPacket, ConnectPayload

from cluster import log_stream

_MQTT_3_1_1: Final = 4


class _Payload(ConnectPayload):  # type: ignore[misc]
    """Of an MQTT 5 CONNECT amqtt would misread the properties and wait for ever, instead of refusing it at once."""

    @classmethod
    async def from_stream(cls, reader: Any, fixed_header: Any, variable_header: Any) -> Any:
        if variable_header.proto_level != _MQTT_3_1_1:
            return cls(client_id="refused")
        return await super().from_stream(reader, fixed_header, variable_header)


def main() -> int:
    """Serve until SIGTERM or SIGINT; exit status 1 where the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m clusterctl.broker", description="The embedded MQTT broker.")
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS")
    parser.add_argument("--port", type=int, default=10003)
    arguments = parser.parse_args()
    log_stream.install()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    warnings.simplefilter("ignore", DeprecationWarning)  # amqtt's own, of no use to an operator
    try:
        asyncio.run(_serve(arguments.bind, arguments.port))
    except BrokerError as error:
        logging.getLogger(__name__).error("cannot listen on %s:%d: %s", arguments.bind, arguments.port, error)
        return 1
    return 0


async def _serve(bind: str, port: int) -> None:
    ConnectPacket.PAYLOAD = _Payload
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"{bind}:{port}"}}, "plugins": anonymous})
    await broker.start()
    await ended.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2.0):
            await broker.shutdown()


if __name__ == "__main__":
    raise SystemExit(main())
