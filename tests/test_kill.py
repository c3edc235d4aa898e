"""kill -9 during an evaluation: started again it goes on, and ends with the matrix of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from paft.cli import CONFIG_PATH
from paft.evaluation.store import read_cells


def test_a_killed_process_loses_nothing(tiny_llama, tmp_path):
    shape = ["dataset=story_facts", "model=smollm2_135m", f"model.path={tiny_llama}", "model.dtype=fp32", "accelerator=cpu"]
    small = ["eval_prompts=16", "eval_examples=150", "batch_tokens=200", "progress=false"]

    def command(root: Path) -> list[str]:
        return [sys.executable, "evaluate.py", *shape, *small, f"output_root={root}"]

    settings = {"cwd": Path(CONFIG_PATH).parent, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, **settings)
    killed = tmp_path / "killed"
    for wanted in (1, 300):  # batches that are there when the blow falls
        process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
        while process.poll() is None and len(list(killed.glob("*/.matrix-*/*.parquet"))) < wanted:
            time.sleep(0.01)
        assert process.poll() is None, "the evaluation ended too soon for this test"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(killed), check=True, capture_output=True, **settings)
    (one,), (other,) = (list((tmp_path / name).glob("eval-*/matrix.parquet")) for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes() and len(read_cells(one)) == 16 * 150
    assert not list(killed.glob("*/.matrix-*"))
