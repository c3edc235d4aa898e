"""Rows from the Hugging Face hub, through `datasets`: the built-in data sets at pinned revisions, and anybody's own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from paft.config.schema import HubConfig
from paft.data.files import Rows, as_json
from paft.runtime.errors import InputError, first_sentence

HUB = "hub:"  # and an id: hub:ORG/NAME, hub:ORG/NAME:CONFIG@REVISION
_PATH = re.compile(r"hub:(?P<id>[^:@]+)(?::(?P<config>[^@]+))?(?:@(?P<revision>.+))?")


def read_pinned(hub: HubConfig, name: str, part: str, split: str) -> Rows:
    """Yield (where it comes from, row) for each row of a built-in data set, at its pinned revision.

    Args:
        name: of the data set; part: of its parts.
    """
    from datasets import load_dataset

    config = hub.configs[part]
    try:
        table = load_dataset(hub.id, config, revision=hub.revision, split=split)
    except Exception as error:  # whatever the network, the hub or its cache come up with
        raise InputError(
            f"dataset={name}: {hub.id} could not be loaded from the hub ({type(error).__name__}); "
            f"give a folder with data_root=DIR that holds {part}/{split}.jsonl."
        ) from None
    for index, row in enumerate(table):
        yield f"{hub.id} ({config}), {split} row {index}", dict(row)


@dataclass(frozen=True)
class HubRows:
    """A data set of one's own on the hub; config and revision None: the only one, and the newest."""

    path: str  # as the setting names it
    id: str
    config: str | None
    revision: str | None

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its splits; raises InputError if it cannot be loaded."""
        return tuple(_tables(self))

    def rows(self, split: str) -> Rows:
        """Yield (where it comes from, row) for each row of a split, counted from 0 as on the hub's pages.

        Numbers that stand for classes become the names of these classes; images and sounds are missing values.
        """
        from datasets import ClassLabel

        table = _tables(self)[split]
        names = {name: kind.names for name, kind in table.features.items() if isinstance(kind, ClassLabel)}
        index = 0
        for batch in table.with_format("arrow").iter(1024):
            for row in batch.to_pylist():
                yield f"{self.path}, {split} row {index}", _named(as_json(row), names)
                index += 1
        if index == 0:
            raise InputError(f"{self.path}: the split {split} is empty; it needs at least one row.")


def hub_rows(path: str | None) -> HubRows | None:
    """Return the data set that dataset.path names as hub:ID, None if it names a file or a folder; raises InputError."""
    if path is None or not path.startswith(HUB):
        return None
    if (match := _PATH.fullmatch(path)) is None:
        raise InputError(f"dataset.path={path}: a data set on the hub is hub:ORG/NAME, or hub:ORG/NAME:CONFIG@REVISION.")
    return HubRows(path, match["id"], match["config"], match["revision"])


def _named(row: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return a row with the names of its classes instead of their numbers; a class below 0 is missing."""
    for field, labels in names.items():
        number = row.get(field)
        row[field] = labels[number] if isinstance(number, int) and 0 <= number < len(labels) else None
    return row


@lru_cache(maxsize=4)
def _tables(hub: HubRows) -> dict[str, Any]:
    """Return the splits of a data set by name, downloaded to the cache of `datasets`; raises InputError."""
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        return dict(load_dataset(hub.id, hub.config, revision=hub.revision))
    except Exception as error:  # whatever the network, the hub or its cache come up with
        said = str(error)
        if "onfig" in said and (listed := re.search(r"\[([^]]+)\]", said)):
            configs = ", ".join(re.findall(r"['\"]([^'\"]+)['\"]", listed[1]))
            raise InputError(f"dataset.path={hub.path}: name a configuration, hub:{hub.id}:CONFIG, one of {configs}.") from None
        raise InputError(
            f"dataset.path={hub.path}: the data set could not be loaded from the hub ({type(error).__name__}: "
            f"{first_sentence(error)}); check its name and the network, or give a folder with its files."
        ) from None
