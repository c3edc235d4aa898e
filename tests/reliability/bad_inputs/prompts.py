"""Prompt files that are damaged, do not fit the task or were seen before."""

from tests.reliability.bad_inputs.case import Table
from tests.reliability.bad_inputs.files import OWN, OWN_FILES, OWN_PROMPTS, WHOLE, lines

SHORT_OF_STORY = "{question} {A} {B} {C} {D}"

PROMPTS: Table = [
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
        "p.jsonl, line 1: {{A}} is a text in braces, no field; write it with one brace, {A}.",
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
    ("prompts of no name", f"{OWN} ; prompts.train=mine.jsonl ; prompts.test=", OWN_FILES, "prompts.test has no value; name"),
    ("prompts in a folder", f"{OWN} ; prompts.train=own ; prompts.test=unseen.jsonl", OWN_FILES, "own: this is a folder; name"),
    ("prompts between semicolons", "prompts.test=p.csv", {"p.csv": "text;id\n"}, "p.csv, line 1: the columns are separated by"),
    ("two columns of prompts", "prompts.test=p.csv", {"p.csv": "text,id,id\na,b,c\n"}, "p.csv, line 1: two columns are called"),
    ("prompt looks into a field", f"method=user ; method.prompt='{WHOLE[:-1]}[0]}}'", {}, "method.prompt: '{D[0]}' is no"),
]  # fmt: skip
