"""Files and settings that several tables of bad inputs share."""

import json

from paft.config.compose import compose_training


def lines(*rows: object) -> str:
    """Return JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def question(n: int, **changes: object) -> dict[str, object]:
    """Return a row of somebody's own data; the right answer is A for an even n, B for an odd one."""
    options = [f"{n + 1}", f"{n + 2}"][:: -1 if n % 2 else 1]
    return {"question": f"What is {n} + 1?", "A": options[0], "B": options[1], "answer": "AB"[n % 2]} | changes


def piqa(n: int, **changes: object) -> dict[str, object]:
    """Return a row of PIQA's form."""
    return {"goal": f"Count to {n}.", "sol1": "One by one.", "sol2": "Backwards.", "label": 0} | changes


def results(config: object, **changes: object) -> str:
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


def about(*overrides: str) -> str:
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

PIQA = "dataset=piqa ; data_root=."

PIQA_FILES = {
    "piqa/train.jsonl": lines(*map(piqa, range(20))),
    "piqa/validation.jsonl": lines(*map(piqa, range(20, 26))),
}

_SUMS = [lines(*(question(n, answer=f"#### {n + 1}") for n in numbers)) for numbers in (range(20), range(20, 26))]
GSM8K_FILES = {"gsm8k/train.jsonl": _SUMS[0], "gsm8k/test.jsonl": _SUMS[1]}
WANDB = "logger=wandb"
WHOLE = "{story} {question} {A} {B} {C} {D}"
SMALL = "train_examples=24 ; T=2 ; eval_examples=6 ; eval_prompts=3 ; trainer.accelerator=cpu"

A_RUN = {
    "RUN/adapter/paft.json": about("model.path=%MODEL"),
    "RUN/adapter/adapter_model.safetensors": "torn",
    "RUN/adapter/adapter_config.json": "{}",
    "RUN/results.json": "{}",
}
