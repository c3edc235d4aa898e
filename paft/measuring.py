"""From a model to a score matrix on disk: what the end of a training run and an evaluation have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from paft.config import ModelConfig
from paft.data.encode import Encoder
from paft.data.rows import fingerprint
from paft.data.task import Example
from paft.evaluation.answers import Metric
from paft.evaluation.generation import MAX_NEW_TOKENS, Generation
from paft.evaluation.likelihood import Model, Normalise
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.merging import merge_within_tolerance
from paft.evaluation.scoring import Way, answering_by, score
from paft.evaluation.store import MatrixStore
from paft.model.attention import NAMES
from paft.model.base import kernel_of, weights_fingerprint
from paft.model.identity import adapter_digest
from paft.prompts import PromptPool


@dataclass(frozen=True)
class Measured:
    """A finished matrix. seconds is what scoring took, by prompt id; how says by which settings, in plain types."""

    matrix: ScoreMatrix
    path: Path
    seconds: dict[str, float]
    how: dict[str, Any]


class Measuring:
    """A model that is ready to be measured: its adapter merged where that is no loss, its attention the fastest.

    Args:
        identity: what the numbers depend on besides the weights and these settings, in plain types.
    """

    def __init__(
        self,
        model: Model,
        encoder: Encoder,
        config: ModelConfig,
        adapter: Path | None,
        identity: Mapping[str, Any],
        batch_tokens: int,
        progress: bool,
    ) -> None:
        self.model, self.encoder, self.batch_tokens, self.progress = model, encoder, batch_tokens, progress
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        assert isinstance(base, PreTrainedModel)
        base.set_attn_implementation(NAMES[kernel_of(config, base.device, backward=False)])
        self.merged: bool | None = None if config.quantization is None else False  # None: not yet tried
        self.identity = {
            **identity,
            "base": weights_fingerprint(base),
            "adapter": None if adapter is None else adapter_digest(adapter),
            "dtype": str(base.dtype),
            "attention": base.config._attn_implementation,
            "device": base.device.type,
            "batch_tokens": batch_tokens,
        }

    def __call__(
        self,
        folder: Path,
        pool: PromptPool,
        examples: Sequence[Example],
        metric: Metric,
        scoring: Way | None = None,
        normalise: Normalise | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        name: str = "matrix",
    ) -> Measured:
        """Score a pool on examples into `folder`/NAME.parquet, or go on with it, or read it."""
        if isinstance(self.model, PeftModel) and self.merged is None:
            self.merged = merge_within_tolerance(self.model, self.encoder, pool, examples, self.batch_tokens)
        answering = answering_by(self.model, self.encoder, pool, examples, metric, scoring, normalise, max_new_tokens)
        if isinstance(answering, Generation):
            how: dict[str, Any] = {
                "scoring": "generate",
                "max_new_tokens": max_new_tokens,
                "stop_at_line_break": answering.stop.at_line_break,
            }
        else:
            how = {"scoring": "likelihood", "normalise": answering.normalise}
        how |= {"merged": bool(self.merged), "prompts_with_split_letters": self._split_letters(pool, examples)}
        content = {"pool": pool.fingerprint, "examples": fingerprint(examples)}
        store = MatrixStore(folder, {**self.identity, **how, **content}, name)
        matrix = score(
            answering, self.encoder, pool, examples, batch_tokens=self.batch_tokens, progress=self.progress, store=store
        )
        return Measured(matrix, store.path, store.seconds(), how)

    def _split_letters(self, pool: PromptPool, examples: Sequence[Example]) -> int:
        """Count the prompts after which an option's letter is not one token; its log-probability is then a sum."""
        if self.encoder.answer != "letter":
            return 0
        first = [self.encoder.scoring(template, examples[0]).continuations for template in pool.templates]
        return sum(any(len(letter) > 1 for letter in letters) for letters in first)
