"""The FastAPI application: routes, error answers, and the channels that live as long as it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from cluster.errors import ClusterError
from cluster.process import version
from gateway import openapi
from gateway.deploys import CALLS_AT_ONCE, Deploys
from gateway.peers import Peers
from gateway.problems import BodyTimeoutError, on_body_timeout, on_cluster_error, on_http_exception
from gateway.routes import ROUTERS
from gateway.settings import Settings
from gateway.tracing import RequestTracing


def create_app(settings: Settings) -> FastAPI:
    """The application; `state.peers` and `state.deploys` exist while it serves."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        peers = app.state.peers = Peers(settings)
        deploys = app.state.deploys = Deploys(peers, settings.call_timeout_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                senders = [tasks.create_task(deploys.run(), name=f"deploys {n}") for n in range(CALLS_AT_ONCE)]
                yield
                for sender in senders:
                    sender.cancel()
        finally:
            await peers.close()

    app = FastAPI(
        title="Cluster orchestrator",
        version=version(),
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # the pages that FastAPI serves load scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            ClusterError: on_cluster_error,
            HTTPException: on_http_exception,
            BodyTimeoutError: on_body_timeout,
        },
    )
    app.state.settings = settings
    app.add_middleware(RequestTracing)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app)
    return app
