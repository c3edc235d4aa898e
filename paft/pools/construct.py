"""Constructing pools from a task and generator models: ask, save every reply, screen, split, write."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from paft.pools.generators import Generator, Message, Reply
from paft.pools.meta_prompts import STRATEGIES, Strategy, ask, plain_templates
from paft.pools.replies import read_whole, templates_in
from paft.pools.screening import Candidate, Verdict, screen
from paft.pools.splitting import FEWEST_LAYOUTS, SplitWay, split
from paft.prompts.families import layout, wordings
from paft.prompts.pool import Form, PromptPool
from paft.prompts.template import PromptTemplate
from paft.runtime.api import UnavailableError
from paft.runtime.errors import InputError
from paft.runtime.files import write_atomically

_POOLS = ("train", "validation", "test")
LEAST = 10  # "about ten good prompts" suffice in most cases (paper, section 5)
_HOPELESS = 0.1  # a share of survivors below which more calls are no way to a pool


@dataclass(frozen=True)
class Construction:
    """The settings of a construction.

    rows are example rows (fields, answer). calls is the number of calls to each generator with each strategy, per_call the
    number of templates that a call asks for. max_words limits the words of a template, its fields aside. concurrency is the
    number of calls to a generator at a time.
    """

    name: str
    form: Form
    about: str
    rows: Sequence[tuple[Mapping[str, str], str]]
    generators: Sequence[Generator]
    out: Path
    calls: int
    per_call: int
    way: SplitWay
    seed: int
    max_words: int
    concurrency: int


@dataclass(frozen=True)
class _Call:
    generator: Generator
    strategy: Strategy
    number: int
    messages: list[Message]

    @property
    def digest(self) -> str:
        """A digest of everything that the reply depends on; it names the reply's file."""
        content = [self.generator.identity, self.messages, self.number]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def construct(plan: Construction) -> dict[str, Any]:
    """Construct the pools and return the report, the content of construction.json.

    Writes replies/ (each reply as soon as it arrives), candidates.jsonl (every candidate with its verdict), construction.json
    and, if enough candidates survive, train.yaml, validation.yaml and test.yaml. Replies that were saved before are not asked
    for again.

    Raises InputError if a generator fails, if too few candidates survive, or if a pool in the folder was changed by hand.
    """
    written = _refuse_edited(plan.out)
    calls = [
        _Call(generator, strategy, number, ask(strategy, plan.form, plan.about, plan.per_call, number, plan.rows))
        for generator in plan.generators
        for strategy in STRATEGIES
        for number in range(plan.calls)
    ]
    replies_folder = plan.out / "replies"
    replies_folder.mkdir(parents=True, exist_ok=True)
    failures = asyncio.run(_ask_all(calls, replies_folder, plan.concurrency))
    if failures:
        n_saved = sum((replies_folder / f"{call.digest}.json").is_file() for call in calls)
        raise InputError(
            f"{'; '.join(f'generator {name}: {why}' for name, why in failures.items())}. {n_saved} of {len(calls)} replies are "
            f"kept in {replies_folder}: mend or remove the generator and give the same command again."
        )
    replies = [json.loads((replies_folder / f"{call.digest}.json").read_text(encoding="utf-8")) for call in calls]
    candidates, rejected = _candidates(plan, calls, replies)
    judged = [*screen(candidates, plan.form, plan.max_words), *rejected, *_unreadable(calls, replies)]
    survivors = _templates(plan, [candidate for candidate, verdict in judged if verdict.reason is None])
    report = _report(plan, replies, judged) | {"written": written}
    for name in _POOLS:  # an earlier construction's pools do not belong to the new candidates
        (plan.out / f"{name}.yaml").unlink(missing_ok=True)
    _write_candidates(plan.out / "candidates.jsonl", judged)
    _write_report(plan.out, report)
    if len(survivors) < LEAST:
        why = ", ".join(f"{reason} {n}" for reason, n in report["rejected"].items())
        hopeless = len(survivors) < _HOPELESS * len(judged)
        advice = "use a larger model" if hopeless else f"ask more often (--calls {2 * plan.calls}) or add generators"
        raise InputError(
            f"Only {len(survivors)} of {len(judged)} candidates survived, at least {LEAST} are needed ({why}); read "
            f"{plan.out / 'candidates.jsonl'}, then {advice}."
        )
    splits = split(survivors, plan.way, plan.seed)
    texts = {n: PromptPool(n, tuple(splits[n]), plan.form.answer, plan.form.options).to_yaml() for n in _POOLS}
    report["splits"] = {name: len(templates) for name, templates in splits.items()}
    report["written"] = sorted({*written, *map(_digest, texts.values())})
    _write_report(plan.out, report)  # before the pools, so that after a kill their digests are known
    for name, text in texts.items():
        write_atomically(plan.out / f"{name}.yaml", text)
    return report


async def _ask_all(calls: Sequence[_Call], folder: Path, concurrency: int) -> dict[str, str]:
    """Ask for the missing replies; return the error of each generator that failed.

    The first failure of a generator stops its remaining calls, and no other generator's.
    """
    failures: dict[str, str] = {}
    slots = {call.generator.name: asyncio.Semaphore(concurrency) for call in calls}  # so a slow generator delays no other
    missing = [call for call in calls if not _is_saved(folder / f"{call.digest}.json")]
    with tqdm(total=len(calls), initial=len(calls) - len(missing), desc="replies", unit="call") as bar:

        async def one(call: _Call) -> None:
            async with slots[call.generator.name]:
                if call.generator.name in failures:
                    return
                try:
                    reply = await call.generator.reply(call.messages, call.number)
                except UnavailableError as error:
                    failures.setdefault(call.generator.name, str(error))
                    return
            _save(folder / f"{call.digest}.json", call, reply)
            bar.update()

        await asyncio.gather(*(one(call) for call in missing))
    return failures


