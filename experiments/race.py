"""The page of the RACE runs that are kept in experiments/results/race_qwen05: python -m experiments.race

First evidence on real data: 3,000 of RACE's training rows, 200 of its test rows under all 50 test prompts, two seeds. By their
configs the runs come from

    python train.py -m dataset=race model.path=MODEL method=paft,user seed=0,1 K=4 T=3 train_examples=3000 \\
        optim.lr=3e-4 model.lora.dropout=0.0 validation.prompts=4 validation.examples=40 eval_examples=200

and from method=base and method=top_accuracy method.budget=2400 (seed 0).
"""

from pathlib import Path

from paft.cli.hydra_app import run_plain
from paft.reporting.compare import compare_sides
from paft.reporting.page import bracketed, percent
from paft.reporting.sweep import report

KEPT = Path("experiments/results/race_qwen05")

_NOTES = (
    "First evidence, no benchmark: two seeds (the search: one), 3,000 of RACE's training rows, 200 of its test rows, one "
    "model, the same learning rate for all methods, fixed beforehand.",
    "What is missing: the runs name no commit of the code; their model is called qwen2.5-coder-0.5b-instruct, which is a "
    "placeholder and no place on the hub. It is Qwen2.5-Coder-0.5B-Instruct, its weights dequantised from a GGUF file, "
    "on one H100.",
)


def paired_note() -> str:
    """Compare PAFT with one fixed prompt, paired on both seeds."""
    paft, user = (sorted((KEPT / "runs").glob(f"*-{method}-*seed[01]-*")) for method in ("paft", "user"))
    compared = compare_sides(paft, user)
    pair, sides = compared.comparison, (compared.a, compared.b)
    seeds = [" and ".join(percent(float(run.matrix.correct.mean())) for run in side) for side in sides]
    p = "" if pair.p is None else f" (permutation p = {pair.p:.3f})"
    return (
        f"PAFT less one fixed prompt, paired, seeds 0, 1: mean {bracketed(pair.mean, '+')} points "
        f"({seeds[0]} against {seeds[1]}), on {pair.wins} of the 50 prompts. The worst prompt, "
        f"chosen on other examples, hardly moves: {percent(pair.worst_a)} instead of {percent(pair.worst_b)}; and PAFT varies "
        f"more over prompts, less the examples' noise: std {percent(pair.std_a.value)} instead of "
        f"{percent(pair.std_b.value)}{p}. One fixed prompt is little above chance."
    )


def main() -> None:
    """Write the page."""
    report([KEPT / "runs"], KEPT, keep=True, notes=[*_NOTES, paired_note()])


if __name__ == "__main__":
    run_plain(main)
