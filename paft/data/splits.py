"""Splitting examples into train and validation, in an order that no run's seed changes, and fingerprinting them."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from paft.data.tasks.base import Example
from paft.runtime.errors import InputError

# Cuts and slices are the same whatever the run's seed, so that runs of all seeds are compared on the same examples.
_SPLIT_SEED = 20250218
_VALIDATION_SHARE, _VALIDATION_MOST = 0.1, 1000


def fingerprint(examples: Sequence[Example]) -> str:
    """Return SHA-256 (first 16 hex digits) over ids, fields, answers and groups in their order."""
    digest = hashlib.sha256()
    for e in examples:
        several = [e.others] if e.others else []  # as it was before rows could have several answers
        digest.update(json.dumps([e.id, dict(e.fields), e.gold, e.answer, e.group, *several], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def shuffled(examples: list[Example]) -> list[Example]:
    """Return the examples in a pseudo-random order that is the same for every run."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(examples))
    return [examples[i] for i in order]


def cut_validation(examples: list[Example], name: str) -> tuple[list[Example], list[Example]]:
    """Set whole groups aside for validation until its share is reached; return (validation, rest)."""
    target_size = min(max(1, round(_VALIDATION_SHARE * len(examples))), _VALIDATION_MOST)
    groups: set[str] = set()
    size: dict[str, int] = {}
    for example in examples:
        size[example.group] = size.get(example.group, 0) + 1
    taken = 0
    for group in dict.fromkeys(e.group for e in examples):
        if taken >= target_size:
            break
        groups.add(group)
        taken += size[group]
    validation = [e for e in examples if e.group in groups]
    rest = [e for e in examples if e.group not in groups]
    if not rest:
        raise InputError(f"dataset={name}: no row of train.jsonl is left after the cut for validation; give it more rows.")
    return validation, rest
