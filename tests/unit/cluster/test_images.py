"""Short names of images in full (section 6 of the reliability work)."""

import pytest

from cluster.images import full_image_name


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("demo/web:1.0", "docker.io/demo/web:1.0"),
        ("demo/web", "docker.io/demo/web:latest"),
        ("a/b/c", "docker.io/a/b/c:latest"),
        ("docker.io/library/nginx:1", "docker.io/library/nginx:1"),
        ("registry.example:5000/web", "registry.example:5000/web:latest"),
        ("registry:5000/team/web:2", "registry:5000/team/web:2"),
        ("localhost/web", "localhost/web:latest"),
        ("web@sha256:0123", "docker.io/library/web@sha256:0123"),
        ("ghcr.io/o/r@sha256:0123", "ghcr.io/o/r@sha256:0123"),
    ],
)
def test_6_a_short_name_means_what_it_means_to_a_container_engine(name: str, full: str) -> None:
    """The default registry, its library for a single word, and the tag `latest`; what is there stays."""
    assert full_image_name(name) == full
    assert full_image_name(full) == full
