"""The model card of an adapter or a whole model: what it is, how robust it came out, how to ask it and how to serve it."""

import re
from pathlib import Path
from typing import Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from paft.config.base_model import file_name, is_gguf
from paft.config.schema import ModelConfig, TrainConfig
from paft.model.adapter import EMBEDDED_ON_HUB
from paft.prompts import PromptTemplate
from paft.prompts.pool import Answer
from paft.reporting.page import short
from paft.reporting.results import Results
from paft.reporting.table import certainty, coverage
from paft.runtime.files import write_atomically

_OWN_ROWS = "rows of one's own"
_LABELS = 20  # that a card names at most

Kind = Literal["adapter", "model"]  # what lies beside a card: an adapter of the base model, or a whole model


def save_model_card(
    folder: Path, results: Results, template: PromptTemplate, answer: Answer, kind: Kind, gguf: str | None = None
) -> None:
    """Write README.md into the folder of an adapter or a model.

    Args:
        results: of the run that trained it.
        template: one that it was trained on.
        answer: what it answers with.
        kind: whether the folder holds an adapter or a whole model.
        gguf: the name of the GGUF file in it.
    """
    config = TrainConfig.model_validate(results.config)
    _write(folder, _data(config, results, kind), _text(config, results, template, answer, kind, gguf))


def save_short_card(folder: Path, model: ModelConfig, gguf: str | None = None) -> None:
    """Write README.md into the folder of a merged model of whose training nothing is known.

    Args:
        model: the settings of the base model.
        gguf: the name of the GGUF file in the folder.
    """
    data = ModelCardData(base_model=base_name(model), library_name="transformers", pipeline_tag="text-generation")
    title = f"{base_name(model).rsplit('/', 1)[-1]} with an adapter merged in"
    _write(folder, data, f"# {title}\n\n## How to serve it\n\n{_serving(model, 'model', gguf)}\n")


def modelfile(gguf: str, model: ModelConfig) -> str:
    """Return a Modelfile, from which `ollama create` makes a model of a GGUF file; it asks as the training did, greedily.

    Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.md.
    """
    lines = [f"FROM ./{gguf}", "PARAMETER temperature 0"]
    if not model.chat_template:
        lines += ["# It was trained without a chat template: prompts go in as they are.", "TEMPLATE {{ .Prompt }}"]
    elif model.system_prompt is not None:
        lines.append(f'SYSTEM """{model.system_prompt}"""')
    return "\n".join(lines) + "\n"


def _write(folder: Path, data: ModelCardData, text: str) -> None:
    write_atomically(folder / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")))


def base_name(model: ModelConfig) -> str:
    """Return the name of the base model without any path of this machine: a hub id, or the name of a folder or a GGUF file.

    Of a served model it is what the server calls it.
    """
    path = model.path
    if model.api is not None:
        return str(model.name)
    if path is None:
        return EMBEDDED_ON_HUB
    if is_gguf(path):
        return file_name(path)
    return Path(path).resolve().name if _is_folder(path) else path


def _is_folder(path: str) -> bool:
    return Path(path).exists() or Path(path).is_absolute()


def _title(config: TrainConfig) -> str:
    rows = _OWN_ROWS if config.dataset.own_rows else config.dataset.name
    return f"{base_name(config.model).rsplit('/', 1)[-1]}, {config.method.name} on {rows}"


def _data(config: TrainConfig, results: Results, kind: Kind) -> ModelCardData:
    """Return the card's metadata, with the accuracies over the test prompts as results that the hub shows."""
    assert results.robustness is not None
    robust = results.robustness
    prompts, called = "unseen" if results.unseen else "test", results.scoring.called
    figures = {
        f"mean {called} over {prompts} prompts": robust.mean,
        f"{called} on the worst {prompts} prompt": robust.min,
        f"std of the {called} over {prompts} prompts": robust.std,
    }
    dataset = config.dataset.hub.id if config.dataset.hub is not None else config.dataset.name
    evaluations = [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=_OWN_ROWS if config.dataset.own_rows else config.dataset.name,
            dataset_split=config.dataset.test_split,
            metric_type=called.lower(),
            metric_name=figure,
            metric_value=round(value, 4),
        )
        for figure, value in figures.items()
    ]
    lora = config.model.lora
    return ModelCardData(
        base_model=base_name(config.model),
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=["paft", *([] if lora is None else [lora.label.lower()]), "prompt-robustness"],
        model_name=_title(config),
        eval_results=evaluations,
    )


def _what(config: TrainConfig, kind: Kind) -> str:
    """Return what was trained of which base model, as the beginning of a sentence."""
    base, lora = f"`{base_name(config.model)}`", config.model.lora
    if lora is None:
        return f"{base}, all of whose weights were"
    return f"A {lora.label} adapter for {base}," if kind == "adapter" else f"{base} with a {lora.label} adapter merged in,"


