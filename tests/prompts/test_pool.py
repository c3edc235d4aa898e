"""Pools: four file forms, one content; every mistake in them is named with its place; the shipped pools are sound."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import openpyxl
import pytest
import yaml

import paft.prompts
from paft.data.tasks import BUILT_IN
from paft.pools.audit import audit, read_for_audit
from paft.prompts import PromptPool, PromptTemplate, find_pool, load_pool, shipped_pool_path
from paft.prompts.pool import Form
from paft.prompts.readers import read_prompts
from paft.prompts.writers import write_pool
from paft.runtime.errors import InputError

COLUMNS = ("id", "source", "wording", "layout", "text")
ROWS = [
    dict(zip(COLUMNS, values, strict=True))
    for values in (
        ("first", "mine", "plain", "lines", "Question: {question}\nA: {A}\nB: {B}\n\nAnswer:"),
        ("second", "mine", "json", "braces", '{{"q": "{question}", "options": ["{A}", "{B}"], "answer": "'),
        ("third", "https://example.org/x", "söft", "commas", "  {question}, {A}, {B}: yes # or no? 100 %\n - größe — 你好 "),
    )
]


def load(path: Path, *, options="shown", answer="letter", fields=("question",), optional=(), aliases=None) -> PromptPool:
    return load_pool(path, Form(frozenset(fields), frozenset("AB"), answer, options, frozenset(optional)), aliases)


def write_xlsx(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(path)
    return path


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows in the form that the suffix says."""
    names = list(rows[0])
    match path.suffix:
        case ".yaml" | ".yml":
            path.write_text(yaml.safe_dump({"prompts": rows}), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, names)
                table.writeheader()
                table.writerows(rows)
        case ".xlsx":
            write_xlsx(path, [names, *([row[name] for name in names] for row in rows)])
    return path


def refused(path: Path, **kwargs) -> str:
    """Return the sentence with which a pool is refused."""
    with pytest.raises(InputError) as error:
        load(path, **kwargs)
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


FORMS = (".yaml", ".yml", ".jsonl", ".csv", ".xlsx")


def test_all_forms_give_the_same_pool(tmp_path):
    pools = [load(write(tmp_path / f"mine{suffix}", ROWS)) for suffix in FORMS]
    assert pools[0].templates == tuple(PromptTemplate(**row) for row in ROWS)
    assert pools[0] == pools[1] == pools[2] == pools[3] == pools[4]
    assert len({pool.fingerprint for pool in pools}) == 1
    assert (pools[0].name, pools[0].answer, pools[0].options, pools[0].notes) == ("mine", "letter", "shown", ())


@pytest.mark.parametrize("suffix", FORMS)
def test_a_text_is_enough(tmp_path, suffix):
    pool = load(write(tmp_path / f"mine{suffix}", [{"text": row["text"]} for row in ROWS]))
    assert [t.text for t in pool.templates] == [row["text"] for row in ROWS]
    assert [t.id for t in pool.templates] == ["prompt-001", "prompt-002", "prompt-003"]
    assert {(t.source, t.wording, t.layout) for t in pool.templates} == {("", "", "")}


@pytest.mark.parametrize("suffix", FORMS)
def test_repeated_templates_are_dropped_and_noted(tmp_path, suffix):
    rows = [{"text": row["text"]} for row in (*ROWS, ROWS[0])]
    pool = load(write(tmp_path / f"mine{suffix}", rows))
    assert [t.text for t in pool.templates] == [row["text"] for row in ROWS]
    assert len(pool.notes) == 1 and re.fullmatch(r"(line|row) \d+ repeats (line|row) \d+: dropped", pool.notes[0])


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    for suffix in (".yaml", ".jsonl", ".csv"):
        path = write(tmp_path / f"mine{suffix}", ROWS)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        assert load(path).templates == tuple(PromptTemplate(**row) for row in ROWS)


