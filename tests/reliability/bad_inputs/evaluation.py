"""Evaluations: adapters, served models, rows to predict."""

import json

from tests.reliability.bad_inputs.case import Case, Table
from tests.reliability.bad_inputs.files import A_RUN, OWN, OWN_FILES, TEST, WANDB, WHOLE, about, lines, question

OWN_RUN = {
    "OWN/adapter/paft.json": about("model.path=%MODEL", *OWN.split(" ; ")),
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
SERVED = "model.api=http://127.0.0.1:1/v1"
OWN_SERVED = f"{OWN} ; prompts.test=unseen.jsonl ; {SERVED} ; model.name=m"

EVALUATION: Table = [
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
        A_RUN | {"RUN/adapter/paft.json": about("model.path=%MODEL").replace('"base"', '"bass"')},
        "RUN/adapter/paft.json: this file is damaged",
    ),
    ("a damaged adapter", RUN, A_RUN | {"RUN/adapter/paft.json": "{"}, "RUN/adapter/paft.json: this file is damaged"),
    ("an adapter of nothing", RUN, A_RUN | {"RUN/adapter/paft.json": "[]"}, "RUN/adapter/paft.json: this file is damaged"),
    ("an adapter in no UTF-8", RUN, A_RUN | {"RUN/adapter/paft.json": b"\xff"}, "RUN/adapter/paft.json: this file is damaged"),
    ("another base model", f"{RUN} ; model=llama3_8b", A_RUN, "it was trained on %MODEL, not on meta-llama/Meta-Llama-3-8B"),
    (
        "a stranger's function",
        OWNS,
        OWN_RUN | {"OWN/adapter/paft.json": about("model.path=%MODEL", *OWN.split(" ; "), "dataset.metric=os:system")},
        "adapter=OWN/adapter: it was trained with a function as its metric, which runs only if you type it: "
        "dataset.metric=os:system.",
    ),
    ("no such way", f"{RUN} ; scoring=guess", A_RUN, "scoring=guess: input should be 'likelihood' or 'generate'"),
    ("no such unit", f"{RUN} ; normalise=word", A_RUN, "normalise=word: input should be 'sum', 'token' or 'byte'"),
    ("no prompts", f"{RUN} ; eval_prompts=0", A_RUN, "eval_prompts=0: input should be greater than 0"),
    ("misspelt key", f"{RUN} ; adaptor=x", A_RUN, "Could not override 'adaptor'; did you mean adapter?"),
    ("a device of an earlier version", f"{RUN} ; accelerator=cpu", A_RUN, "'accelerator'; that is trainer.accelerator."),
    ("a key of training", f"{RUN} ; optim.lr=1", A_RUN, "Could not override 'optim.lr'; --cfg job shows the keys"),
    ("a group of training", f"{RUN} ; sampler=mutated", A_RUN, "its files are for training, paft train."),
    ("pools of training", f"{RUN} ; prompts=v2", A_RUN, "; a pool to evaluate on is prompts.test=v2_test"),
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
        "output over prompts",
        f"{OWNS} ; dataset.path=rows.jsonl ; output=mine.jsonl",
        OWN_RUN | {"mine.jsonl": lines({"text": "{question}"})},
        "output=mine.jsonl: something else than predictions is there; name another file.",
    ),
    ("output as a table", f"{OWNS} ; dataset.path=rows.jsonl ; output=p.csv", OWN_RUN, "a row a line; name it p.jsonl."),
    (
        "output over a column",
        f"{OWNS} ; dataset.path=said.jsonl ; output=p.jsonl",
        OWN_RUN | {"said.jsonl": lines(question(20, prediction="A"))},
        "said.jsonl, line 1: the row has a field 'prediction' of its own, which predictions need; rename it.",
    ),
    ("a run as a model", "dataset=story_facts ; model.path=RUN", A_RUN, "this is a run; paft evaluate takes it as"),
    ("an adapter as a model", "dataset=story_facts ; model.path=RUN/adapter", A_RUN, "this is an adapter; paft evaluate takes"),
    (
        "rows without answers",
        "model=smollm2_135m ; dataset=jsonl ; dataset.path=bare.jsonl ; dataset.gold=answer ; dataset.metric=exact",
        {"bare.jsonl": lines({"question": "?"})},
        "bare.jsonl, line 1: the row lacks the field 'answer'; it has question; to predict answers, give output=predictions",
    ),
    ("a bound as a fraction", f"{RUN} ; fail_under.worst=0.8", A_RUN, "bounds are in percent: fail_under.worst=80."),
    ("an adapter's rows elsewhere", OWNS, OWN_RUN, "it was trained on the rows in own, and there is no such"),
    ("rows of no name", f"{OWNS} ; dataset.path=row", OWN_RUN | {"rows/a": ""}, "row: there is no such file or folder; did"),
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

WITH_MODEL = [
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
