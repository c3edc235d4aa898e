"""The score matrix on disk: a part file per batch while scoring, one parquet file at the end.

A batch is written once and whole, so that a killed evaluation goes on where it was.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

Row: TypeAlias = dict[str, Any]  # one cell of the matrix, by the names of the schema

_VERSION = 1  # of the schema and of what its values mean
SCHEMA = pa.schema([
    ("prompt", pa.int32()),  # place in the pool
    ("example", pa.int32()),  # place among the examples
    ("prompt_id", pa.string()),
    ("example_id", pa.string()),
    ("group", pa.string()),  # examples that share one (RACE: an article) are no independent evidence
    ("part", pa.string()),
    ("log_probs", pa.list_(pa.float32())),  # of each choice, summed over its tokens; empty for free-form answers
    ("predicted", pa.int32()),  # a choice; -1 for free-form answers
    ("gold", pa.int32()),
    ("correct", pa.bool_()),
    ("output", pa.string()),  # what was generated; null where choices were scored
    ("truncated", pa.bool_()),  # the prompt lost its beginning to the cut-off
])  # fmt: skip


class MatrixStore:
    """Where the cells of one matrix are kept: `folder`/matrix.parquet, and parts in a hidden folder until then.

    Args:
        identity: everything that matters to the cells, in plain types; another identity never finds these parts.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        content = json.dumps([_VERSION, identity], sort_keys=True)
        self.digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.path = folder / "matrix.parquet"
        self.parts = folder / f".matrix-{self.digest}"

    def load(self) -> list[Row] | None:
        """Return the finished matrix, if this is what the file holds."""
        if not self.path.is_file():
            return None
        try:
            table = pq.read_table(self.path)
        except (pa.ArrowException, OSError):  # damaged: the cells are scored again
            return None
        return table.to_pylist() if (table.schema.metadata or {}).get(b"digest") == self.digest.encode() else None

    def load_part(self, batch: int) -> list[Row] | None:
        """Return the cells of a batch, if it was scored before."""
        path = self.parts / f"{batch:06}.parquet"
        try:
            return pq.read_table(path).to_pylist() if path.is_file() else None
        except (pa.ArrowException, OSError):  # torn: the batch is scored again
            return None

    def save_part(self, batch: int, rows: Sequence[Row]) -> None:
        """Write the cells of a batch, whole or not at all."""
        self.parts.mkdir(parents=True, exist_ok=True)
        self._write(self.parts / f"{batch:06}.parquet", rows)

    def save(self, rows: Sequence[Row]) -> None:
        """Write the finished matrix, sorted by prompt and example, and remove its parts."""
        self._write(self.path, sorted(rows, key=lambda row: (row["prompt"], row["example"])))
        for parts in self.path.parent.glob(".matrix-*"):  # those of other settings too
            shutil.rmtree(parts, ignore_errors=True)

    def _write(self, path: Path, rows: Sequence[Row]) -> None:
        scratch = path.with_name(f".{path.name}.tmp")
        schema = SCHEMA.with_metadata({"digest": self.digest})
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), scratch)
        scratch.replace(path)
