"""paft pools construct | audit | perturb | compose | import | show: prompt pools one can trust."""

import argparse
import json
import random
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from paft.config.command import literal
from paft.config.schema import FROM_GOLD
from paft.data.inputs import check_shown
from paft.data.render import render_with_shots, right_answer
from paft.data.shots import Shots
from paft.data.tasks import BUILT_IN
from paft.data.tasks.base import LETTERS, Example, Task, gold_index
from paft.prompts import PromptPool, find_pool, load_pool
from paft.prompts.pool import Answer, Form, Options, choices_among
from paft.prompts.schedule import Draw
from paft.runtime.errors import InputError

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Asked:
    """What a command is about: a task, how its prompts look, and example rows (fields, answer)."""

    name: str
    form: Form
    about: str
    aliases: Mapping[str, str]
    rows: Sequence[tuple[Mapping[str, str], str]]


def main() -> None:
    """Run the pool command in sys.argv; raises InputError that names what is wrong with it."""
    arguments = _parser().parse_args()
    arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paft pools", description="Construct, audit and perturb prompt pools.")
    commands = parser.add_subparsers(required=True, metavar="construct | audit | perturb | compose | import | show")

    construct = commands.add_parser("construct", help="have generator models write prompts; screen and split them")
    _add_task(construct)
    construct.add_argument("--rows", "--data", type=Path, help="instead of --dataset: a file of your rows")
    construct.add_argument("--fields", type=_names, default=[], help="of your rows, to be shown by every prompt: premise,A,B")
    construct.add_argument("--choices", type=_names, help="which of the fields are the options; default: A, B, option1 ...")
    construct.add_argument("--gold", help="the field of your rows with the right answer, for the examples")
    construct.add_argument("--about", default="", help="what is asked, in a sentence, for the generator models")
    models = construct.add_mutually_exclusive_group(required=True)
    models.add_argument("--generators", type=Path, help="YAML list of models: {model, base_url, key} or {path}")
    models.add_argument("--local-model", help="one causal LM instead: a hub id, a folder or `embedded`")
    construct.add_argument("--out", type=Path, help="folder for pools, record and raw replies; default: outputs/pools/NAME")
    construct.add_argument("--calls", type=_positive, default=1, help="for each generator and strategy (default 1)")
    construct.add_argument("--per-call", type=_positive, default=20, help="prompts asked for in a call (default 20)")
    construct.add_argument("--split", choices=("random", "generator", "family"), default="family")
    construct.add_argument("--seed", type=int, default=0)
    construct.add_argument("--max-words", type=_positive, default=200, help="of a prompt, its fields aside (default 200)")
    construct.add_argument("--concurrency", type=_positive, default=8, help="calls at once (default 8)")
    construct.set_defaults(command=_construct)

    audit = commands.add_parser("audit", help="leaks, defects and diversity; exit code 1 on a leak")
    for split in _SPLITS:
        audit.add_argument(f"--{split}", type=Path)
    _add_task(audit, "to know the fields; otherwise read off the prompts")
    audit.add_argument("--model", help="embed prompts with this causal LM too: a hub id, a folder or `embedded`")
    audit.add_argument("--report", type=Path, help="folder for audit.json, README.md and the figure")
    audit.set_defaults(command=_audit)

    perturb = commands.add_parser("perturb", help="misspelt, reordered ... prompts, to measure Con")
    perturb.add_argument("pool", type=Path)
    perturb.add_argument("--kinds", type=_names, default=[], help="typos,case,punctuation,whitespace,reorder,distractor")
    perturb.add_argument("-n", type=_positive, default=10)
    perturb.add_argument("--seed", type=int, default=0)
    perturb.add_argument("--out", type=Path, help="default: POOL.perturbed.yaml beside the pool")
    perturb.set_defaults(command=_perturb)

    composing = commands.add_parser("compose", help="a large train pool from parts: wordings x layouts x cues")
    composing.add_argument("parts", type=Path, help="YAML: wordings, layouts (family -> texts) and cues")
    composing.add_argument("-n", type=_positive, default=400)
    composing.add_argument("--seed", type=int, default=0)
    composing.add_argument("--out", type=Path, help="default: composed.yaml beside the parts")
    composing.set_defaults(command=_compose)

    importing = commands.add_parser("import", help="check a sheet of prompts and write it as a pool")
    importing.add_argument("sheet", type=Path)
    _add_task(importing)
    importing.add_argument("--out", type=Path, help="a .yaml, .jsonl, .csv or .xlsx file; default: the sheet's name, .yaml")
    importing.set_defaults(command=_import)

    show = commands.add_parser("show", help="how a few prompts look when an example is put into them")
    _add_task(show)
    show.add_argument("--rows", help="instead of --dataset: your rows, a file, a folder or hub:ORG/NAME, as dataset.path")
    for name in ("gold", "choices", "labels"):
        show.add_argument(f"--{name}", help=f"of --rows, as dataset.{name}; several with commas")
    show.add_argument(
        "--shots", type=_positive, default=0, help="training rows with their answers before each, as dataset.shots"
    )
    show.add_argument(
        "--pool", "--prompts", help="a file, or the name of a shipped pool (composed, adversarial), instead of the split's"
    )
    show.add_argument("--split", choices=_SPLITS, default="train")
    show.add_argument("--example", type=int, default=0, help="which of a fair sample of the rows")
    show.add_argument("-n", type=_positive, default=3)
    show.add_argument("--mutated", action="store_true", help="each prompt in another layout, as sampler=mutated shows it")
    show.add_argument("--kinds", type=_names, default=[], help="with --mutated, of sampler.mutations; default: all")
    show.add_argument("--seed", type=int, default=0, help="of the changes (--mutated) and of the shots drawn (--shots)")
    show.set_defaults(command=_show)
    return parser


