"""Rows that are damaged, incomplete or not what the settings say, and metrics of one's own."""

from tests.reliability.bad_inputs.case import Files, Table
from tests.reliability.bad_inputs.files import (
    GSM8K_FILES,
    OWN,
    OWN_FILES,
    OWN_PROMPTS,
    PIQA,
    TEST,
    TRAIN,
    lines,
    piqa,
    question,
)


def _chat(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": "Hi"} for role in roles]}


FREE = "dataset=jsonl ; dataset.path=own ; dataset.gold=answer ; prompts.train=free.jsonl ; prompts.test=free.jsonl"
FREE_FILES = OWN_FILES | {"free.jsonl": lines({"text": "{question}"})}
OWN_BARE = "dataset=jsonl ; dataset.path=own"
_CSV = {f"own/{split}.csv": "question,A,B,answer\n1 + 1?,2,3,A\n2 + 2?,5,4,B\n" for split in ("train", "test")}
_ALPACA = {"instruction": "Add.", "input": "1, 1", "output": "2"}
_LABELLED = "text,label,response\na,Refund,ok\nb,shipping,no\nc,Refund,ok\nd,shipping,no\n"
_MISSPELT = (("train", "refund"), ("test", "Refnd"))

DATA: Table = [
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
    (
        "an answer that is missing in a row",
        f"{OWN_BARE} ; dataset.labels=from_gold",
        {f"own/{s}.csv": _LABELLED + ("e,,ok\n" if s == "train" else "") for s in ("train", "test")},
        "own/train.csv, line 6: 'label' is empty or missing; fill it in, or leave the row out, or name other fields",
    ),
    (
        "a choice that is missing in a row",
        f"{OWN_BARE} ; {OWN_PROMPTS}",
        OWN_FILES | {"own/train.jsonl": TRAIN + lines(question(20, B=""), question(22, B=None))},
        "own/train.jsonl, line 21: 'B' is empty or missing (and in 1 more rows); fill it in, or leave the row out",
    ),
    (
        "a label in two cases",
        f"{OWN_BARE} ; dataset.labels=from_gold",
        {"own/train.csv": _LABELLED, "own/test.csv": _LABELLED.replace("Refund", "refund", 1)},
        "dataset.labels=from_gold: 'label' is 'Refund' in some rows and 'refund' in others; write one of them throughout",
    ),
    (
        "a label in two Unicode forms",
        f"{OWN_BARE} ; dataset.labels=from_gold",
        {"own/train.jsonl": lines({"q": 1, "label": "f\u00fcr"}), "own/test.jsonl": lines({"q": 3, "label": "fu\u0308r"})},
        "'label' is 'fu\\u0308r' in some rows and 'f\\xfcr' in others",
    ),
    (
        "a label as two numbers",
        f"{OWN_BARE} ; dataset.labels=from_gold",
        {"own/train.jsonl": lines({"q": 1, "label": 0}, {"q": 2, "label": 1}), "own/test.jsonl": lines({"q": 3, "label": 0.0})},
        "'label' is '0' in some rows and '0.0' in others",
    ),
    (
        "a column that labels need",
        f"{OWN_BARE} ; dataset.labels=from_gold ; prompts.train=l.jsonl ; prompts.test=l.jsonl",
        {f"own/{s}.csv": "text,label,labels\na,x,1\nb,y,2\n" for s in ("train", "test")},
        "own/train.csv, line 2: the row has a field 'labels' of its own, which {labels} needs; rename it",
    ),
    (
        "turns of nobody",
        f"{OWN_BARE} ; dataset.labels=from_gold",
        {f"own/{s}.jsonl": lines({"messages": [{"role": ["user"], "content": "Hi"}]}) for s in ("train", "test")},
        "own/train.jsonl, line 1: turn 1 of 'messages' is of ['user']; the turns of system, user and assistant can be read",
    ),
    (
        "a row that shows nothing",
        f"{OWN} ; {OWN_PROMPTS}",
        OWN_FILES | {"own/train.jsonl": TRAIN + lines(question(20, question=" "))},
        "own/train.jsonl, line 21: 'question' is empty, and the train prompts show nothing else of the row; fill it in",
    ),
    (
        "cells in quotes between semicolons",
        OWN,
        _CSV | {"own/train.csv": '"question";"A";"B";"answer"\n'},
        "own/train.csv, line 1: the columns are separated by ';'; separate them by commas.",
    ),
    ("a line for Excel", OWN, _CSV | {"own/train.csv": "sep=,\nquestion,A\n"}, "own/train.csv, line 1: this line (sep=,) is"),
    ("one object of many rows", OWN, {"own/train.json": '{"data":\n []}'}, "own/train.json: this is one JSON object over"),
    ("rows without a name", "dataset=jsonl ; dataset.path=", {}, "dataset.path has no value; name the folder, the file"),
    ("more shots than rows", f"{OWN} ; {OWN_PROMPTS} ; dataset.shots=18", OWN_FILES, "dataset.shots=18: there are 18 training"),
    ("no id of the hub", OWN_BARE.replace("own", "hub:"), {}, "dataset.path=hub:: a data set on the hub is hub:ORG/NAME"),
    ("rows of another name", OWN, {"own/rows.jsonl": TRAIN}, "own/train.jsonl: there is no such data file, but rows.jsonl;"),
    ("a file instead of its folder", OWN, {"own": TRAIN}, "own: this is a file; give the folder that holds train.jsonl"),
    ("no test file", OWN, {"own/train.jsonl": TRAIN}, "own/test.jsonl: there is no such data file"),
    ("no folder of rows", "dataset=piqa ; data_root=file", {"file": "x"}, "file/piqa/train.jsonl: there is no such data file"),
    ("empty file", PIQA, {"piqa/train.jsonl": ""}, "piqa/train.jsonl: the data file is empty"),
    ("blank file", OWN, {"own/train.jsonl": TRAIN, "own/test.jsonl": "\n \n"}, "own/test.jsonl: the data file is empty"),
    ("no JSON", PIQA, {"piqa/train.jsonl": lines(piqa(0)) + "{goal}\n"}, "piqa/train.jsonl, line 2: this is not valid JSON"),
    ("no object", PIQA, {"piqa/train.jsonl": lines(piqa(0), [1])}, "piqa/train.jsonl, line 2: a row is a JSON object"),
    ("no UTF-8", PIQA, {"piqa/train.jsonl": b"\xff\xfe{}\n"}, "piqa/train.jsonl: the file is not UTF-8"),
    (
        "a field lacks",
        PIQA,
        {"piqa/train.jsonl": lines(piqa(0), piqa(1), {"goal": "x", "sol1": "y", "label": 0})},
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

FREE_TEXT = f"{FREE} ; dataset.answer=text ; prompts.allow_seen=true"
OWN_METRIC = f"{FREE_TEXT} ; dataset.metric=m.py:score"


def _own_metric(returned: str) -> Files:
    return FREE_FILES | {"m.py": f"def score(output, answer, row):\n    return {returned}\n"}


METRIC: Table = [
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
    ("answers without a number", f"{FREE_TEXT} ; dataset.metric=last_number", FREE_FILES, "holds none, so that no"),
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
