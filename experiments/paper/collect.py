"""Finding finished runs and telling which cell of which experiment each is."""

import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from paft.cli.hydra_app import FAILED
from paft.config.compose import CONF, from_dict, parse
from paft.evaluation.matrix import ScoreMatrix, read_matrix
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

# What cells of one data set may differ in; all else must be alike for their numbers to stand in one table.
_OF_A_CELL = {"method", "K", "T", "seed", "schedule", "train_prompts"}
_WAY = ("scoring", "normalise", "max_new_tokens", "stop_at_line_break")  # of scoring: what must be alike
_LEFT_OUT = "left_out.json"  # in a folder of kept runs: what the report said of others
_NO_CONFIG = (HydraException, OmegaConfBaseException, ValueError)  # ValueError: Hydra's answer to model=null
_PLACES = ("output_root=", "data_root=")

_DAMAGED = "its results.json is damaged; delete it and give the same command again"


@dataclass(frozen=True)
class Cell:
    """A finished training run."""

    folder: Path
    results: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config, in plain types."""
        return self.results["config"]

    @property
    def prompts(self) -> str:
        """Whose test prompts: empty for the shipped ones, else `, ` and the name of their place."""
        test = self.config["prompts"]["test"]
        return "" if test is None else f", {_place(test)}"

    @property
    def dataset(self) -> str:
        """Its data set, and whose test prompts. A half of RACE is not the part of that name of a run on both."""
        name = str(self.config["dataset"]["name"])
        return f"{name}{' alone' if name.startswith('race_') else ''}{self.prompts}"

    @property
    def method(self) -> str:
        """What was trained."""
        return str(self.config["method"]["name"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["seed"])

    @property
    def parts(self) -> Mapping[str, Mapping[str, Any]]:
        """Robustness by reported part: of race two, of others the data set itself."""
        if not self.results["parts"]:
            return {self.dataset: self.results["robustness"]}
        return {f"{name}{self.prompts}": found for name, found in self.results["parts"].items()}

    @property
    def composed(self) -> bool:
        """Whether it was trained on the composed pool."""
        return self.config["prompts"]["train"] == "composed"

    @property
    def plain_pool(self) -> bool:
        """Whether it was trained on the whole pool that belongs to its test prompts."""
        own = self.config["prompts"]["train"] is None or bool(self.prompts)
        return own and self.config["train_prompts"] is None

    def part(self, name: str, measure: str = "matrix") -> ScoreMatrix:
        """Return the columns of one part of a score matrix: that of the test prompts, generate or adversarial."""
        matrix = _read_matrix(self.folder / f"{measure}.parquet")
        return matrix.part(name.removesuffix(self.prompts)) if self.results["parts"] else matrix

    @cached_property
    def measured_like(self) -> dict[str, Any]:
        """What must be alike in all cells of a data set that have it, in plain types, by what to call it."""
        identity = from_dict(self.config).identity()  # without what its method does not use
        own = {key: value for key, value in identity.items() if key not in _OF_A_CELL}
        own |= {f"prompts.{split}": pool for split, pool in own.pop("prompts").items() if split != "train"}
        prints = self.results["fingerprints"]
        pools = {split: pool["fingerprint"] for split, pool in prints["pools"].items()}
        own |= {"test prompts": pools["test"], "test examples": prints["data"]["test"]}
        own |= {"base model": prints["base_model"]["sample"], "dtype": self.results["dtype"]}
        own["scoring"] = _way(self.results["how"])
        if self.method != "base":
            own |= {"training examples": prints["data"]["train"], "validation prompts": pools["validation"]}
        if self.method not in ("base", "user") and self.plain_pool:
            own["training prompts"] = pools["train"]
        if self.results["selection"] is not None:
            own["method.budget"] = self.config["method"]["budget"]
        for measure, also in self.results["also"].items():
            own[f"the scoring of {measure}"] = _way(also["how"])
            if "pool" in also:
                own[f"{measure} prompts"] = also["pool"]["fingerprint"]
        return own


def _way(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a way of scoring must be alike."""
    return {key: value for key, value in how.items() if key in _WAY}


@cache
def _read_matrix(path: Path) -> ScoreMatrix:
    return read_matrix(path)


def _place(pool: str) -> str:
    """Return what to call a pool: outputs/random_split/piqa/test.yaml is `random_split`."""
    folder = Path(pool).parent
    return folder.parent.name or folder.name or Path(pool).stem


@dataclass(frozen=True)
class Collected:
    """What there is in the folders that a report is asked for."""

    cells: list[Cell]
    left_out: dict[str, str]  # name of a folder that is no finished run -> why
    failed: list[dict[str, Any]]  # cells of sweeps that failed: what was typed, and the reason

    @property
    def failures(self) -> list[str]:
        """A line for each cell that failed."""
        return [f"{' '.join(cell['typed'])}: {cell['reason']}" for cell in self.failed]


