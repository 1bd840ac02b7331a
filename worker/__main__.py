"""`python -m worker`: the process on a node."""

from __future__ import annotations

import sys


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    # structlog would load rich for tracebacks on a terminal: 6 MB that a node does not have to spare
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from worker.service import run_worker

    sys.exit(run_worker(sys.argv[1:]))


if __name__ == "__main__":
    main()
