"""Robust: the search for the training prompt that stays most accurate when its text is perturbed.

After BATprompt (Shi et al., "Robustness-aware Automatic Prompt Optimization", arXiv 2412.18196), which improves a prompt
against perturbations of its text. As in the paper's comparison, the result is one prompt of the training pool.
"""

import random

from paft.prompts import PromptTemplate
from paft.prompts.perturb import changed
from paft.selection.budget import KINDS
from paft.selection.scorer import Scorer, Selection, Trial


def robust(score: Scorer, seed: int) -> Selection:
    """Choose the prompt of the pool with the highest mean accuracy under four perturbations; of equals the first."""
    templates = score.pool.templates
    n = score.share(len(KINDS) * len(templates))
    rng = random.Random(f"robust {seed}")
    variants = [PromptTemplate(changed(t.text, kind, rng), f"{t.id}-{kind}") for t in templates for kind in KINDS]
    means = score(variants, n).reshape(len(templates), len(KINDS)).mean(axis=1)
    trace = tuple(Trial(t.id, float(mean), n * len(KINDS)) for t, mean in zip(templates, means, strict=True))
    return Selection(templates[int(means.argmax())], trace)
