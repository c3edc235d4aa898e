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
from paft.runtime.files import write_atomically

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

# Of a metric that knows more than right and wrong. In part files `correct` is null until a function has scored the texts.
GRADED = SCHEMA.set(SCHEMA.get_field_index("correct"), pa.field("correct", pa.float64()))
_REPEATED = ["prompt_id", "prompt_digest", "example_id", "example_digest", "group", "part"]  # in memory once each


@dataclass(frozen=True)
class Grading:
    """What scores texts once they are stored: a function of one's own, whose mistakes then lose no text.

    source identifies its code; score takes the index of an example and a text.
    """

    source: str
    score: Callable[[int, str], float]

    def of(self, cells: pa.Table) -> pa.Table:
        """Return cells with their scores; raises InputError if the function makes a mistake."""
        texts = zip(cells["example"].to_pylist(), cells["output"].to_pylist(), strict=True)
        scores = pa.array([self.score(example, text) for example, text in texts], pa.float64())
        return cells.set_column(cells.schema.get_field_index("correct"), GRADED.field("correct"), scores)


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

    def load_part(self, batch: int) -> list[StoredCell] | None:
        """Return the cells of a batch, None if it was not scored yet or its file is damaged."""
        path = self._part(batch)
        try:
            return pq.read_table(path, page_checksum_verification=True).to_pylist() if path.is_file() else None
        except (pa.ArrowException, OSError, ValueError):  # ValueError: a column's name is not valid UTF-8
            return None

    def save_part(self, batch: int, rows: Sequence[StoredCell], seconds: Mapping[str, float]) -> None:
        """Write the cells of a batch, whole or not at all.

        Args:
            seconds: the time that the batch took, by prompt id; stored in the file's metadata, because the cells themselves
                must not differ from run to run.
        """
        self.parts.mkdir(parents=True, exist_ok=True)
        path = self._part(batch)
        scratch = path.with_suffix(".tmp")
        schema = schema_of(rows).with_metadata({"seconds": json.dumps(seconds)})
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), scratch, write_page_checksum=True)
        scratch.replace(path)

    def finish(self, windows: Sequence[Sequence[int]], grading: Grading | None = None) -> None:
        """Merge the part files into the matrix file, sorted by prompt and example, and remove them.

        Args:
            windows: the numbers of each window's batches; a window's cells are contiguous in the sorted matrix.
            grading: scores the texts; None: their scores are in the part files.

        Raises InputError if the function that scores makes a mistake; the part files are then kept.
        """
        seconds: dict[str, float] = {}
        scratch = self.path.with_name(f".{self.path.name}.tmp")
        graded = pq.read_schema(self._part(windows[0][0])).field("correct").type == pa.float64()
        schema = self._schema(GRADED if graded else SCHEMA, grading)
        with pq.ParquetWriter(scratch, schema, write_page_checksum=True) as writer:
            for window in windows:
                tables = [pq.read_table(self._part(batch)) for batch in window]
                for table in tables:
                    for prompt, s in json.loads(table.schema.metadata[b"seconds"]).items():
                        seconds[prompt] = seconds.get(prompt, 0.0) + s
                cells = pa.concat_tables([table.replace_schema_metadata() for table in tables])
                cells = cells.sort_by([("prompt", "ascending"), ("example", "ascending")])
                writer.write_table((cells if grading is None else grading.of(cells)).cast(schema))
        write_atomically(self.seconds_path, json.dumps(seconds, indent=1) + "\n")
        scratch.replace(self.path)
        self._remove_parts()

    def grade(self, grading: Grading) -> None:
        """Score the texts of the finished matrix anew if another version of the function has; they are kept as they are.

        Raises InputError if the function makes a mistake; the scores are then as before.
        """
        file = pq.ParquetFile(self.path, page_checksum_verification=True)
        if (file.schema_arrow.metadata or {}).get(b"scored_by") == grading.source.encode():
            return
        scratch, schema = self.path.with_name(f".{self.path.name}.tmp"), self._schema(GRADED, grading)
        with pq.ParquetWriter(scratch, schema, write_page_checksum=True) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(grading.of(file.read_row_group(group)).cast(schema))
        scratch.replace(self.path)

    def _schema(self, of: pa.Schema, grading: Grading | None) -> pa.Schema:
        scored_by = {} if grading is None else {"scored_by": grading.source}
        return of.with_metadata({"digest": self.digest, "version": str(VERSION), **scored_by})

    def _remove_parts(self) -> None:
        for parts in self.path.parent.glob(f".{self.path.stem}-*"):  # also those of other settings
            shutil.rmtree(parts, ignore_errors=True)

    def seconds(self) -> dict[str, float]:
        """Return the time that scoring took, in seconds by prompt id, summed over all processes that took part."""
        seconds: dict[str, float] = json.loads(self.seconds_path.read_text(encoding="utf-8"))
        return seconds

    def _part(self, batch: int) -> Path:
        return self.parts / f"{batch:06}.parquet"


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