def _add_task(parser: argparse.ArgumentParser, why: str = "the task") -> None:
    parser.add_argument("--dataset", choices=tuple(BUILT_IN), help=why)
    parser.add_argument("--answer", choices=get_args(Answer), help="what prompts ask for; default: as the data set's runs")
    parser.add_argument("--options", choices=get_args(Options), help="whether prompts show the options; default: shown")
    parser.add_argument("--data-root", type=Path, help="folder with <dataset>/<split>.jsonl, instead of the hub")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _asked(arguments: argparse.Namespace, n_rows: int) -> _Asked:
    """Return the task of a built-in data set, with the first examples of a fair sample of its train split."""
    from paft.config.compose import compose_training
    from paft.data.inputs import answer_kind
    from paft.data.rows import load_examples

    if arguments.dataset is None:
        raise InputError(f"--dataset is missing; it is one of {', '.join(BUILT_IN)}.")
    dataset = compose_training([f"dataset={arguments.dataset}"]).dataset
    task = BUILT_IN[arguments.dataset]
    options: Options = arguments.options or "shown"
    answer: Answer = "text" if options == "hidden" else arguments.answer or answer_kind(dataset, task)
    rows: list[tuple[Mapping[str, str], str]] = []
    if n_rows:
        root = None if arguments.data_root is None else str(arguments.data_root)
        examples = load_examples(dataset, root, n_rows, 1).train
        letter = answer == "letter"
        rows = [(e.fields, LETTERS[e.gold] if letter else e.answer) for e in examples]
    return _Asked(arguments.dataset, task.form(answer, options), task.about, task.aliases, rows)


def _asked_of_own_rows(arguments: argparse.Namespace) -> _Asked:
    """Return the task that one's own rows are."""
    from paft.data.files import read_rows

    fields = arguments.fields
    if not fields:
        raise InputError("--fields is missing; name the fields that every prompt shows, e.g. --fields premise,A,B.")
    choices = choices_among(fields) if arguments.choices is None else arguments.choices
    if stray := [name for name in choices if name not in fields]:
        raise InputError(f"--choices: {stray[0]!r} is none of --fields {','.join(fields)}.")
    if odd := [name for name in fields if not re.fullmatch(r"[^\W\d]\w*", name)]:
        raise InputError(f"--fields: {odd[0]!r} cannot be a placeholder; rename it to letters, digits and _ in your rows.")
    options: Options = arguments.options or "shown"
    answer: Answer = "text" if options == "hidden" or not choices else arguments.answer or "letter"
    rows = []
    for where, row in read_rows(arguments.rows):
        if missing := [name for name in (*fields, *([arguments.gold] if arguments.gold else ())) if row.get(name) is None]:
            raise InputError(f"{where}: the row lacks the field {missing[0]!r}; it has {', '.join(row)}.")
        shown = {name: str(row[name]) for name in fields}
        rows.append((shown, _answer(where, row[arguments.gold], shown, choices, answer) if arguments.gold else ""))
    form = Form(frozenset(fields) - frozenset(choices), frozenset(choices), answer, options)
    return _Asked(arguments.rows.stem, form, arguments.about, {}, rows)


