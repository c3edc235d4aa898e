"""Audit every shipped prompt pool, and the sheets of the paper's authors beside them.

    python -m experiments.audits [--official DIR] [--model embedded] [--report experiments/results/audits]

DIR holds the authors' robust_{train,test}dataset_{hel,piqa,race,win}.xlsx (github.com/kithib/PAFT). The page holds counts
and distances, none of their sentences. Exit code 1 if a shipped pool leaks or has a defect.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from paft.cli.hydra_app import run_plain
from paft.data.tasks import BUILT_IN
from paft.pools.audit import Audit, Audited, audit, read_for_audit
from paft.pools.audit_page import distance_table, distances, save_curve
from paft.prompts.pool import Form
from paft.reporting.page import bullets, file_name, table, write, write_json
from paft.reporting.provenance import provenance
from paft.runtime.errors import InputError
from paft.runtime.files import check_place

POOLS = Path(__file__).parent.parent / "paft" / "prompts" / "shipped"
SHEETS = {"hel": "hellaswag", "piqa": "piqa", "race": "race", "win": "winogrande"}
# What is known of the sheets from counting them independently, with difflib's ratio: rows, different rows, test prompts with a
# near-copy in train, with the same wording there.
KNOWN = {"hel": (335, 335), "piqa": (339, 338, 7, 0), "race": (323, 323), "win": (310, 286, 8, 5)}


def form_of(dataset: str, kind: str) -> Form:
    """Return what the templates of a shipped pool hold."""
    task = BUILT_IN[dataset]
    return task.form("letter" if kind == "letter" else "text", "hidden" if kind == "hidden" else "shown")


def shipped() -> dict[str, dict[str, Audited]]:
    """Read the shipped pools: data set, kind and group -> split -> prompts."""
    audited: dict[str, dict[str, Audited]] = {}
    for folder in sorted(POOLS.glob("*/*")):
        form = form_of(folder.parent.name, folder.name)
        for group, prefix in (("", ""), (", v2", "v2_")):  # of v2 without the pairs of known wordings and layouts
            files = {split: folder / f"{prefix}{split}.yaml" for split in ("train", "validation", "test", "adversarial")}
            own = {split: read_for_audit(path, form) for split, path in files.items() if path.is_file()}
            if own:
                audited[f"{folder.parent.name}, {folder.name}{group}"] = own
    return audited


def official(folder: Path) -> dict[str, dict[str, Audited]]:
    """Read the authors' sheets of the data sets whose training sheet is there; raises InputError if none is."""
    audited: dict[str, dict[str, Audited]] = {}
    for short, dataset in SHEETS.items():
        paths = {split: folder / f"robust_{split}dataset_{short}.xlsx" for split in ("train", "test")}
        form, aliases = form_of(dataset, "letter"), BUILT_IN[dataset].aliases
        if paths["train"].is_file():
            audited[short] = {split: read_for_audit(path, form, aliases) for split, path in paths.items() if path.is_file()}
    if not audited:
        raise InputError(f"--official {folder}: there is no sheet robust_traindataset_NAME.xlsx (NAME: {', '.join(SHEETS)}).")
    return audited


def sheet_row(short: str, audited: Audit) -> list[str]:
    """Lay out one pair of sheets, with what is known of it in brackets."""
    train = audited.files["train"]
    known = (*KNOWN[short], "-", "-")
    rows = train["prompts"] + len(train["repeated"])
    test = audited.files.get("test")
    between = audited.between.get("test to train")
    cells = [short, f"{rows} ({known[0]})", f"{train['prompts']} ({known[1]})", f"{train['literal_newlines']}"]
    cells += [f"{len(train['defects'])}", f"{train['mean_distance']:.3f}"]
    if test is None or between is None:
        return [*cells, *["-"] * 6]
    cells += [f"{test['prompts']}", f"{test['blank_rows']}", f"{between['near_copies']} ({known[2]})"]
    cells += [f"{between['same_wording']} ({known[3]})", f"{between['arrangements_of_options_unseen']}"]
    cells += [f"{between['nearest']:.3f} / {between['mean_distance']:.3f}"]
    return cells


def shipped_row(name: str, audited: Audit) -> list[str]:
    """Lay out the pools of one data set and kind."""
    sizes = " / ".join(str(facts["prompts"]) for facts in audited.files.values())
    train, between = audited.files["train"], audited.between["test to train"]
    defects, review = (sum(len(facts[key]) for facts in audited.files.values()) for key in ("defects", "review"))
    families = train["families"]
    cells = [name, sizes, f"{len(audited.leaks)}", f"{defects}", f"{review}", f"{families['wording']} / {families['layout']}"]
    cells += [f"{train['mean_distance']:.3f}", f"{between['nearest']:.3f} / {between['mean_distance']:.3f}"]
    return cells


