"""The score matrix on disk: a part file per batch while scoring, one parquet file at the end.

A part file is written whole or not at all, so that a killed evaluation resumes with the next batch. At most one window of
batches is held in memory.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from paft.runtime.errors import InputError
from paft.runtime.files import scratch_path, write_atomically

StoredCell: TypeAlias = dict[str, Any]  # one cell of the matrix, by the names of the schema

VERSION = 3  # of the schema and of what its values mean
SCHEMA = pa.schema([
    ("prompt", pa.int32()),  # index in the pool
    ("example", pa.int32()),  # index among the examples
    ("prompt_id", pa.string()),
    ("prompt_digest", pa.string()),  # of the template's text: by it prompts are matched across runs
    ("example_id", pa.string()),
    ("example_digest", pa.string()),  # of its fields and answer
    ("group", pa.string()),  # examples of one group (RACE: an article) are not independent
    ("part", pa.string()),
    ("n_choices", pa.int32()),  # 0 for free-form answers
    ("log_probs", pa.list_(pa.float32())),  # of each choice, summed over its tokens; empty where text was generated
    ("predicted", pa.int32()),  # index of a choice; -1: free-form, or the generated text holds no choice
    ("gold", pa.int32()),  # -1: free-form or unlabelled
    ("correct", pa.bool_()),  # in GRADED: float64, how right it is, from 0 to 1
    ("tied", pa.bool_()),  # another choice had the same score; the first of them was taken
    ("output", pa.string()),  # the generated text; null where choices were scored
    ("output_tokens", pa.int32()),  # of the generated text; 0 where choices were scored
    ("truncated", pa.bool_()),  # the rendering lost its beginning to the cut-off
])  # fmt: skip

# Of a metric that knows more than right and wrong. In a part file `correct` is null until a function has scored the texts.
GRADED = SCHEMA.set(SCHEMA.get_field_index("correct"), pa.field("correct", pa.float64()))
_REPEATED = ["prompt_id", "prompt_digest", "example_id", "example_digest", "group", "part"]  # in memory once each


@dataclass(frozen=True)
class Grading:
    """What scores texts once they are stored: a function of one's own, whose mistakes then lose no text.

    source identifies its code. score takes the index of an example and a text, and raises InputError for a mistake.
    """

    source: str
    score: Callable[[int, str], float]


def schema_of(rows: Sequence[StoredCell]) -> pa.Schema:
    """Return the schema of cells: SCHEMA if they are right or wrong, GRADED if they have scores, or none yet."""
    return SCHEMA if all(isinstance(row["correct"], bool) for row in rows) else GRADED


class MatrixStore:
    """Keeps the cells of one matrix: in part files in a hidden folder while scoring, then in `folder`/NAME.parquet.

    Args:
        identity: everything that the cells depend on, in plain types; another identity does not read these parts.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], name: str = "matrix") -> None:
        content = json.dumps([VERSION, identity], sort_keys=True)
        self.digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.path = folder / f"{name}.parquet"
        self.seconds_path = folder / f"{name}_seconds.json"
        self.parts = folder / f".{name}-{self.digest}"

    def finished(self) -> bool:
        """Return whether the file holds this matrix, undamaged. If so, part files left by a kill are removed."""
        try:
            if (pq.read_schema(self.path).metadata or {}).get(b"digest") != self.digest.encode():
                return False
            for _ in pq.ParquetFile(self.path, page_checksum_verification=True).iter_batches():
                pass  # verifies the checksums, page by page because a matrix may be larger than memory
            self.seconds()
        except (pa.ArrowException, OSError, ValueError):
            return False
        self._remove_parts()
        return True

    def load_part(self, batch: int, grading: Grading | None = None) -> list[StoredCell] | None:
        """Return the cells of a batch, None if it was not scored yet or its file is damaged.

        Args:
            grading: what scores texts: scores of another version of it are left out (None).
        """
        path = self._part(batch)
        try:
            table = pq.read_table(path, page_checksum_verification=True) if path.is_file() else None
        except (pa.ArrowException, OSError, ValueError):  # ValueError: a column's name is not valid UTF-8
            return None
        if table is None or grading is None or _scored_by(table.schema) == grading.source:
            return None if table is None else table.to_pylist()
        return [row | {"correct": None} for row in table.to_pylist()]

    def save_part(
        self, batch: int, rows: Sequence[StoredCell], seconds: Mapping[str, float], grading: Grading | None = None
    ) -> None:
        """Write the cells of a batch, whole or not at all.

        Args:
            seconds: the time that the batch took, by prompt id; stored in the file's metadata, because the cells themselves
                must not differ from run to run.
            grading: what has scored the texts; None: they have no scores yet, or need none.
        """
        self.parts.mkdir(parents=True, exist_ok=True)
        path = self._part(batch)
        scratch = path.with_suffix(".tmp")
        schema = _with(schema_of(rows), grading, seconds=json.dumps(seconds))
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), scratch, write_page_checksum=True)
        scratch.replace(path)

    def save_scores(self, batch: int, rows: Sequence[StoredCell], grading: Grading) -> None:
        """Write the cells of a stored batch again, now that their texts have scores."""
        metadata = pq.read_schema(self._part(batch)).metadata
        self.save_part(batch, rows, json.loads(metadata[b"seconds"]), grading)

    def finish(self, windows: Sequence[Sequence[int]], grading: Grading | None = None) -> None:
        """Merge the part files into the matrix file, sorted by prompt and example, and remove them.

        Args:
            windows: the numbers of each window's batches; a window's cells are contiguous in the sorted matrix.
            grading: what has scored the texts of all batches; None: each answer had its score at once.
        """
        seconds: dict[str, float] = {}
        scratch = scratch_path(self.path)
        graded = pq.read_schema(self._part(windows[0][0])).field("correct").type == pa.float64()
        schema = _with(GRADED if graded else SCHEMA, grading, **self._metadata)
        with pq.ParquetWriter(scratch, schema, write_page_checksum=True) as writer:
            for window in windows:
                tables = [pq.read_table(self._part(batch)) for batch in window]
                for table in tables:
                    for prompt, s in json.loads(table.schema.metadata[b"seconds"]).items():
                        seconds[prompt] = seconds.get(prompt, 0.0) + s
                cells = pa.concat_tables([table.replace_schema_metadata() for table in tables])
                writer.write_table(cells.sort_by([("prompt", "ascending"), ("example", "ascending")]).cast(schema))
        write_atomically(self.seconds_path, json.dumps(seconds, indent=1) + "\n")
        scratch.replace(self.path)
        self._remove_parts()

    def grade(self, grading: Grading) -> None:
        """Score the texts of the finished matrix anew if another version of the function has; they are kept as they are.

        Raises InputError if the function makes a mistake; the scores are then as before.
        """
        file = pq.ParquetFile(self.path, page_checksum_verification=True)
        if _scored_by(file.schema_arrow) == grading.source:
            return
        scratch, schema = scratch_path(self.path), _with(GRADED, grading, **self._metadata)
        column = GRADED.get_field_index("correct")
        with pq.ParquetWriter(scratch, schema, write_page_checksum=True) as writer:
            for group in range(file.num_row_groups):
                cells = file.read_row_group(group)
                texts = zip(cells["example"].to_pylist(), cells["output"].to_pylist(), strict=True)
                scores = pa.array([grading.score(example, text) for example, text in texts], pa.float64())
                writer.write_table(cells.set_column(column, GRADED.field(column), scores).cast(schema))
        scratch.replace(self.path)

    @property
    def _metadata(self) -> dict[str, str]:
        return {"digest": self.digest, "version": str(VERSION)}

    def _remove_parts(self) -> None:
        for parts in self.path.parent.glob(f".{self.path.stem}-*"):  # also those of other settings
            shutil.rmtree(parts, ignore_errors=True)

    def seconds(self) -> dict[str, float]:
        """Return the time that scoring took, in seconds by prompt id, summed over all processes that took part."""
        seconds: dict[str, float] = json.loads(self.seconds_path.read_text(encoding="utf-8"))
        return seconds

    def _part(self, batch: int) -> Path:
        return self.parts / f"{batch:06}.parquet"