def find(paths: Sequence[Path]) -> Collected:
    """Return the finished training runs in or under the folders, and what else is there.

    Raises InputError for a path that is no folder, and where there is no run at all.
    """
    cells: list[Cell] = []
    left_out: dict[str, str] = {}
    seen = set[Path]()
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: there is no such folder; give folders of runs, or one that holds them.")
        left_out |= _kept(path)["left_out"]
        for folder in sorted({mark.parent.resolve() for mark in (*path.glob("run.json"), *path.glob("*/run.json"))} - seen):
            seen.add(folder)
            found = _read(folder)
            if isinstance(found, Cell):
                cells.append(found)
            else:
                left_out[folder.name] = found
    finished = {cell.folder.name for cell in cells}
    left_out = {name: why for name, why in left_out.items() if name not in finished}
    found_all = Collected(cells, left_out, _failed(paths, finished))
    if not cells:
        reasons = [*(f"{name}: {why}" for name, why in left_out.items()), *found_all.failures]
        told = f" ({'; '.join(reason.rstrip('.') for reason in reasons)})" if reasons else ""
        raise InputError(f"{', '.join(map(str, paths))}: there is no finished training run here{told}.")
    return found_all


def _failed(paths: Sequence[Path], finished: Collection[str]) -> list[dict[str, Any]]:
    """Return the record of each cell that failed in a sweep of these folders and was not finished since.

    Args:
        finished: names of runs.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        of_sweeps = (_record(file, path) for file in sorted(path.glob(f"sweeps/*/{FAILED}/*.json")))
        for record in (*_kept(path)["failed"], *of_sweeps):  # the last sweep has the last word
            name = _run_name(record["typed"])
            if name is not None and name not in finished:
                found[name] = record
    return list(found.values())


def _record(file: Path, root: Path) -> dict[str, Any]:
    """Return what a sweep left of a cell that failed, but for places of this machine."""
    try:
        cell = json.loads(file.read_text(encoding="utf-8"))
        typed, reason = [str(word) for word in cell["typed"]], str(cell["reason"])
    except (ValueError, KeyError, TypeError):
        return {"typed": [str(file.relative_to(root))], "reason": "this record of a failed cell is damaged"}
    return {"typed": [word for word in typed if not word.startswith(_PLACES)], "reason": reason}


def _run_name(typed: Sequence[str]) -> str | None:
    """Return the run that overrides stand for; if they cannot be told, what was typed; None for an evaluation."""
    as_typed = " ".join(typed)
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            return parse(compose("train", list(typed))).run_name
    except InputError:
        return as_typed
    except _NO_CONFIG:
        return None if _composes("evaluate", typed) else as_typed


def _composes(config: str, typed: Sequence[str]) -> bool:
    try:
        with initialize_config_dir(CONF, version_base="1.3"):
            compose(config, list(typed))
    except _NO_CONFIG:
        return False
    return True


def _kept(path: Path) -> dict[str, Any]:
    """Return what a report that was made before left out; see keep.

    Raises InputError for a damaged file.
    """
    file = path / _LEFT_OUT
    if not file.is_file():
        return {"left_out": {}, "failed": []}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        left_out = {str(name): str(why) for name, why in content["left_out"].items()}
        failed = [{"typed": list(map(str, cell["typed"])), "reason": str(cell["reason"])} for cell in content["failed"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: this file is damaged; delete it, or make the report with --keep again.") from None
    return {"left_out": left_out, "failed": failed}


def _read(folder: Path) -> Cell | str:
    """Return a run, or why it is left out."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "not finished; the same command goes on with it"
    except ValueError:
        return _DAMAGED
    if not isinstance(results, dict):
        return _DAMAGED
    if "training" not in results:
        return "an evaluation, no training run"
    if not {"also", "selection", "how"} <= set(results) or "train_prompts" not in results.get("config", {}):
        return "made by an earlier version; run it again"
    cell = Cell(folder, results)
    try:
        _ = cell.measured_like, cell.parts
    except (InputError, KeyError, TypeError, AttributeError):
        return _DAMAGED
    return cell


def check_alike(cells: Iterable[Cell]) -> None:
    """Refuse cells of a data set that were not measured alike: their numbers would not belong in one table.

    Raises InputError that names two runs and what they differ in.
    """
    first: dict[tuple[str, str], Cell] = {}  # of those that have a key, by data set and key
    for cell in cells:
        for key, value in cell.measured_like.items():
            other = first.setdefault((cell.dataset, key), cell)
            if value != other.measured_like[key]:
                raise InputError(
                    f"{cell.folder.name} and {other.folder.name} differ in {key}, so their numbers do not belong in one "
                    "report; give the runs of one scale and one version."
                )


def by_seed(cells: Iterable[Cell], what: str) -> list[Cell]:
    """Return the cells of one label, in the order of their seeds.

    Raises InputError if a seed is there twice.
    """
    found: dict[int, Cell] = {}
    for cell in sorted(cells, key=lambda c: c.seed):
        if (other := found.setdefault(cell.seed, cell)) is not cell:
            raise InputError(
                f"{what}, seed {cell.seed}: there are two runs, {other.folder.name} and {cell.folder.name}; give one."
            )
    return list(found.values())


def keep(found: Collected, out: Path) -> None:
    """Copy what a report is made from, and names of what it left out, without the places of the machine they were made on.

    Adapters, logs and figures stay behind.
    """
    for cell in found.cells:
        folder = out / cell.folder.name
        if folder.resolve() == cell.folder:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for file in (cell.folder / "run.json", *cell.folder.glob("*.parquet")):
            shutil.copy2(file, folder)
        shutil.copytree(cell.folder / "prompts", folder / "prompts", dirs_exist_ok=True)
        config = {**cell.config, "data_root": None, "output_root": "outputs", "rerun": None}
        write_atomically(folder / "results.json", json.dumps({**cell.results, "config": config}, indent=1) + "\n")
    content = {"left_out": found.left_out, "failed": found.failed}
    write_atomically(out / _LEFT_OUT, json.dumps(content, indent=1) + "\n")