def _is_saved(path: Path) -> bool:
    """Return whether the file holds a whole reply."""
    try:
        return "reply" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _save(path: Path, call: _Call, reply: Reply) -> None:
    """Write a reply to its file, at once because it may have been paid for."""
    content = {
        "generator": call.generator.name,
        "strategy": call.strategy,
        "number": call.number,
        **call.generator.identity,
        "messages": call.messages,
        "reply": asdict(reply),
    }
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _candidates(
    plan: Construction, calls: Sequence[_Call], replies: Sequence[Mapping[str, Any]]
) -> tuple[list[Candidate], list[tuple[Candidate, Verdict]]]:
    """Return the candidates of all replies, and those rejected at once: where a reply was cut off, and copies of the request.

    Small models hand back the templates that the few-shot request shows them.
    """
    whole: list[Candidate] = []
    rejected: list[tuple[Candidate, Verdict]] = []
    shown = plain_templates(plan.form)
    for call, saved in zip(calls, replies, strict=True):
        source = call.generator.name
        prefix = f"{plan.name}-{source}-{call.strategy.removesuffix('-shot')}-{call.number + 1:02}"
        texts = templates_in(saved["reply"]["text"])
        candidates = [Candidate(text, f"{prefix}-{n:02}", source, call.strategy) for n, text in enumerate(texts, 1)]
        if candidates and saved["reply"]["finish_reason"] == "length":
            rejected.append((candidates.pop(), Verdict("cut off", "the reply ended here, at the limit of its length")))
        for candidate in candidates:
            if call.strategy == "few-shot" and candidate.text.strip() in shown:
                rejected.append((candidate, Verdict("near-copy", "the request shows this template as an example")))
            else:
                whole.append(candidate)
    return whole, rejected


def _unreadable(calls: Sequence[_Call], replies: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Candidate, Verdict]]:
    """Yield a candidate with its verdict for each reply that holds no template."""
    for call, saved in zip(calls, replies, strict=True):
        text = saved["reply"]["text"]
        if not templates_in(text):
            why = (
                f"the reply {call.digest}.json holds no template" if text.strip() else f"the reply {call.digest}.json is empty"
            )
            yield Candidate(text, call.digest, call.generator.name, call.strategy), Verdict("unreadable", why)


def _templates(plan: Construction, survivors: Sequence[Candidate]) -> list[PromptTemplate]:
    """Turn surviving candidates into templates; they get families if the split is by family."""
    templates = [PromptTemplate(c.text, c.id, c.source) for c in survivors]
    if plan.way != "family":
        return templates
    layouts = [layout(t, plan.form.choice_fields) for t in templates]
    if len({*layouts}) < FEWEST_LAYOUTS:  # as in tasks of one field
        layouts = [""] * len(templates)
    with_families = zip(templates, wordings(templates), layouts, strict=True)
    return [PromptTemplate(t.text, t.id, t.source, *families) for t, *families in with_families]


def _report(
    plan: Construction, replies: Sequence[Mapping[str, Any]], judged: Sequence[tuple[Candidate, Verdict]]
) -> dict[str, Any]:
    """Return the counts of a construction, by the keys of construction.json; tokens are those of the paper's Table 11."""
    usage = [saved["reply"] for saved in replies]
    by_generator: dict[str, Any] = {}
    for generator in plan.generators:
        verdicts = [verdict for candidate, verdict in judged if candidate.source == generator.name]
        by_generator[generator.name] = {"candidates": len(verdicts), "kept": sum(v.reason is None for v in verdicts)}
    return {
        "name": plan.name,
        "answer": plan.form.answer,
        "options": plan.form.options,
        "calls": len(replies),
        "candidates": len(judged),
        "kept": sum(verdict.reason is None for _, verdict in judged),
        "replies_read_in_part": sum(not read_whole(saved["reply"]["text"]) for saved in replies),
        "rejected": dict(Counter(verdict.reason for _, verdict in judged if verdict.reason is not None).most_common()),
        "generators": by_generator,
        "tokens": {
            "prompt": sum(reply["prompt_tokens"] or 0 for reply in usage),
            "completion": sum(reply["completion_tokens"] or 0 for reply in usage),
            "replies_that_do_not_say": sum(reply["prompt_tokens"] is None for reply in usage),
        },
        "split": plan.way,
        "seed": plan.seed,
        "max_words": plan.max_words,
        "per_call": plan.per_call,
    }


def _write_candidates(path: Path, judged: Sequence[tuple[Candidate, Verdict]]) -> None:
    rows = (
        {**asdict(candidate), "kept": verdict.reason is None, "reason": verdict.reason, "detail": verdict.detail}
        for candidate, verdict in judged
    )
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_report(out: Path, report: Mapping[str, Any]) -> None:
    write_atomically(out / "construction.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def _refuse_edited(out: Path) -> list[str]:
    """Return the digests of the pools that constructions have written into the folder.

    Raises InputError if a pool in the folder is none of them: a person changed it, or something else wrote it.
    """
    try:
        written: list[str] = json.loads((out / "construction.json").read_text(encoding="utf-8"))["written"]
    except (OSError, ValueError, KeyError):
        written = []
    for path in (out / f"{name}.yaml" for name in _POOLS):
        if path.is_file() and _digest(path.read_text(encoding="utf-8", errors="replace")) not in written:
            raise InputError(f"{path}: this pool was not written by `construct`, or was changed since; give another --out.")
    return written


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
