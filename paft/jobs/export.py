"""Exporting what a run has trained: a plain model folder with its card and, for llama.cpp and Ollama, a GGUF file."""

import json
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import PreTrainedModel

from paft.config.adapter import METADATA, is_whole_model
from paft.config.schema import ModelConfig
from paft.model.adapter import merged, save_whole, unmerged_settings
from paft.model.base import load_config, load_tokenizer, load_weights
from paft.model.gguf_export import Quantisation, check_exportable, write_gguf
from paft.model.identity import revision_of
from paft.prompts import PromptTemplate
from paft.prompts.pool import Answer
from paft.prompts.readers import read_prompts
from paft.reporting.model_card import modelfile, save_model_card, save_short_card
from paft.reporting.results import read_results
from paft.runtime.errors import InputError
from paft.runtime.files import appears_whole, write_atomically
from paft.runtime.process import quieten

Dtype = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export(
    source: Path, out: Path, dtype: Dtype = "fp32", quantisation: Quantisation | None = None, remote_code: bool = False
) -> None:
    """Write a trained model as a folder that transformers and vLLM open, which appears whole or not at all.

    Args:
        source: RUN/adapter, which is merged into its base model, or RUN/model, all of whose weights were trained.
        out: the new folder: weights, generation config, tokenizer and README.md.
        dtype: of the weights in it.
        quantisation: of a GGUF file beside them, with a Modelfile for Ollama; None: no such file.
        remote_code: whether code that comes with the base model may be run; the adapter does not decide that.

    Raises InputError if the adapter does not belong to its base model, the merged model would not score as the adapter does,
    or the model cannot be written in this form.
    """
    quieten()
    settings = _settings(source, remote_code)
    tokenizer = load_tokenizer(settings)
    if quantisation is not None:
        check_exportable(load_config(settings), tokenizer)
    model = load_weights(settings, torch.device("cpu")) if is_whole_model(source) else merged(source, remote_code)
    gguf = None if quantisation is None else f"{out.name}-{quantisation}.gguf"
    with appears_whole(out) as folder:
        if gguf is not None and quantisation is not None:
            alone = folder / "gguf"  # what lies beside the file would be read with it
            alone.mkdir()
            write_gguf(model, tokenizer, alone / gguf, quantisation, out.name)
            (alone / gguf).rename(folder / gguf)
            alone.rmdir()
            write_atomically(folder / "Modelfile", modelfile(gguf, settings))
        save_whole(_rounded(model, dtype), folder, revision_of(settings))
        tokenizer.save_pretrained(folder)
        _save_card(source, folder, settings, gguf)


def _settings(source: Path, remote_code: bool) -> ModelConfig:
    """Return how the base model of an adapter, or a trained model, is loaded, in fp32."""
    if not is_whole_model(source):
        return unmerged_settings(source, remote_code)
    try:
        about: dict[str, Any] = json.loads((source / METADATA).read_text(encoding="utf-8"))
        here = {"path": str(source), "revision": None, "dtype": "fp32", "remote_code": remote_code}
        return ModelConfig.model_validate(about["model"] | here)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{source / METADATA}: this file is damaged; train the model again.") from None


def _rounded(model: PreTrainedModel, dtype: Dtype) -> PreTrainedModel:
    """Round a model's weights in place; raises InputError if some exceed the range of fp16."""
    if dtype == "fp16":
        limit = torch.finfo(torch.float16).max
        for name, weight in model.named_parameters():
            if float(weight.detach().abs().max()) > limit:
                raise InputError(f"--dtype fp16: {name} has values beyond the range of fp16; use bf16.")
    return model.to(_DTYPES[dtype])  # type: ignore[arg-type]


def _save_card(source: Path, folder: Path, settings: ModelConfig, gguf: str | None) -> None:
    """Write README.md, with the numbers of the run that trained the model where its folder lies around the source."""
    run = source.resolve().parent
    if not (run / "results.json").is_file() or not (run / "prompts" / "train.yaml").is_file():
        save_short_card(folder, settings, gguf)
        return
    results, prompts = read_results(run), read_prompts(run / "prompts" / "train.yaml")
    rows = [row for _, row in prompts.rows]
    chosen = rows[0] if results.selection is None else next(row for row in rows if row["id"] == results.selection.chosen.id)
    answer = cast(Answer, prompts.header["answer"])
    save_model_card(folder, results, PromptTemplate(str(chosen["text"]), str(chosen["id"])), answer, "model", gguf)
