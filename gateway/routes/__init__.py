"""The HTTP routes, one module per concern."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from gateway.routes import commands, events, instances, jobs, moves, nodes, orphans, registration, schedule, status

ROUTERS: Final[tuple[APIRouter, ...]] = tuple(
    module.router
    for module in (commands, registration, schedule, moves, nodes, orphans, jobs, instances, events, status)
)