def facts_of(audited: Audit) -> dict[str, Any]:
    """Return an audit in plain types, without what quotes prompts."""
    facts = audited.as_json()
    for pool in facts["files"].values():
        del pool["cues"], pool["layouts"], pool["path"]
        pool["defects"] = dict(Counter(defect["reason"] for defect in pool["defects"]))
        pool["review"] = len(pool["review"])
    return facts


def main() -> None:
    """Audit, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="folder with the authors' sheets")
    parser.add_argument("--model", help="embed prompts with this causal LM too: a hub id, a folder or `embedded`")
    parser.add_argument("--report", type=Path, default=Path("outputs/audits"))
    arguments = parser.parse_args()
    check_place(f"--report {arguments.report}", arguments.report)
    sheets = {} if arguments.official is None else official(arguments.official)
    arguments.report.mkdir(parents=True, exist_ok=True)
    pools = shipped()
    own = {name: audit(audited) for name, audited in pools.items()}
    page = ["# Audit of the prompt pools", "", "## Shipped", ""]
    page += table(_SHIPPED_HEADINGS, [shipped_row(name, audited) for name, audited in own.items()])
    pairs = {name: (audited["train"], audited["test"]) for name, audited in pools.items()}
    content: dict[str, Any] = {"shipped": {name: facts_of(audited) for name, audited in own.items()}}
    if arguments.official is not None:
        theirs = {short: audit(audited) for short, audited in sheets.items()}
        page += ["## The authors' sheets", "", _IN_BRACKETS, ""]
        page += table(_SHEETS_HEADINGS, [sheet_row(short, audited) for short, audited in theirs.items()])
        pairs |= {f"the authors' {short}": (s["train"], s["test"]) for short, s in sheets.items() if "test" in s}
        content["official"] = {short: facts_of(audited) for short, audited in theirs.items()}
    page += [*bullets(_NOTES), "## Distance of train and test", ""]
    # Ours and theirs for one data set share bandwidth and centre, so that their distances can be compared.
    beside = {f"{SHEETS[name.rsplit(' ', 1)[1]]}, letter": name for name in pairs if name.startswith("the authors' ")}
    beside |= {theirs: ours for ours, theirs in beside.items()}
    apart = {
        name: distances(train, test, arguments.model, pairs[beside[name]] if name in beside else ())
        for name, (train, test) in pairs.items()
    }
    for name, audited in apart.items():
        save_curve(arguments.report / f"{file_name(name)}.png", audited)
    page += [*distance_table(apart), "A distance above the null is wanted here: test prompts are of other families.", ""]
    for name in (name for name in _DRAWN if name in apart):
        page += [f"{name}:", "", f"![MMD over pool size]({file_name(name)}.png)", ""]
    page += ["Made by `python -m experiments.audits --official DIR --model embedded`. Versions and details: results.json.", ""]
    print("\n".join(page))
    content["mmd"] = {name: {kind: whole.squared for kind, (whole, _) in audited.items()} for name, audited in apart.items()}
    content |= {"model": arguments.model, **provenance(torch.device("cpu"))}
    write(arguments.report, page)
    write_json(arguments.report, content)
    if any(audited.leaks or any(facts["defects"] for facts in audited.files.values()) for audited in own.values()):
        raise SystemExit(1)


_SHIPPED_HEADINGS = [
    "pools", "train / validation / test / adversarial", "leaks", "defects", "to look at", "families of train",
    "mean distance in train", "test to train: nearest / mean",
]  # fmt: skip
_IN_BRACKETS = "In brackets: the same counted independently, near-copies by difflib's ratio."
_SHEETS_HEADINGS = [
    "sheet", "train rows", "different", "literal \\n", "defects", "mean distance", "test prompts", "blank",
    "near-copies in train", "same wording", "options set out as nowhere in train", "test to train: nearest / mean",
]  # fmt: skip
_NOTES = (
    "*distance* of two prompts: 1 - similarity of their letters; *nearest*: from a test prompt to the training prompt most "
    "like it, which a larger pool makes smaller; *mean*: to all of them.",
    "*to look at*: prompts in which a word suggests that something else than the answer is asked for.",
)
_DRAWN = ("piqa, letter", "the authors' piqa", "the authors' win")  # on the page; all are in the folder


if __name__ == "__main__":
    run_plain(main)