def _text(config: TrainConfig, results: Results, template: PromptTemplate, answer: Answer, kind: Kind, gguf: str | None) -> str:
    weights = ""
    if config.model.path is None:
        weights = "\nThe base was trained in its embedded form: 4-bit weights, dequantised.\n"
    elif (origin := results.fingerprints.base_model.dequantised_from) is not None:
        weights = f"\nThe base's weights were dequantised from a {origin}; another copy of the model has other weights.\n"
    robust, plan = results.robustness, results.plan
    assert robust is not None and plan is not None and results.chance is not None
    prompts = f"{results.templates_shown} prompt templates" if config.method.name == "paft" else "one fixed prompt"
    rows = _OWN_ROWS if config.dataset.own_rows else config.dataset.name
    answers = "the letter of an option" if answer == "letter" else "a text"
    if answer == "text" and results.labels:
        more = f", and {len(results.labels) - _LABELS} more" if len(results.labels) > _LABELS else ""
        named = (f"`{short(label).replace('`', '')}`" for label in [*results.labels][:_LABELS])
        answers = f"one of these labels: {', '.join(named)}{more}"
    return f"""# {_title(config)}

{_what(config, kind)} fine-tuned on {rows} under {prompts}
(Prompt-Agnostic Fine-Tuning, arXiv 2502.12859; K={config.K}, T={config.T}, seed {config.seed}).
{weights}
## How much the wording still matters

| mean | std | worst prompt | best prompt |
|---:|---:|---:|---:|
| {100 * robust.mean:.1f} | {100 * robust.std:.1f} | {100 * robust.min:.1f} | {100 * robust.max:.1f} |

{coverage(results)}
{certainty(results.uncertainty)}

## How to ask it

One of the prompts that it was trained on, which it answers with {answers}; the texts of a row go where the braces are:

{_fenced("text", template.text)}

{_fenced("python", _code(config.model, template, kind))}

## How to serve it

{_serving(config.model, kind, gguf)}
{_PAFT_JSON if kind == "adapter" else ""}"""


_PAFT_JSON = (
    "\n`paft.json` holds the settings and the fingerprints of the prompts; the run's `results.json` holds all numbers.\n"
)


def _serving(model: ModelConfig, kind: Kind, gguf: str | None) -> str:
    """Return a line for vLLM, and one for Ollama and llama.cpp."""
    path, lora = "completions", model.lora
    if model.chat_template:
        arguments = "" if model.chat_template_args is None else f", with `chat_template_kwargs={model.chat_template_args}`"
        path = f"chat/completions{arguments}"
    merge = "`paft merge RUN --out DIR --gguf q8_0`"
    if kind == "model":
        vllm = "`vllm serve PATH/TO/THIS/FOLDER`"
    elif is_gguf(model.path) or (lora is not None and lora.use_dora):
        what = "adapter of a GGUF file" if is_gguf(model.path) else "DoRA"
        vllm = f"it takes no {what}; `paft merge RUN --out DIR`, then `vllm serve DIR`"
    else:
        rank = "" if lora is None or lora.r <= _VLLM_RANK else f" --max-lora-rank {lora.r}"
        base = base_name(model)
        vllm = (
            f"`vllm serve {base} --enable-lora{rank} --lora-modules paft=PATH/TO/THIS/FOLDER`, where the model `paft` is asked"
        )
    ollama = f"{merge}, then in DIR `ollama create NAME -f Modelfile`"
    llama = ""
    if gguf is not None:
        ollama, llama = "in this folder `ollama create NAME -f Modelfile`", f", or `llama-server -m {gguf}`"
    return f"""* transformers: {"as above" if kind == "adapter" else "`pipeline('text-generation', 'PATH/TO/THIS/FOLDER')`"}.
* vLLM: {vllm}; `/v1/{path}`, temperature 0.
* Ollama and llama.cpp: {ollama}{llama}."""


_VLLM_RANK = 16  # the highest rank that vLLM takes without being told


def _code(model: ModelConfig, template: PromptTemplate, kind: Kind) -> str:
    """Return Python that asks the model, with the very tokens that it was trained to read."""
    base = f"PATH/TO/{base_name(model)}" if model.path is not None and _is_folder(model.path) else base_name(model)
    more = "" if model.revision is None else f", revision={model.revision!r}"
    if is_gguf(model.path):
        base, more = "PATH/TO/ITS/FOLDER", f", gguf_file={base_name(model)!r}, dtype='float32'"
    fields = ", ".join(f'"{name}": "..."' for name in dict.fromkeys(template.field_order))
    if model.chat_template:
        system = [] if model.system_prompt is None else [f'{{"role": "system", "content": {model.system_prompt!r}}}']
        chat = ", ".join([*system, '{"role": "user", "content": prompt}'])
        arguments = "".join(f", {key}={value!r}" for key, value in (model.chat_template_args or {}).items())
        ask = f"""prompt = template.format(**row)
chat = [{chat}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"{arguments})"""
    else:
        ask = """prompt = template.format(**row).rstrip()
inputs = tokenizer(prompt, return_tensors="pt")"""
    peft, load = "", 'model = AutoModelForCausalLM.from_pretrained("PATH/TO/THIS/FOLDER")'
    if kind == "adapter":
        peft = "from peft import PeftModel\n"
        load = f"""base = AutoModelForCausalLM.from_pretrained({base!r}{more})
model = PeftModel.from_pretrained(base, "PATH/TO/THIS/FOLDER")"""
    return f"""{peft}from transformers import AutoModelForCausalLM, AutoTokenizer

{load}
tokenizer = AutoTokenizer.from_pretrained("PATH/TO/THIS/FOLDER")

template = {template.text!r}
row = {{{fields}}}
{ask}
output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""


def _fenced(language: str, text: str) -> str:
    """Return a code block, its fence longer than any in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
