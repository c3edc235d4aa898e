"""Put kept results into README.md, between their markers: python -m experiments.paper.readme"""

import argparse
import re
from pathlib import Path

from paft.cli.hydra_app import run_plain
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

ROOT = Path(__file__).parents[2]
DEMO, PAPER, RACE = (Path("experiments/results") / name for name in ("demo", "paper_cpu", "race_qwen05"))
_ILLUSTRATION = f"* An illustration: SmolLM2-135M on a task made for it, K=1. [Seed 1, and what was tuned before]({DEMO})."


def blocks() -> dict[str, str]:
    """Return what the README shows of the kept pages, by marker: it is a short page, so one seed of the demo, and few notes."""
    return {"demo": _demo(), "race": _race(), "paper": _paper()}


def main() -> None:
    """Copy what the README shows."""
    argparse.ArgumentParser(prog="python -m experiments.paper.readme", description=__doc__).parse_args()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, block in blocks().items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if not 0 <= text.find(begin) < text.find(end):
            raise InputError(f"README.md: {begin} or {end}, behind it, is not there; put both where the block belongs.")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{block}\n{end}{rest.partition(end)[2]}"
    write_atomically(ROOT / "README.md", text)


def _demo() -> str:
    """Return the table, the figure and the gain of one seed."""
    left_out = r"\| .*, seed [1-9] \||\* (?!Seed 0)"
    lines = [line for line in _section(DEMO, "story_facts", "Made by").splitlines() if not re.match(left_out, line)]
    return "\n".join([*lines, _ILLUSTRATION])


def _race() -> str:
    """Return the rows on the whole of RACE, what one choice gets, how far to trust them, and the paired difference."""
    runs = _section(RACE, "All runs")
    rows = [line for line in runs.splitlines() if line.startswith(("| data set", "|---", "| race |"))]
    top = (ROOT / RACE / "README.md").read_text(encoding="utf-8").split("\n## ", 1)[0]
    tails = [line.strip("| ").split(" | ") for line in _section(RACE, "The worst prompts").splitlines() if "| race |" in line]
    given = "; ".join(f"{cells[1]} {cells[-1]}" for cells in tails)
    over = f"{_line(runs, '* race: percent').replace('race: percent', 'Percent')} Answers by place: {given}."
    return "\n".join([*rows, "", over, _line(top, "* First evidence"), _line(top, "* PAFT minus")])


def _paper() -> str:
    """Return the paper's Table 1 on the built-in task, and what its numbers are over."""
    table = _section(PAPER, "Table 1: story_facts")
    return "\n\n".join([table.split("\n\n", 1)[0], _line(table, "* Percent")])


def _line(text: str, begin: str) -> str:
    """Return the one line that begins like that."""
    (line,) = (line for line in text.splitlines() if line.startswith(begin))
    return line


def _section(folder: Path, title: str, until: str = "\n## ") -> str:
    """Return a section of a page of results, without its title; its figures by their place in the repository."""
    page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    section = page.split(f"## {title}", 1)[1].split("\n", 1)[1].split(until, 1)[0].strip()
    return re.sub(r"\]\((\w+\.png)\)", rf"]({folder}/\1)", section)


if __name__ == "__main__":
    run_plain(main)
