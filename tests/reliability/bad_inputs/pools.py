"""Commands on prompt pools: audit, construct, compose, import, split, show."""

from tests.reliability.bad_inputs.case import Table
from tests.reliability.bad_inputs.files import OWN_FILES, PIQA_FILES, WHOLE, lines, question

PARTS = "answer: letter\nwordings: {a: ['Choose. {goal} {sol1} {sol2}']}\nlayouts: {b: ['<wording>']}\ncues: ['A:']\n"
MY_ROWS = {"rows.jsonl": lines(*map(question, range(3))), "generators.yaml": "- {path: some/model}\n"}
CONSTRUCT = "--rows ; rows.jsonl ; --fields ; question,A,B ; --generators ; generators.yaml"

POOLS: Table = [
    ("audit of nothing", "audit", {}, "Name the pools: --train FILE --test FILE"),
    ("audit of no file", "audit ; --train ; none.yaml", {}, "none.yaml: there is no such prompt file"),
    ("audit of an empty pool", "audit ; --train ; p.yaml", {"p.yaml": "prompts: []\n"}, "p.yaml: the pool is empty"),
    ("embedding half", "audit ; --train ; x.yaml ; --model ; embedded", {}, "--model measures how far --train and --test are"),
    ("audit into a file", "audit ; --train ; x.yaml ; --report ; f", {"f": "x"}, "--report f: f is a file"),
    ("audit below a file", "audit ; --train ; x.yaml ; --report ; f/x", {"f": "x"}, "--report f/x: f is a file"),
    ("construct for nothing", "construct ; --local-model ; embedded", {}, "Give either --dataset (a built-in data set)"),
    ("no generators", "construct ; --dataset ; story_facts ; --generators ; none.yaml", {}, "none.yaml: there is no such file"),
    ("generators in a folder", "construct ; --dataset ; story_facts ; --generators ; .", {}, ".: there is no such file"),
    ("no fields", "construct ; --rows ; rows.jsonl ; --local-model ; m", MY_ROWS, "--fields is missing; name the fields"),
    ("a stray choice", f"construct ; {CONSTRUCT} ; --choices ; C", MY_ROWS, "--choices: 'C' is none of --fields question,A,B"),
    ("a row without a field", f"construct ; {CONSTRUCT.replace('question', 'premise')}", MY_ROWS, "rows.jsonl, line 1: "),
    ("idle data root", f"construct ; {CONSTRUCT} ; --data-root ; .", MY_ROWS, "--data-root does nothing with --rows"),
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
    ("parts that are too deep", "compose ; p.yaml", {"p.yaml": "[" * 5000}, "p.yaml: this is not valid YAML: "),
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
