"""The catalog as a table, from ``catalog.json``, so that ``reslab models`` answers without importing torch.

``make docs`` writes the file by building and counting every network; a test counts them again.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

CATALOG_FILE = Path(__file__).with_name("catalog.json")


def catalog_rows(pattern: str = "*") -> list[dict[str, Any]]:
    """Rows of the networks whose names match a shell pattern, in the catalog's order; keys as ``describe_model``'s.

    Example:
        >>> [row["num_parameters"] for row in catalog_rows("plain20")]
        [269722]
    """
    rows: list[dict[str, Any]] = json.loads(CATALOG_FILE.read_text(encoding="utf-8"))
    return [row for row in rows if fnmatchcase(row["name"], pattern)]