def _answer(where: str, gold: Any, shown: Mapping[str, str], choices: Collection[str], answer: Answer) -> str:
    """Return a right answer as the prompts ask for it; raises InputError if it is none of the choices."""
    names = [name for name in shown if name in choices]
    if not names:
        return str(gold)
    index = gold_index(gold, names, [shown[name] for name in names], ("name", "index", "text"))
    if index is None:
        raise InputError(
            f"{where}: the right answer {gold!r} is none of the choices; give a letter, an index from 0 or a text."
        )
    return LETTERS[index] if answer == "letter" else shown[names[index]]


def _construct(arguments: argparse.Namespace) -> None:
    from paft.pools.construct import Construction, construct
    from paft.pools.generators import LocalGenerator, read_generators
    from paft.runtime.files import check_place, disk_full_is_an_input_error

    if (arguments.dataset is None) == (arguments.rows is None):
        raise InputError("Give either --dataset (a built-in data set) or --rows with --fields (your own rows).")
    _refuse_idle(arguments)
    asked = _asked(arguments, 100) if arguments.rows is None else _asked_of_own_rows(arguments)
    local = arguments.local_model
    generators = [LocalGenerator(local)] if local is not None else read_generators(arguments.generators)
    if arguments.split == "generator" and len(generators) < 3:
        raise InputError(
            f"--split generator needs three generators, there are {len(generators)}; add some, or split otherwise."
        )
    out = arguments.out or Path("outputs") / "pools" / asked.name
    check_place(f"--out {out}", out)
    plan = Construction(
        name=asked.name,
        form=asked.form,
        about=arguments.about or asked.about,
        rows=asked.rows,
        generators=generators,
        out=out,
        calls=arguments.calls,
        per_call=arguments.per_call,
        way=arguments.split,
        seed=arguments.seed,
        max_words=arguments.max_words,
        concurrency=arguments.concurrency,
    )
    with disk_full_is_an_input_error(out):
        report = construct(plan)
    _print_construction(report, out)


def _refuse_idle(arguments: argparse.Namespace) -> None:
    """Refuse options that do nothing for the rows that are given."""
    own = {"--fields": arguments.fields, "--choices": arguments.choices, "--gold": arguments.gold}
    idle = {"--data-root": arguments.data_root} if arguments.rows is not None else own
    if given := [name for name, value in idle.items() if value]:
        where = "--rows" if arguments.rows is not None else "--dataset"
        raise InputError(f"{given[0]} does nothing with {where}; leave it out.")


