"""`clusterctl …` and `python -m clusterctl …`."""

from __future__ import annotations

from clusterctl.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="clusterctl")


if __name__ == "__main__":
    main()
