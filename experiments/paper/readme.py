"""Put tables and figures of experiments/results into README.md, between their markers: python -m experiments.paper.readme"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO, PAPER, RACE = (Path("experiments/results") / name for name in ("demo", "paper_cpu", "race_qwen05"))


def blocks() -> dict[str, str]:
    """Return what the README shows of the kept pages, by marker."""
    section = _section(DEMO, "story_facts", "Made by")
    lines = [line for line in section.splitlines() if not re.match(r"\| .*, seed [12] \|", line)]  # one seed is enough here
    table, figure = _section(PAPER, "Table 1: story_facts"), _section(PAPER, "Figure 8: pool size, story_facts")
    top = (ROOT / PAPER / "README.md").read_text(encoding="utf-8").split("\n## ", 1)[0]
    rows = table.split("\n\n", 1)[0]
    notes = [_line(table, "* Percent"), f"* {_line(top, 'Mean: ')}", _line(table, "* PAFT less the best")]
    paper = "\n\n".join([rows, "\n".join(notes), _line(figure, "![")])
    return {"demo": "\n".join(lines), "paper": paper, "race": _race()}


def main() -> None:
    """Copy what the README shows."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, block in blocks().items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(f"{begin}.*{end}", lambda _, b=block, x=begin, y=end: f"{x}\n{b}\n{y}", text, flags=re.S)  # type: ignore[misc]
    (ROOT / "README.md").write_text(text, encoding="utf-8")


def _race() -> str:
    """Return the rows on the whole of RACE, and what the page says of them."""
    rows = [line for line in _section(RACE, "All runs").splitlines() if line.startswith(("| data set", "|---", "| race |"))]
    top = (ROOT / RACE / "README.md").read_text(encoding="utf-8").split("\n## ", 1)[0]
    return "\n".join([*rows, "", *(line for line in top.splitlines() if line.startswith("* ") and "**race**" not in line)])


def _line(text: str, begin: str) -> str:
    """Return the one line that begins like that."""
    (line,) = (line for line in text.splitlines() if line.startswith(begin))
    return line


def _section(folder: Path, title: str, until: str = "\n## ") -> str:
    """Return a section of a page of results, without its title; its figures by their place in the repository."""
    page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    section = page.split(f"## {title}\n", 1)[1].split(until, 1)[0].strip()
    return re.sub(r"\]\((\w+\.png)\)", rf"]({folder}/\1)", section)


if __name__ == "__main__":
    main()
