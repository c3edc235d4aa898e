"""What every page here is written with: README.md, and results.json with the versions and the device."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from paft.runtime.files import write_atomically


def write_page(folder: Path, lines: Sequence[str], content: Mapping[str, Any]) -> None:
    """Write README.md and results.json."""
    import torch

    from paft.reporting.provenance import provenance

    folder.mkdir(parents=True, exist_ok=True)
    results = to_jsonable_python({**content, **provenance(torch.device("cpu"))})
    write_atomically(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_atomically(folder / "README.md", "\n".join(lines))
