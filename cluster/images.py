"""Names of container images, short ones written in full. Pure.

A container engine reads `nginx` as `docker.io/library/nginx:latest`; containerd, which the worker engines of the
deployed ecosystem drive themselves, refuses it. Source: the reference grammar of the distribution project.
"""

from __future__ import annotations

from typing import Final

_DEFAULT_REGISTRY: Final = "docker.io"
_OFFICIAL: Final = "library"


def full_image_name(name: str) -> str:
    """The name with its registry, and with a tag or a digest."""
    first, separator, rest = name.partition("/")
    is_registry = separator and ("." in first or ":" in first or first == "localhost")
    if not is_registry:
        first, rest = _DEFAULT_REGISTRY, name if separator else f"{_OFFICIAL}/{name}"
    has_tag = "@" in rest or ":" in rest.rpartition("/")[2]
    return f"{first}/{rest}" if has_tag else f"{first}/{rest}:latest"
