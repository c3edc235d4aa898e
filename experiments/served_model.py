"""A run behind a server, measured through its API: python -m experiments.served_model RUN

`paft merge --gguf q8_0` writes the run's model as a GGUF file, llama.cpp's own server (`pip install xllamacpp`) serves it, and
`paft evaluate model.api=...` asks it for the cells that the run was tested on. The page has both, and on how many cells the
8-bit weights behind the server answer as the adapter does here.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import xllamacpp

from paft.cli.hydra_app import run_plain
from paft.config.schema import TrainConfig
from paft.reporting.page import percent
from paft.reporting.results import Results, read_results
from paft.reporting.sweep import report
from paft.runtime.errors import InputError

KEPT = Path("experiments/results/served_model")


def main() -> None:
    """Export, serve, measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.served_model", description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished run on a data set that comes with paft")
    parser.add_argument("--work", type=Path, default=Path("outputs/served_model"), help="where the model and the runs go")
    parser.add_argument("--out", type=Path, default=KEPT, help="where the page goes")
    parser.add_argument("--port", type=int, default=8089, help="of the server; at the same one an evaluation resumes")
    arguments = parser.parse_args()
    config = TrainConfig.model_validate(read_results(arguments.run).config)
    dataset = config.dataset
    if dataset.own_rows:
        raise InputError(f"{arguments.run}: this run is on rows of one's own; name one on a data set that comes with paft.")
    work: Path = arguments.work
    model, root = work / "model", f"output_root={work / 'runs'}"
    if not model.is_dir():
        paft("merge", str(arguments.run), "--out", str(model), "--gguf", "q8_0")
    (file,) = model.glob("*.gguf")
    server = serve(file, arguments.port)
    api = [f"model.api={server.listening_address}/v1", f"model.name={file.name}", "model.chat_template=false"]
    cells = [f"{key}={getattr(config, key) or 'null'}" for key in ("eval_prompts", "eval_examples")]
    cells += [f"data_root={config.data_root}"] if config.data_root else []
    rows = [f"dataset={dataset.name}", *(f"dataset.{key}={getattr(dataset, key)}" for key in ("answer", "options", "shots"))]
    pools = [f"prompts.test={config.prompts.test}"] if config.prompts.test else []
    paft("evaluate", *api, *rows, *pools, *cells, root)
    (served,) = (found for found in finished(work) if found.served is not None)
    alike = f"scoring={served.scoring.scoring}"
    paft("evaluate", f"adapter={arguments.run / 'adapter'}", alike, *pools, *cells, root)
    (local,) = (found for found in finished(work) if found.served is None)
    assert served.served is not None
    same = float((served.scores()["predicted"].to_numpy() == local.scores()["predicted"].to_numpy()).mean())
    notes = [
        f"llama.cpp's server, 8-bit weights, was asked over HTTP; its answers were scored by {served.served.protocol}. The "
        "other row is the adapter on its base model, in this process, scored alike. "
        f"The same answer on {percent(same)}% of the cells.",
    ]
    report([work / "runs"], arguments.out, keep=True, notes=notes)


def finished(work: Path) -> list[Results]:
    """Return the results of the evaluations that are there."""
    return [read_results(path) for path in sorted((work / "runs").glob("eval-*/results.json"))]


def serve(file: Path, port: int) -> "xllamacpp.Server":
    """Return llama.cpp's server, in this process, on a GGUF file."""
    asked = xllamacpp.CommonParams()
    asked.model.path = str(file)
    asked.n_ctx, asked.n_parallel, asked.port = 4096, 2, port
    return xllamacpp.Server(asked)


def paft(*arguments: str) -> None:
    """Run a command of paft's in a process of its own; raises InputError if it fails."""
    done = subprocess.run([sys.executable, "-m", "paft", *arguments], check=False)
    if done.returncode:
        raise InputError(f"paft {' '.join(arguments)}: this failed; why is said above.")


if __name__ == "__main__":
    run_plain(main)
