"""What was recorded between real roots and a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "root_link"


def load(name: str) -> dict[str, Any]:
    """One recording, such as "R1/05-cs1"."""
    recorded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return recorded


def names(pattern: str) -> list[str]:
    """The recordings that fit, such as "R1/*-sc2"."""
    return sorted(str(path.relative_to(FOLDER))[: -len(".json")] for path in FOLDER.glob(f"{pattern}.json"))
