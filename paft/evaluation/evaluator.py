"""From a model and a pool to a finished score matrix on disk, at the end of a training run and in an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from paft.config.schema import ModelConfig, TrainerConfig
from paft.data.encode import RULES, Encoder
from paft.data.splits import fingerprint
from paft.data.tasks.base import Example
from paft.evaluation.generation import Generation
from paft.evaluation.matrix import ScoreMatrix
from paft.evaluation.merging import merge_within_tolerance
from paft.evaluation.scoring import Scoring, answering_by, score
from paft.evaluation.store import MatrixStore
from paft.model.base import Model, switch_attention, weights_fingerprint, without_adapter
from paft.model.identity import adapter_digest
from paft.model.sharding import is_sharded
from paft.prompts import PromptPool


@dataclass(frozen=True)
class Scored:
    """A finished score matrix.

    path is the matrix's file. seconds is the time that scoring took, by prompt id. settings says how cells were scored, in
    plain types.
    """

    matrix: ScoreMatrix
    path: Path
    seconds: dict[str, float]
    settings: dict[str, Any]


class Evaluator:
    """Scores a model on pools of prompts, into files.

    The model is switched to the fastest attention for scoring. Its adapter is merged into the base model before the first
    pool is scored, unless that costs precision or the base model is quantised.

    Args:
        adapter: the folder of the adapter; None: a base model.
        identity: what the scores depend on besides the weights and these settings, in plain types.
        trainer: tokens of a batch, whether to replay CUDA graphs and whether to show a progress bar.
    """

    def __init__(
        self,
        model: Model,
        encoder: Encoder,
        config: ModelConfig,
        adapter: Path | None,
        identity: Mapping[str, Any],
        trainer: TrainerConfig,
    ) -> None:
        self.model, self.encoder = model, encoder
        self.batch_tokens, self.progress = trainer.micro_batch_tokens, trainer.progress
        self.graphs = trainer.graphs == "auto" and not is_sharded(model)
        base = without_adapter(model)
        switch_attention(base, config, backward=False)
        self._may_merge = isinstance(model, PeftModel) and config.quantization is None and not is_sharded(model)
        self._merged: bool | None = None  # None: merging has not been tried yet
        self.identity = {
            **identity,
            "base": weights_fingerprint(base),
            "adapter": None if adapter is None else adapter_digest(adapter),
            "encoding": [encoder.fingerprint, RULES],
            "dtype": str(base.dtype),
            "attention": base.config._attn_implementation,
            "device": base.device.type,
            "batch_tokens": self.batch_tokens,
        }

    def score(
        self, folder: Path, pool: PromptPool, examples: Sequence[Example], scoring: Scoring, name: str = "matrix"
    ) -> Scored:
        """Score every prompt of a pool on every example into `folder`/NAME.parquet.

        A matrix of the same model, prompts, examples and settings is read if it is finished, and resumed if it is not.
        """
        self._merge_once(pool, examples)
        answering = answering_by(self.model, self.encoder, pool, examples, scoring, self.graphs)
        if isinstance(answering, Generation):
            settings: dict[str, Any] = {
                "scoring": "generate",
                "max_new_tokens": scoring.max_new_tokens,
                "stop_at_line_break": answering.stop.at_line_break,
            }
        else:
            settings = {"scoring": "likelihood", "normalise": answering.normalise}
        settings |= {"merged": bool(self._merged), "prompts_with_split_letters": self._split_letters(pool, examples)}
        content = {"pool": pool.fingerprint, "examples": fingerprint(examples)}
        store = MatrixStore(folder, {**self.identity, **settings, **content}, name)
        settings["metric"] = scoring.metric.as_json()  # no part of what the texts depend on
        matrix = score(
            answering, self.encoder, pool, examples, batch_tokens=self.batch_tokens, progress=self.progress, store=store
        )
        return Scored(matrix, store.path, store.seconds(), settings)

    def _merge_once(self, pool: PromptPool, examples: Sequence[Example]) -> None:
        """Merge the adapter before the first pool is scored, so that all pools are scored with the same weights."""
        if self._merged is None and self._may_merge:
            assert isinstance(self.model, PeftModel)
            self._merged = merge_within_tolerance(self.model, self.encoder, pool, examples, self.batch_tokens)

    def _split_letters(self, pool: PromptPool, examples: Sequence[Example]) -> int:
        """Count the prompts after which an option's letter is several tokens; its log-probability is then a sum."""
        if self.encoder.answer != "letter":
            return 0
        letters_by_prompt = [self.encoder.scoring(template, examples[0]).continuations for template in pool.templates]
        return sum(any(len(letter) > 1 for letter in letters) for letters in letters_by_prompt)
