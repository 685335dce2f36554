"""Rows on the disk: what is there is not made again, unless what decides it has changed."""

import json
from pathlib import Path

from dreamforge.files import atomic_write
from dreamforge.reproduce.lab import Row


class Rows:
    """A JSON line for every row, by its key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        self.rows: dict[str, Row] = {row["key"]: row for row in map(json.loads, lines)}

    def get(self, key: str, digest: str) -> Row | None:
        """The row, None where there is none or one of other settings."""
        row = self.rows.get(key)
        return row if row is not None and row["digest"] == digest else None

    def put(self, row: Row) -> None:
        self.rows[row["key"]] = row
        atomic_write(self.path, "".join(json.dumps(one) + "\n" for one in self.rows.values()).encode())
