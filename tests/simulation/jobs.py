"""What simulated clients ask for, and what simulated machines say of themselves."""

from cluster.jobs import JobSpec, Resources, RestartPolicy


def service(name: str, cpu_millicores: int = 500, **facts: object) -> JobSpec:
    """A job that runs for ever."""
    demand = Resources(cpu_millicores=cpu_millicores)
    plain = {"name": name, "image": "image", "technology": "docker", "demand": demand, "stop_grace_s": 2.0}
    return JobSpec(**{**plain, **facts})  # type: ignore[arg-type]


def one_shot(name: str, cpu_millicores: int = 500, **facts: object) -> JobSpec:
    """A job that ends by itself."""
    return service(name, cpu_millicores, one_shot=True, restart_policy=RestartPolicy.NEVER, **facts)