def _print_construction(report: Mapping[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{report['name']}: {report['kept']} of {report['candidates']} candidates kept", title_justify="left")
    for column in ("generator", "candidates", "kept"):
        table.add_column(column, justify="left" if column == "generator" else "right")
    for name, row in report["generators"].items():
        table.add_row(name, str(row["candidates"]), str(row["kept"]))
    console.print(table)
    rejected = ", ".join(f"{reason} {n}" for reason, n in report["rejected"].items())
    tokens = report["tokens"]
    splits = ", ".join(f"{name} {n}" for name, n in report["splits"].items())
    print(f"Rejected: {rejected or 'none'}.")
    print(f"Tokens: {tokens['prompt']:,} read, {tokens['completion']:,} written.")
    print(f"Split ({report['split']}): {splits}.")
    print(f"Pools, every candidate with its verdict, raw replies: {out}")


def _audit(arguments: argparse.Namespace) -> None:
    from paft.pools.audit import audit, read_for_audit
    from paft.runtime.files import check_page

    paths = {split: getattr(arguments, split) for split in _SPLITS if getattr(arguments, split) is not None}
    if not paths:
        raise InputError("Name the pools: --train FILE --test FILE, and --validation FILE if there is one.")
    if arguments.model is not None and not {"train", "test"} <= {*paths}:
        raise InputError("--model measures how far --train and --test are apart; give both.")
    if arguments.report is not None:
        check_page(f"--report {arguments.report}", arguments.report)
    asked = None if arguments.dataset is None else _asked(arguments, 0)
    form, aliases = (None, None) if asked is None else (asked.form, asked.aliases)
    pools = {split: read_for_audit(path, form, aliases) for split, path in paths.items()}
    from paft.pools.audit_page import distances, print_audit, print_distances, save_audit

    found = audit(pools)
    apart = None
    if {"train", "test"} <= {*pools} and min(len(pools[split].entries) for split in ("train", "test")) > 1:
        apart = distances(pools["train"], pools["test"], arguments.model)
    print_audit(found)
    if apart:
        print_distances(apart)
    if arguments.report is not None:
        save_audit(arguments.report, found, pools, apart)
    if found.leaks:
        raise SystemExit(1)


def _perturb(arguments: argparse.Namespace) -> None:
    from paft.pools.audit import read_for_audit
    from paft.prompts.perturb import KINDS, perturb

    kinds = arguments.kinds or list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"--kinds: {unknown[0]!r} is none of {','.join(KINDS)}.")
    pool = load_pool(arguments.pool, read_for_audit(arguments.pool).form)
    found = perturb(pool, kinds, arguments.n, arguments.seed)
    out = arguments.out or arguments.pool.with_suffix(".perturbed.yaml")
    _write(PromptPool(out.stem, tuple(p.template for p in found), pool.answer, pool.options), out)
    for p in found:
        print(f"{p.template.id}: strength {p.strength:.2f}")
    print(f"{len(found)} perturbed prompts: {out}")


def _compose(arguments: argparse.Namespace) -> None:
    from paft.prompts.compose import compose

    pool = compose(arguments.parts, arguments.n, arguments.seed)
    out = arguments.out or arguments.parts.with_name("composed.yaml")
    _write(pool, out)
    print(f"{len(pool.templates)} prompts, {pool.n_wordings} of them no near-copies of another: {out}")


def _import(arguments: argparse.Namespace) -> None:
    asked = _asked(arguments, 0)
    pool = load_pool(arguments.sheet, asked.form, asked.aliases)
    out = arguments.out or arguments.sheet.with_suffix(".yaml")
    _write(pool, out)
    for note in pool.notes:
        print(note)
    print(f"{len(pool.templates)} prompts: {out}")


def _write(pool: PromptPool, out: Path) -> None:
    """Write a pool, but not over anything else that is there."""
    from paft.prompts.readers import read_prompts
    from paft.prompts.writers import write_pool

    if out.exists():
        try:
            same = [str(row.get("text")) for _, row in read_prompts(out).rows] == [t.text for t in pool.templates]
        except InputError:
            same = False
        if not same:
            raise InputError(f"{out}: something else is here; name another file with --out, or remove it.")
    write_pool(pool, out)


def _show(arguments: argparse.Namespace) -> None:
    if arguments.example < 0:
        raise InputError(f"--example {arguments.example}: examples are counted from 0.")
    shown = _shown(arguments)
    task, example = shown.task, shown.example
    form = task.form(shown.answer, shown.options)
    pool = find_pool(arguments.pool, task.pools, arguments.split, form, task.aliases)
    check_shown("chosen", pool, [example, *shown.shots])
    if arguments.mutated:
        _show_mutated(arguments, pool, shown)
        return
    if arguments.kinds:
        raise InputError("--kinds does nothing without --mutated; leave it out.")
    if arguments.seed and not arguments.shots:
        raise InputError("--seed does nothing without --mutated or --shots; leave it out.")
    for note in task.notes:
        print(note)
    template = pool.templates[0]
    for template in pool.head(arguments.n).templates:
        print(f"--- {template.id}")
        print(render_with_shots(template, example, shown.shots, shown.answer, None))
    print(f"--- right answer: {json.dumps(right_answer(template, example, shown.answer), ensure_ascii=False)}")


@dataclass(frozen=True)
class _Shown:
    """What `show` renders: an example of a task, the shots before it, and how prompts ask."""

    task: Task
    answer: Answer
    options: Options
    example: Example
    shots: Sequence[Example]


def _shown(arguments: argparse.Namespace) -> _Shown:
    """Return the rows to show: of a built-in data set, or one's own; training rows, or those of a single file."""
    from paft.config.compose import compose_training
    from paft.data.inputs import answer_kind
    from paft.data.rows import load_examples, load_test

    own = {key: getattr(arguments, key) for key in ("gold", "choices", "labels")}
    if (arguments.dataset is None) == (arguments.rows is None):
        raise InputError(f"Give either --dataset, one of {', '.join(BUILT_IN)}, or --rows and --prompts, your own.")
    if arguments.rows is None and (idle := next((key for key, value in own.items() if value is not None), None)):
        raise InputError(f"--{idle} does nothing with --dataset; leave it out.")
    if arguments.rows is not None and arguments.pool is None:
        raise InputError("--prompts is missing; name the file of your prompts.")
    settings = {"path": arguments.rows, **own, "answer": arguments.answer, "options": arguments.options}
    settings |= {"shots": arguments.shots}
    if arguments.options == "hidden":
        settings["answer"] = "text"
    typed = [f"dataset={arguments.dataset or 'jsonl'}"]
    typed += [f"++dataset.{key}={_literal(key, value)}" for key, value in settings.items() if value is not None]
    dataset = compose_training(typed).dataset
    root = None if arguments.data_root is None else str(arguments.data_root)
    if arguments.rows is not None and Path(arguments.rows).is_file():
        task, examples, _ = load_test(dataset, None, arguments.example + 1)
    else:
        loaded = load_examples(dataset, root, max(arguments.example, arguments.shots) + 1, 1)
        task, examples = loaded.task, loaded.train
    if len(examples) <= arguments.example:
        raise InputError(f"--example {arguments.example}: there are only {len(examples)} examples, counted from 0.")
    shots = Shots(examples, arguments.shots, arguments.seed).of(Draw(0, 0), arguments.example)
    return _Shown(task, answer_kind(dataset, task), dataset.options, examples[arguments.example], shots)


def _literal(key: str, value: Any) -> str:
    """Return a value in the grammar of Hydra's overrides; several names, with commas, are a list."""
    several = (key == "labels" and value != FROM_GOLD) or (key == "choices" and "," in str(value))
    return literal(_names(value) if several else value, f"--{key}")


def _show_mutated(arguments: argparse.Namespace, pool: PromptPool, asked: _Shown) -> None:
    """Show prompts of a pool in other layouts, then audit as many layouts as the pool has prompts against the test pool."""
    from paft.pools.audit import audit, read_for_audit
    from paft.pools.audit_page import print_audit
    from paft.prompts.mutate import MUTATIONS, Mutator

    kinds = arguments.kinds or list(MUTATIONS)
    if unknown := [kind for kind in kinds if kind not in MUTATIONS]:
        raise InputError(f"--kinds: {unknown[0]!r} is no kind of mutation; there are {', '.join(MUTATIONS)}.")
    task = asked.task
    form = task.form(pool.answer, pool.options)
    choices = task.choice_fields if pool.options == "shown" else ()
    mutator = Mutator(kinds, choices, next(iter(task.fields), None), pool.answer, task.choices_vary)
    rng = random.Random(arguments.seed)
    shown = [mutator.mutated(template, rng) for template in pool.templates]
    for template in shown[: arguments.n]:
        print(f"--- {template.id}")
        print(render_with_shots(template, asked.example, asked.shots, pool.answer, None))
        print(f"--- right answer: {json.dumps(right_answer(template, asked.example, pool.answer), ensure_ascii=False)}")
    n = sum(map(mutator.can_change, pool.templates))
    print(f"{n} of {len(pool.templates)} prompts have parts whose layout is mutated.")
    if arguments.rows is not None:
        return
    print("A layout of each, audited:")
    with tempfile.TemporaryDirectory() as folder:
        mutated, tested = Path(folder) / "mutated.yaml", Path(folder) / "test.yaml"
        mutated.write_text(replace(pool, templates=tuple(shown)).to_yaml(), encoding="utf-8")
        against = find_pool(None, task.pools, "test", form, task.aliases)
        tested.write_text(against.to_yaml(), encoding="utf-8")
        print_audit(audit({"mutated": read_for_audit(mutated, form), "test": read_for_audit(tested, form)}))