def _with(schema: pa.Schema, grading: Grading | None, **metadata: str) -> pa.Schema:
    """Return a schema with metadata that also say what has scored the texts."""
    return schema.with_metadata(metadata if grading is None else {**metadata, "scored_by": grading.source})


def _scored_by(schema: pa.Schema) -> str | None:
    source = (schema.metadata or {}).get(b"scored_by")
    return None if source is None else source.decode()


def read_cells(path: Path, columns: Sequence[str] | None = None, where: Any = None) -> pa.Table:
    """Read cells of a finished matrix, as a table of the columns of SCHEMA.

    Args:
        columns: their names; None: all.
        where: pyarrow's filters, e.g. [("prompt", "=", 3)]; None: all cells.

    Raises InputError if the file is missing, damaged or of another version.
    """
    try:
        schema = pq.read_schema(path)
        version = (schema.metadata or {}).get(b"version", b"1").decode()
        if version == str(VERSION):
            if not schema.equals(SCHEMA) and not schema.equals(GRADED):
                raise pa.ArrowInvalid("its columns are others")
            names = None if columns is None else list(columns)
            cells = pq.read_table(
                path, columns=names, filters=where, read_dictionary=_REPEATED, page_checksum_verification=True
            )
            cells.validate(full=True)
            return cells
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such score matrix; give the folder of a finished run.") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a column's name is not valid UTF-8
        raise InputError(f"{path}: this score matrix is damaged ({type(error).__name__}); evaluate the run again.") from None
    raise InputError(f"{path}: this score matrix is of version {version}, this code reads {VERSION}; evaluate the run again.")
