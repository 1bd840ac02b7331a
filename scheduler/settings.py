"""The settings of the scheduler, from the environment or `.env`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.process import ProcessSettings


class SchedulerSettings(ProcessSettings):
    """Read once in `__main__`. A port of 0 for the metrics turns them off."""

    bind: str = "127.0.0.1"
    scheduler_port: Annotated[int, Field(ge=1, le=65535)] = 10105
    scheduler_metrics_port: Annotated[int, Field(ge=0, le=65535)] = 10106
    manager_address: str = "127.0.0.1:10101"
    scheduler_scorer: Literal["least_allocated", "pack"] = "least_allocated"
