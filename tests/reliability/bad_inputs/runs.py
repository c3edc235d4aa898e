"""Commands on finished runs: merge, compare, power, report; and the helpers in experiments/."""

from paft.config.compose import compose_training
from tests.reliability.bad_inputs.case import Case, Files, Table
from tests.reliability.bad_inputs.files import A_RUN, OF_OLD, OLD_RESULTS, about, results

A_FULL_RUN = {"FULL/model/paft.json": about("lora@model.lora=none"), "FULL/model/config.json": "{}"}

MERGE: Table = [
    ("merge of nothing", ". ; --out ; merged", {}, ".: this is no adapter of a PAFT run"),
    ("merge of a damaged adapter", "RUN ; --out ; m", A_RUN | {"RUN/adapter/paft.json": "{}"}, "this file is damaged"),
    ("merge over something", "RUN ; --out ; RUN", A_RUN, "--out RUN: this exists already; name a new folder"),
    ("merge below a file", "RUN ; --out ; f/merged", A_RUN | {"f": "x"}, "--out f/merged: f is a file"),
    ("a push to no user", "RUN ; --out ; m ; --push ; mine", A_RUN, "--push mine: a repository is named USER/NAME, of letters"),
    ("a push to an odd name", "RUN ; --out ; m ; --push ; me/a b", A_RUN, "--push me/a b: a repository is named USER/NAME"),
    ("a push without a token", "RUN ; --out ; m ; --push ; me/mine", A_RUN, "--push me/mine: there is no token for the hub"),
    ("merge of a whole model", "FULL ; --out ; m", A_FULL_RUN, "FULL/model: all weights of this run were trained, so there is"),
]

_ARMS = {f"{name}/results.json": results({"method": {"name": method}}) for name, method in (("a", "paft"), ("b", "user"))}
_TRAINED = {"c/results.json": results({}, trained_by="c")}

COMPARE: Table = [
    ("no runs", "a ; b", {}, "a: there is no results.json; give the folder of a finished run"),
    ("damaged results", "a ; b", {"a/results.json": '{"run": '}, "a/results.json: this is no results.json of a run, or it is"),
    ("results in no UTF-8", "a ; b", {"a/results.json": b"\xff"}, "a/results.json: this is no results.json of a run, or it is"),
    ("results of something else", "a ; b", {"a/results.json": '[{"rows": 1}]'}, "a/results.json: this is no results.json"),
    ("results of an earlier version", "a ; b", {"a/results.json": OLD_RESULTS}, f"a/results.json: {OF_OLD}"),
    ("unlabelled rows", "a ; b", {"a/results.json": results({}, robustness=None)}, "a: its rows have no answers"),
    ("no matrix", "a ; b", {"a/results.json": results({})}, "a/matrix.parquet: there is no such score matrix"),
    ("no score matrix", "a ; b", {"a/results.json": results({}), "a/matrix.parquet": "x"}, "a/matrix.parquet: this score"),
    ("two seeds against one", "a,b ; c", _TRAINED, "2 runs against 1: seeds are compared in pairs"),
    ("a seed twice", "a,./a ; b,c", {}, "a is named twice; the seeds of an arm are different runs."),
    ("an arm of two methods", "a,b ; c,d", _ARMS, "a and b differ in method.name, and the runs of an arm in their seed alone;"),
    ("a page over another", "a ; b ; --report ; .", {"README.md": "# Mine"}, "--report .: README.md is none of paft's pages"),
    ("comparison into a file", "a ; b ; --report ; f", {"f": "x"}, "--report f: f is a file"),
]  # fmt: skip

_UNFINISHED = {"runs/a/run.json": "{}"}


def _finished(results: str) -> Files:
    return {"runs/a/run.json": "{}", "runs/a/results.json": results}


def _whole() -> str:
    """Return the results.json of a whole run."""
    pool = {"name": "p", "prompts": 2, "wordings": 2, "fingerprint": "a", "notes": []}
    prints = {"data": {"test": "a"}, "pools": {"test": pool}, "base_model": {"hub_commit": None, "sample": ""}}
    return results(compose_training([]).model_dump(), fingerprints=prints)


POWER: Table = [
    ("a pilot of one run", "a", {}, "A pilot needs two seeds of a method at least"),
    ("a pilot of unequal sides", "a,b ; c,d,e", {}, "2 runs against 3: give as many of one method as of the other"),
    ("a pilot of one run, twice", "a,a", {}, "a is named twice; the seeds of an arm are different runs."),
    ("a pilot that is not there", "a,b", {}, "a: there is no results.json; give the folder of a finished run"),
    ("no difference", "a,b ; --difference ; 0", {}, "--difference 0: give points of accuracy, above 0 and at most 100"),
]

REPORTS: Table = [
    ("report of no folder", "nowhere", {}, "nowhere: there is no such folder"),
    ("report of no run", ".", {}, ".: there is no finished "),
    ("report of an unfinished run", "runs", _UNFINISHED, "(a: not finished; the same command resumes it)"),
    ("report of a number", "runs", _finished("3"), "(a: this is no results.json of a run, or it is damaged"),
    ("report of a run without a config", "runs", _finished(results({})), "(a: dataset has no value"),
    ("report of an earlier version", "runs", _finished(OLD_RESULTS), f"(a: {OF_OLD}"),
    ("report into a file", ". ; --out ; f", {"f": "x"}, "--out f: f is a file"),
]

SORTED_REPORTS: Table = [
    ("report over a page", ". ; --out ; .", {"README.md": "# Mine"}, "--out .: README.md is none of paft's pages, and"),
    ("report sorted by no column", "runs ; --sort ; lr", _finished(_whole()), "--sort lr: the table has no such column; it"),
]  # fmt: skip

OTHERS = [
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
