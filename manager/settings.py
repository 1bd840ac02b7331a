"""The manager's settings, read once in `__main__`."""

from __future__ import annotations

from pydantic import Field

from cluster.process import ProcessSettings
from manager.domain.leases import LeaseRules
from manager.domain.policy import Policy


class ManagerSettings(ProcessSettings):
    """Environment variables of the same names in capitals; `.env` in the working directory is read as well."""

    bind: str = "127.0.0.1"
    manager_port: int = 10101
    manager_metrics_port: int = 10001
    scheduler_address: str = "127.0.0.1:10105"
    mqtt_broker_host: str = "127.0.0.1"
    mqtt_broker_port: int = 10003
    mqtt_advertised_port: int = Field(default=0, description="what workers are told; 0: mqtt_broker_port")
    mqtt_client_id: str = ""
    store_url: str = "sqlite:///data/cluster.db"
    cluster_name: str = "cluster"
    lease_s: float = Field(default=10.0, gt=0)
    grace_s: float = Field(default=5.0, ge=0)
    will_grace_s: float = Field(default=10.0, ge=0, description="from a node's last will until it is DOWN")
    mass_expiry_share: float = Field(default=0.3, ge=0, le=1)
    mass_expiry_count: int = Field(default=2, ge=1)
    mass_hold_s: float = Field(
        default=120.0, ge=0, description="how long nodes that fell silent together are waited for"
    )
    return_cap_s: float = Field(
        default=600.0, ge=0, description="after an outage a node has as long again to return, at most this"
    )
    schedule_deadline_s: float = Field(default=30.0, gt=0)
    start_deadline_s: float = Field(default=600.0, gt=0)
    retry_base_s: float = Field(default=1.0, gt=0)
    retry_cap_s: float = Field(default=300.0, gt=0)
    retention_s: float = Field(default=86_400.0, ge=0)
    refence_s: float = Field(
        default=10.0, ge=0, description="how long an engine does not get an instance again that just ended there"
    )
    engine_period_s: float = Field(default=2.0, gt=0, description="how often worker engines send their lists")

    def policy(self) -> Policy:
        """The times of the life cycle."""
        return Policy(
            schedule_deadline_ms=int(self.schedule_deadline_s * 1000),
            start_deadline_ms=int(self.start_deadline_s * 1000),
            retry_base_ms=int(self.retry_base_s * 1000),
            retry_cap_ms=int(self.retry_cap_s * 1000),
            retention_ms=int(self.retention_s * 1000),
            refence_ms=int(self.refence_s * 1000),
            engine_period_ms=int(self.engine_period_s * 1000),
        )

    def lease_rules(self) -> LeaseRules:
        """When a node is judged."""
        return LeaseRules(
            lease_s=self.lease_s,
            grace_s=self.grace_s,
            will_grace_s=self.will_grace_s,
            mass_share=self.mass_expiry_share,
            mass_count=self.mass_expiry_count,
            hold_s=self.mass_hold_s,
            return_cap_s=self.return_cap_s,
        )
