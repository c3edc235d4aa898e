"""paft train | evaluate | compare | power | report | pools | merge: one command for all that PAFT does."""

import difflib
import importlib
import os
import sys

from paft.runtime.version import __version__

COMMANDS = {
    "train": "fine-tune a model and measure how robust it came out",
    "evaluate": "measure how robust a model is to the wording of its prompt",
    "compare": "tell whether one run is more robust than another, and how sure that is",
    "power": "tell how many seeds, prompts and examples show a difference",
    "report": "put the runs of a sweep into one table, with figures",
    "pools": "construct, audit, perturb, compose, import or show prompt pools",
    "merge": "write the base model with an adapter's weights added in",
}

# What people look for under another name, and where it is.
_ELSEWHERE = {
    "predict": "predictions for rows are written by `paft evaluate adapter=RUN/adapter dataset.path=ROWS output=FILE`",
    "serve": "`paft merge RUN --out FOLDER` writes a model that servers load, and FOLDER/README.md says how",
    "inspect": "open report.html in the folder of a run, or put several runs into one table with `paft report FOLDER`",
}

_LIST = "\n".join(f"  {name:10}{what}" for name, what in COMMANDS.items())
HELP = f"""\
usage: paft COMMAND ...

Prompt-Agnostic Fine-Tuning (arXiv 2502.12859): models that do not depend on the wording of a prompt.

{_LIST}

paft COMMAND --help says more. Settings are typed as in `paft train K=8 T=1`; `paft train -m seed=0,1,2` sweeps.
Completion in bash: eval "$(paft train -sc install=bash)". Version: paft --version.
"""


def main() -> None:
    """Run the command in sys.argv."""
    _route_completion()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(HELP, end="")
    elif name == "--version":
        print(f"paft {__version__}")
    elif name not in COMMANDS:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [sys.argv[0], *sys.argv[2:]]
        # Only now, because some commands import Hydra, which takes longer than the help.
        from paft.cli.hydra_app import run_plain

        run_plain(importlib.import_module(f"paft.cli.{name}").main)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = _ELSEWHERE.get(name) or (f"do you mean {near[0]}" if near else f"give one of {', '.join(COMMANDS)} first")
    return f"{name}: there is no such command; {hint}."


def _route_completion() -> None:
    """Let the command that is being typed answer the shell: Hydra's script asks `paft -sc query=SHELL`, whichever it is."""
    if sys.argv[1:2] != ["-sc"] or not "".join(sys.argv[2:]).startswith("query="):
        return
    program, _, line = os.environ.get("COMP_LINE", "").partition(" ")
    name, space, line = line.lstrip().partition(" ")
    if not space:
        print(" ".join(command for command in COMMANDS if command.startswith(name)))
    if not space or name not in ("train", "evaluate"):
        sys.exit()
    sys.argv.insert(1, name)
    os.environ["COMP_LINE"] = f"{program} {line}"