@pytest.mark.parametrize("suffix", [".yaml", ".jsonl", ".xlsx"])
def test_windows_line_ends_inside_a_template_are_line_ends(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", [{"text": "one\r\n{question}\r\n{A} {B}"}])
    assert load(path).templates[0].text == "one\n{question}\n{A} {B}"


def test_blank_lines_in_jsonl_are_skipped_and_counted(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('\n{"text": "{question} {A} {B}"}\n\n{"text": "{question} {A}"}\n')
    assert refused(path).startswith(f"{path}, line 4: the template lacks {{B}}")


def test_an_exotic_line_separator_in_jsonl_is_text(tmp_path):
    """JSON ends its lines with line feeds; U+2028 and U+0085 may stand unescaped inside a string."""
    rows = [{"text": "Question\u2028{question}\u0085 {A} {B}"}, {"text": "{question} {A} {B}"}]
    assert [t.text for t in load(write(tmp_path / "mine.jsonl", rows)).templates] == [row["text"] for row in rows]


def test_an_official_sheet_is_imported(tmp_path):
    task = BUILT_IN["winogrande"]
    path = write_xlsx(
        tmp_path / "official.xlsx",
        [
            ["number", "text", None],
            [1, r"Sentence: {prompt}\nA: {only_option1}\nB: {only_option2}\n\nAnswer:", "remark"],
            [None, None, None],
            [2, "{prompt}\n1) {only_option1} 2) {only_option2}", None],
            [3, r"Sentence: {prompt}\nA: {only_option1}\nB: {only_option2}\n\nAnswer:", None],
            [4, "  ", None],
            [5, r"Our own names: {sentence}\n{option1}\n{option2}", None],
        ],
    )
    pool = load_pool(path, task.form("letter", "shown"), task.aliases)
    assert [t.text for t in pool.templates] == [
        "Sentence: {sentence}\nA: {option1}\nB: {option2}\n\nAnswer:",
        "{sentence}\n1) {option1} 2) {option2}",
        "Our own names: {sentence}\n{option1}\n{option2}",
    ]
    assert [t.id for t in pool.templates] == ["prompt-001", "prompt-002", "prompt-003"]
    assert set(pool.notes) == {
        "row 3 is blank: dropped",
        "row 6 is blank: dropped",
        "row 5 repeats row 2: dropped",
        "literal \\n turned into a line break in 3 prompts",
    }


def test_without_aliases_the_official_names_are_refused(tmp_path):
    path = write_xlsx(tmp_path / "official.xlsx", [["text"], [], ["{prompt} {A} {B}"]])
    assert refused(path).startswith(f"{path}, row 3: the template lacks {{question}}")


# The mistakes. Each case: the text of the second prompt and what is said of it.
BAD_TEXTS = {
    "{question} {A} {B} {hint}": "{hint} is no field of this task; it has {A} {B} {question}.",
    "{A} {B}": "the template lacks {question}; it needs {A} {B} {question}.",
    "{question} {A}": "the template lacks {B}; it needs {A} {B} {question}.",
    "{question.upper} {A} {B}": "'{question.upper}' is no placeholder; only {field} is allowed",
    "{a question} {A} {B}": "'{a question}' is no placeholder; a name is made of letters, digits and _, so rename",
    "{re-plied-to} {A} {B}": "'{re-plied-to}' is no placeholder; a name is made",
    "{question[0]} {A} {B}": "'{question[0]}' is no placeholder; only {field} is allowed",
    "{question!r} {A} {B}": "'{question!r}' is no placeholder; only {field} is allowed",
    "{question:>9} {A} {B}": "'{question:>9}' is no placeholder; only {field} is allowed",
    "{question} {A} {B} }": "it holds a lone '}'; write '}}' for a literal brace.",
}


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("text", BAD_TEXTS)
def test_a_bad_template_is_named_with_its_line(tmp_path, suffix, text):
    path = write(tmp_path / f"mine{suffix}", [{"text": "{question} {A} {B}"}, {"text": text}])
    place = {".yaml": "line 3", ".yml": "line 3", ".xlsx": "row 3", ".csv": "line 3", ".jsonl": "line 2"}[suffix]
    assert refused(path).startswith(f"{path}, {place}: {BAD_TEXTS[text]}")


@pytest.mark.parametrize("suffix", [".yaml", ".jsonl", ".csv"])
def test_an_empty_text_is_named_with_its_line(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", [{"id": "a", "text": "{question} {A} {B}"}, {"id": "b", "text": " "}])
    line = {".yaml": 4, ".csv": 3, ".jsonl": 2}[suffix]
    assert refused(path) == f"{path}, line {line}: the template is empty."


@pytest.mark.parametrize("suffix", [".yaml", ".jsonl", ".csv"])
def test_a_literal_backslash_n_is_named_with_its_line(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", [{"text": r"{question}\n{A} {B}"}])
    line = {".yaml": 2, ".csv": 2, ".jsonl": 1}[suffix]
    assert refused(path) == f"{path}, line {line}: it holds a literal backslash-n; write a real line break."


@pytest.mark.parametrize(("suffix", "line"), [(".yaml", 2), (".jsonl", 1), (".csv", 2)])
def test_an_unknown_key_is_named_with_its_line(tmp_path, suffix, line):
    path = write(tmp_path / f"mine{suffix}", [{"text": "{question} {A} {B}", "author": "me"}])
    assert refused(path) == (f"{path}, line {line}: unknown key 'author'; a prompt has id, layout, source, text, wording.")


WHOLE = "{question} {A} {B}"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("mine.yaml", f"prompts:\n  - text: '{WHOLE}'\n    1: x\n    author: me\n", ", line 2: unknown key "),
        (
            "mine.csv",
            f"text,id\n{WHOLE},me,one cell too many\n",
            ", line 2: the row has more cells than the table has columns.",
        ),
        ("mine.csv", f"text,text\n{WHOLE},{WHOLE}\n", ", line 1: two columns are called 'text'; rename one of them."),
        ("mine.csv", f'text\n"{WHOLE}\n{WHOLE}\n', "this is not valid CSV (unexpected end of data); close the quotation mark."),
        ("mine.yaml", f"prompts:\n  - text: '{WHOLE}'\n    text: x\n", ", line 2: a key occurs twice in this prompt"),
        ("mine.jsonl", f'{{"text": "{WHOLE}", "text": "x"}}\n', ", line 1: the key 'text' occurs twice; give it once."),
        ("mine.yaml", "prompts:\n  - text: {question}\n", ", line 2: text must be a text; put it in quotation marks."),
        ("mine.jsonl", f'{{"text": "{WHOLE}", "id": ["a"]}}\n', ", line 1: id must be a text; put it in quotation marks."),
        ("mine.yaml", "prompts: " + "[" * 100_000, ": the YAML is nested more than 20 levels deep; a pool is"),
        ("mine.yaml", "prompts: [{text: !!bool foo}]", ": this is not valid YAML"),
        ("mine.jsonl", "[" * 100_000 + "\n", ", line 1: this is nested too deeply"),
    ],
)
def test_what_is_there_twice_or_no_text_is_refused(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_text(content)
    assert says in refused(path)


WRONG_FILES = {
    "a list.yaml": ("- text: x\n", "a YAML pool has a key `prompts` with a list of prompts."),
    "nothing.yaml": ("", "a YAML pool has a key `prompts` with a list of prompts."),
    "no list.yaml": ("prompts: x\n", "a YAML pool has a key `prompts` with a list of prompts."),
    "key.yaml": ("prompts: []\nauthor: me\n", "unknown key 'author'; a pool has answer, options and prompts."),
    "answer.yaml": ("answer: number\nprompts: []\n", "answer is 'number'; it must be letter or text."),
    "options.yaml": ("options: some\nprompts: []\n", "options is 'some'; it must be shown or hidden."),
    "empty.yaml": ("prompts: []\n", "the pool is empty; it needs at least one prompt."),
    "empty.jsonl": ("\n \n", "the pool is empty; it needs at least one prompt."),
    "empty.csv": ("id,text\n", "the pool is empty; it needs at least one prompt."),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_file_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text(WRONG_FILES[name][0])
    assert refused(path) == f"{path}: {WRONG_FILES[name][1]}"


WRONG_LINES = {
    "string.yaml": ("prompts:\n  # mine\n  - just a text\n", "line 3: a prompt is a mapping with at least a `text`."),
    "no text.yaml": ("prompts:\n  - id: x\n", "line 2: the template is empty."),
    "null text.yaml": ("prompts:\n  - id: x\n    text:\n", "line 2: the template is empty."),
    "list.jsonl": ('{"text": "{question} {A} {B}"}\n["x"]\n', "line 2: a prompt is a JSON object with at least a `text`."),
    "invalid.jsonl": ('{"text": "{question} {A} {B}"}\n{"text": }\n', "line 2: this is not valid JSON (Expecting value)."),
    "no text.jsonl": ('{"id": "x"}\n', "line 1: the template is empty."),
    "column.csv": ("id,prompt\n1,x\n", "line 1: the table has no column `text`."),
    "nothing.csv": ("", "line 1: the table has no column `text`."),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_line_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text(WRONG_LINES[name][0])
    assert refused(path) == f"{path}, {WRONG_LINES[name][1]}"


def test_invalid_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("prompts:\n  - text: one\n  - text: 'two\n")
    assert re.match(rf"{re.escape(str(path))}: this is not valid YAML: .*line [34]", refused(path))
    path.write_text("prompts:\n  - text: !!python/object:os.system x\n")
    assert re.match(rf"{re.escape(str(path))}: this is not valid YAML: .*line 2", refused(path))


@pytest.mark.parametrize(
    "content",
    [
        "prompts:\n  - text: '{question} {A} {B}'\n  - text: '{question} {B} {A}'\nprompts:\n  - text: '{question} {A} {B}'\n",
        "prompts:\n  - text: '{question} {A} {B}'\n    id: 2025-02-30\n",
    ],
    ids=["a key twice", "an impossible date"],
)
def test_odd_yaml_is_refused_and_never_a_crash(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert refused(path).startswith(str(path))


def test_a_wrong_sheet_is_named(tmp_path):
    path = write_xlsx(tmp_path / "mine.xlsx", [["id", "prompt"], [1, "x"]])
    assert refused(path) == f"{path}, row 1: the sheet has no column `text`."
    path = write_xlsx(tmp_path / "blank.xlsx", [])
    assert refused(path) == f"{path}, row 1: the sheet has no column `text`."
    path = write_xlsx(tmp_path / "rows.xlsx", [["text"], [None], [" "]])
    assert refused(path) == f"{path}: the pool is empty; it needs at least one prompt."
    path = tmp_path / "broken.xlsx"
    path.write_text("this is no zip file")
    assert refused(path) == f"{path}: this is not a readable xlsx file."


@pytest.mark.parametrize("suffix", [".yaml", ".jsonl", ".csv"])
def test_text_that_is_not_utf8_is_named(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes("text\ngrößer\n".encode("latin-1"))
    assert refused(path) == f"{path}: the file is not UTF-8 text."


def test_a_missing_file_and_a_wrong_suffix_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    assert refused(path) == f"{path}: there is no such prompt file."
    assert refused(tmp_path) == f"{tmp_path}: this is a folder; name a file of prompts in it."
    path = tmp_path / "mine.txt"
    path.write_text("{question} {A} {B}")
    assert refused(path) == f"{path}: a prompt pool is a .yaml, .jsonl, .csv or .xlsx file."


def test_a_pool_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("answer: text\nprompts:\n  - text: '{question} {A} {B}'\n")
    assert refused(path, answer="letter") == (
        f"{path}: this pool says answer: text, the run asks for dataset.answer=letter; make them agree."
    )
    path.write_text("options: hidden\nprompts:\n  - text: '{question}'\n")
    assert refused(path, options="shown") == (
        f"{path}: this pool says options: hidden, the run asks for dataset.options=shown; make them agree."
    )


@pytest.mark.parametrize(
    ("suffix", "place"), [(".yaml", "line 3"), (".jsonl", "line 2"), (".csv", "line 3"), (".xlsx", "row 3")]
)
def test_a_hidden_pool_shows_no_choice(tmp_path, suffix, place):
    hidden = {"options": "hidden", "answer": "text"}
    path = write(tmp_path / f"mine{suffix}", [{"text": "{question}"}, {"text": "{question} {A}"}])
    assert refused(path, **hidden) == (
        f"{path}, {place}: the template shows {{A}}, but this pool hides the options; remove it or set options: shown."
    )
    pool = load(write(tmp_path / f"mine{suffix}", [{"text": "{question}"}]), **hidden)
    assert pool.options == "hidden"


@pytest.mark.parametrize("suffix", FORMS)
def test_a_repeated_id_is_refused(tmp_path, suffix):
    rows = [{"id": "same", "text": "{question} {A} {B}"}, {"id": "same", "text": "{question} {B} {A}"}]
    path = write(tmp_path / f"mine{suffix}", rows)
    assert "the id 'same' is that of " in refused(path)


def test_optional_fields_are_shown_at_will_but_not_all_left_out(tmp_path):
    own = {"fields": (), "optional": ("title", "question")}
    texts = ["{title} {A} {B}", "{question} {A} {B}", "{title} {question} {A} {B}"]
    pool = load(write(tmp_path / "mine.yaml", [{"text": text} for text in texts]), **own)
    assert [t.text for t in pool.templates] == texts
    path = write(tmp_path / "mine.yaml", [{"text": texts[0]}, {"text": "Guess: {A} or {B}"}])
    assert refused(path, **own) == (
        f"{path}, line 3: the template shows nothing of the row; it needs one of {{question}} {{title}}."
    )


# What a pool is.


def pool_of(*texts: str, answer="letter", options="shown", prefix="") -> PromptPool:
    templates = tuple(PromptTemplate(text, id=f"{prefix}{i}") for i, text in enumerate(texts))
    return PromptPool("p", templates, answer, options)


def test_the_fingerprint_is_that_of_the_content():
    one = pool_of("{a}", "{b}")
    assert re.fullmatch("[0-9a-f]{16}", one.fingerprint)
    same = PromptPool("q", tuple(PromptTemplate(t.text, t.id + "x", "s", "w", "l") for t in one.templates), "letter", "shown")
    assert same.fingerprint == one.fingerprint
    others = [
        pool_of("{b}", "{a}"),
        pool_of("{a}"),
        pool_of("{a} ", "{b}"),
        pool_of("{a}{b}"),
        pool_of("{a}", "{b}", answer="text"),
        pool_of("{a}", "{b}", answer="text", options="hidden"),
    ]
    assert len({pool.fingerprint for pool in (one, *others)}) == 7


def test_the_head_of_a_pool():
    pool = pool_of("{a}", "{b}", "{c}")
    assert pool.head(2).templates == pool.templates[:2]
    assert pool.head(None) == pool and pool.head(3) == pool
    assert (pool.head(9).templates, pool.head(9).notes) == (pool.templates, ("9 were asked for, 3 are there",))
    assert pool.head(2).fingerprint == pool_of("{a}", "{b}").fingerprint


AWKWARD = [
    "{question}\n{A}\n{B}",
    "  leading blanks\n and more\n{question} {A} {B}",
    "\n\nleading line breaks {question} {A} {B}",
    "trailing blank {question} {A} {B} ",
    "a blank at a line's end \n{question} {A} {B}\n \n",
    "trailing line breaks {question} {A} {B}\n\n\n",
    "\ttab {question}\t{A}\n\t{B}",
    "- {question}: {A} # {B}",
    "'single' \"double\" {question} {A} {B}",
    "yes: {question}, no: {A}, ~: {B}",
    "{{}} {question} {A} {B} | > & * ! % @ `",
    "你好 größe 🙂 \u2028 \u00a0 {question} {A} {B}",
    "多行 🙂\n\u2028{question}\n\u00a0{A} {B}",
    "long " * 100 + "{question} {A} {B}",
    "\\ \\\\ \\t \\x {question} {A} {B}",
    "---\n{question}\n...\n{A} {B}",
]


def test_yaml_keeps_every_text_and_every_key(tmp_path):
    ids = [f"{i}" for i in range(len(AWKWARD) - 5)] + ["007", "null", "1e3", "2025-02-18", "a: b # c"]
    templates = tuple(
        PromptTemplate(text, id_, source="on", wording="é\n", layout=str(i))
        for i, (text, id_) in enumerate(zip(AWKWARD, ids, strict=True))
    )
    for answer, options in (("letter", "shown"), ("text", "shown")):
        pool = PromptPool("mine", templates, answer, options)
        path = tmp_path / "mine.yaml"
        path.write_text(pool.to_yaml(), encoding="utf-8")
        again = load(path, answer=answer, options=options)
        assert again == pool and again.fingerprint == pool.fingerprint


def test_yaml_keeps_the_kind_of_a_pool(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(pool_of("{question}", answer="text", options="hidden").to_yaml())
    assert load(path, answer="text", options="hidden").options == "hidden"
    assert "this pool says answer: text" in refused(path)


def test_yaml_shows_line_breaks_as_lines():
    assert "  text: |-\n    Question: {question}\n    Answer:\n" in pool_of("Question: {question}\nAnswer:").to_yaml()


# The shipped pools.

POOLS = Path(paft.prompts.__file__).parent / "shipped"
FOLDERS = sorted(path.relative_to(POOLS).as_posix() for path in POOLS.glob("*/*"))
SPLITS = ("train", "validation", "test", "user")
# The kind that a data set's runs use by default; it has adversarial prompts and a composed train pool, too.
FULL = {
    f"{name}/{'text' if name in ('story_facts', 'gsm8k') else 'letter'}"
    for name, task in BUILT_IN.items()
    if name == task.pools
}
V2 = ("v2_train", "v2_validation", "v2_test", "v2_composition")  # of prompts=v2; see test_pools_v2.py
AT_LEAST = {"train": 60, "validation": 20, "test": 50, "adversarial": 10, "composed": 400, "user": 1}
AT_LEAST_OF_OTHERS = {"train": 14, "validation": 6, "test": 12, "user": 1}


def splits_of(folder: str) -> tuple[str, ...]:
    return (*SPLITS, "adversarial") if folder in FULL else SPLITS


def form_of(folder: str) -> Form:
    name, kind = folder.split("/")
    return BUILT_IN[name].form("letter" if kind == "letter" else "text", "hidden" if kind == "hidden" else "shown")


def shipped(folder: str, composed: bool = False) -> dict[str, PromptPool]:
    name, form = folder.split("/")[0], form_of(folder)
    return {
        split: find_pool(split, name, split, form)
        for split in (*splits_of(folder), *(("composed",) if composed and folder in FULL else ()))
    }


def test_every_task_has_shipped_pools():
    assert {folder.split("/")[0] for folder in FOLDERS} == {task.pools for task in BUILT_IN.values()}
    wanted = {f"{folder}/{split}.yaml" for folder in FOLDERS for split in splits_of(folder)}
    wanted |= {f"{folder}/parts.yaml" for folder in FULL}
    wanted |= {f"{folder}/{split}.yaml" for folder in FULL - {"gsm8k/text", "xstorycloze/letter"} for split in V2}
    assert {path.relative_to(POOLS).as_posix() for path in POOLS.rglob("*.*")} == wanted


def test_the_parts_of_race_share_their_pools():
    assert {BUILT_IN[f"race{part}"].pools for part in ("", "_middle", "_high")} == {"race"}


def test_the_languages_of_xstorycloze_share_their_pools():
    languages = [task for name, task in BUILT_IN.items() if name.startswith("xstorycloze")]
    assert len(languages) == 11 and {task.pools for task in languages} == {"xstorycloze"}


def test_a_pool_that_is_not_shipped_is_refused():
    with pytest.raises(InputError) as error:
        shipped_pool_path("gsm8k", "letter", "shown", "train")
    assert str(error.value) == (
        "No train pool for dataset=gsm8k with dataset.answer=letter dataset.options=shown is shipped; "
        "give your own with prompts.train=FILE."
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_shipped_pool_loads_and_is_large_enough(folder):
    pools = shipped(folder, composed=True)
    for split, least in (AT_LEAST if folder in FULL else AT_LEAST_OF_OTHERS).items():
        assert len(pools[split].templates) >= least
        assert pools[split].notes == ()  # no template twice
    assert len(pools["user"].templates) == 1
    templates = [t for pool in pools.values() for t in pool.templates]
    assert len({t.id for t in templates}) == len({t.text for t in templates}) == len(templates)
    assert all(t.source and t.wording and t.layout for t in templates)


@pytest.mark.parametrize(
    ("folder", "train"), [*((folder, "train") for folder in FOLDERS), *((folder, "composed") for folder in sorted(FULL))]
)
def test_shipped_pools_have_no_leak_and_no_defect(folder, train, tmp_path):
    """No copy, near-copy or family in two splits; no template that screening would reject."""
    form = form_of(folder)
    splits = [train, *(split for split in splits_of(folder) if split not in ("train", "user"))]
    files = {split: POOLS / folder / f"{split}.yaml" for split in splits}
    if train == "composed":
        files[train] = tmp_path / "composed.yaml"
        write_pool(find_pool(train, folder.split("/")[0], train, form), files[train])
    found = audit({split: read_for_audit(path, form) for split, path in files.items()})
    assert not found.leaks
    assert [defect for facts in found.files.values() for defect in facts["defects"]] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_shipped_pool_survives_yaml(folder, tmp_path):
    for split, pool in shipped(folder).items():
        path = tmp_path / f"{split}.yaml"
        path.write_text(pool.to_yaml(), encoding="utf-8")
        assert load_pool(path, form_of(folder)) == pool


def test_aliases_are_refused_before_they_unfold(tmp_path):
    bomb = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "pool.yaml").write_text("\n".join(bomb))
    with pytest.raises(InputError, match="a YAML pool has no aliases"):
        read_prompts(tmp_path / "pool.yaml")


def test_a_number_that_is_too_long_is_one_sentence(tmp_path):
    (tmp_path / "pool.jsonl").write_text('{"text": ' + "1" * 5000 + "}\n")
    with pytest.raises(InputError, match="line 1: a number has too many digits"):
        read_prompts(tmp_path / "pool.jsonl")


def test_blank_rows_of_a_csv_are_dropped_and_counted(tmp_path):
    path = tmp_path / "blank.csv"
    path.write_text("text,id\n{question} {A} {B},one\n,\n,\n{question}: {A} or {B},two\n", encoding="utf-8")
    pool = load(path)
    assert [template.id for template in pool.templates] == ["one", "two"]
    assert [note for note in pool.notes if "blank" in note] == ["line 3 is blank: dropped", "line 4 is blank: dropped"]
