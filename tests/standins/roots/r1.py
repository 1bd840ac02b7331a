"""A root R1 (2023): socket.io registration with pairing and secret keys, on the library that the real one uses."""

from __future__ import annotations

import json
from typing import Any

import socketio

from standins.roots.data import Cluster
from standins.roots.reports import take_r1
from standins.roots.root import Root, fresh
from standins.roots.tokens import InvalidTokenError, sign, verify

UNKNOWN = (
    "The cluster information is incorrect or the cluster is not yet registered, please check with your administrator"
)
PAIRED = "The pairing was already completed; please authenticate with the cluster's secret key"
MISMATCH = "Your pairing key does not match the one generated for your cluster"


class R1(Root):
    """The generation of 2023; `secret_life_s` and `pairing_life_s` are the lives of its keys."""

    deploy_route = "/api/deploy/{}/{}"
    delete_route = "/api/delete/{}/{}"
    delete_method = "GET"

    def __init__(self, *, secret_life_s: float = 30 * 86400, pairing_life_s: float = 5 * 3600) -> None:
        super().__init__()
        self.secret_life_s = secret_life_s
        self.pairing_life_s = pairing_life_s
        self.registrations: list[dict[str, Any]] = []
        self.is_silent = False

    def add_cluster(self, name: str = "cluster-1", user_name: str = "Admin", location: str = "48.1,11.6,1000") -> str:
        """What an administrator does at the dashboard; answers the pairing key."""
        key = sign(self.signing_key, user_name, "addClusterAPI", self.pairing_life_s, name)
        with self.data.lock:
            cluster = self.data.by_name(name, user_name)
            if cluster is None:
                cluster = fresh(name, user_name=user_name, location=location)
                self.data.clusters[cluster.id] = cluster
            cluster.pairing_key = key
        return key

    def application(self) -> Any:
        """The HTTP API beside socket.io."""
        server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
        server.on("connect", self._on_connect(server), namespace="/register")
        server.on("cs1", self._on_cs1(server), namespace="/register")
        return socketio.ASGIApp(server, super().application())

    def entry(self, cluster: Cluster) -> dict[str, Any]:
        """As the real one writes it; a ghost has no name."""
        document: dict[str, Any] = {"_id": {"$oid": cluster.id}}
        if not cluster.is_ghost:
            document |= {"cluster_name": cluster.name, "cluster_location": cluster.location}
            document |= {"user_name": cluster.user_name, "pairing_complete": cluster.is_paired}
        if cluster.port:
            document |= {"ip": cluster.ip, "clusterinfo": {}, "port": cluster.port}
        return document

    def take(self, cluster_id: str, body: Any) -> tuple[int, list[str]]:
        """A report."""
        return take_r1(self.data, cluster_id, body)

    def _on_connect(self, server: socketio.AsyncServer) -> Any:
        async def connect(sid: str, environ: dict[str, Any]) -> None:
            await server.save_session(sid, {"ip": environ["asgi.scope"]["client"][0]}, namespace="/register")
            greeting = {"Hello-Cluster_Manager": "please send your cluster info"}
            await server.emit("sc1", greeting, to=sid, namespace="/register")

        return connect

    def _on_cs1(self, server: socketio.AsyncServer) -> Any:
        async def cs1(sid: str, message: Any) -> None:
            session = await server.get_session(sid, namespace="/register")
            if not isinstance(message, dict) or "network_component_port" not in message or self.is_silent:
                return
            self.registrations.append(message)
            with self.data.lock:
                answer = self._answer(message, session["ip"])
            if answer is not None:
                await server.emit("sc2", json.dumps(answer), to=sid, namespace="/register")

        return cs1

    def _answer(self, message: dict[str, Any], ip: str) -> dict[str, str] | None:
        cluster = self.data.by_name(message.get("cluster_name", ""), message.get("user_name"))
        if cluster is None:
            return {"error": UNKNOWN}
        if cluster.is_paired and "secret_key" not in message:
            return None
        if cluster.is_paired and message["secret_key"] == "":
            return {"warning": PAIRED, "id": cluster.id}
        try:
            return self._admit(cluster, message, ip)
        except InvalidTokenError as error:
            return {"error": str(error)}

    def _admit(self, cluster: Cluster, message: dict[str, Any], ip: str) -> dict[str, str]:
        key = message["secret_key"] if cluster.is_paired else message["pairing_key"]
        claims = verify(self.signing_key, key)
        if claims["clusterName"] != cluster.name or claims["sub"] != cluster.user_name:
            raise InvalidTokenError(MISMATCH)
        if "manager_port" not in message:
            raise InvalidTokenError("'manager_port'")
        cluster.is_paired, cluster.ip, cluster.port = True, ip, message["manager_port"]
        cluster.location = message["cluster_location"]
        secret = sign(self.signing_key, cluster.user_name, "connectCluster", self.secret_life_s, cluster.name)
        return {"id": cluster.id, "secret_key": secret}
