"""The embedded model for real: conversion, packed batches, and the demo's command at a small size."""

import csv
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM

from paft.jobs.train import run_training
from paft.model.attention import NAMES, packed_logits, register
from paft.model.converted import smollm2_folder
from paft.packing import Branches, pack
from tests.conftest import compose_config
from tests.reliability.strike import ROOT


def test_packed_logits_equal_plain_ones_in_fp32():
    register()
    folder = smollm2_folder()
    packed = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=NAMES["eager"])
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sequences = [list(range(1000, 1060)), list(range(2000, 2007))]
    with torch.no_grad():
        got = packed_logits(packed, pack([Branches(s) for s in sequences]), torch.arange(67))
        wanted = torch.cat([plain(torch.tensor([s])).logits[0] for s in sequences])
    assert (got.log_softmax(-1) - wanted.log_softmax(-1)).abs().max() < 1e-3


def test_training_lowers_the_loss(tmp_path):
    small = ["train_examples=96", "T=1", "eval_examples=4", "eval_prompts=2", "validation.prompts=2", "validation.examples=4"]
    config = compose_config("experiment=demo", *small, f"output_root={tmp_path}", "trainer.progress=false")
    results = run_training(config)
    rows = csv.DictReader((results.folder / "log" / "version_0" / "metrics.csv").open())
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert len(losses) == 12 and sum(losses[-4:]) < 0.6 * sum(losses[:4])
    assert results.training.tokens_per_s > 0 and results.fingerprints.base_model.sample


def test_the_demo_prints_and_writes_the_comparison(tmp_path):
    small = ["train_examples=16", "T=1", "eval_examples=4", "eval_prompts=3", "validation.prompts=2", "validation.examples=2"]
    command = [
        sys.executable,
        "experiments/demo.py",
        "--report",
        tmp_path / "report",
        f"output_root={tmp_path / 'runs'}",
        *small,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "on unseen prompts PAFT has a mean of " in done.stdout
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"README.md", "results.json", "story_facts.png"}
