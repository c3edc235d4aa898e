"""The model card of an adapter: what it is, how robust it came out, and how to ask it."""

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from paft.config.base_model import file_name, is_gguf
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.data.inputs import Inputs
from paft.model.adapter import EMBEDDED_ON_HUB
from paft.prompts import PromptTemplate
from paft.reporting.results import Results
from paft.reporting.table import certainty, coverage
from paft.runtime.files import write_atomically

_OWN_ROWS = "rows of one's own"


def save_model_card(folder: Path, results: Results, inputs: Inputs) -> None:
    """Write README.md into an adapter's folder."""
    config = TrainConfig.model_validate(results.config)
    assert inputs.train is not None
    template = inputs.train.templates[0]
    if results.selection is not None:
        template = next(t for t in inputs.train.templates if t.id == results.selection.chosen.id)
    card = ModelCard(f"---\n{_data(config, results).to_yaml()}\n---\n\n{_text(config, results, inputs, template)}")
    write_atomically(folder / "README.md", str(card))


def base_name(config: TrainConfig | EvaluateConfig) -> str:
    """Return the name of the base model without any path of this machine: a hub id, or the name of a folder or a GGUF file."""
    path = config.model.path
    if path is None:
        return EMBEDDED_ON_HUB
    if is_gguf(path):
        return file_name(path)
    return Path(path).resolve().name if _is_folder(path) else path


def _is_folder(path: str) -> bool:
    return Path(path).exists() or Path(path).is_absolute()


def _title(config: TrainConfig) -> str:
    rows = _OWN_ROWS if config.dataset.own_rows else config.dataset.name
    return f"{base_name(config).rsplit('/', 1)[-1]}, {config.method.name} on {rows}"


def _data(config: TrainConfig, results: Results) -> ModelCardData:
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
    return ModelCardData(
        base_model=base_name(config),
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["paft", "lora", "prompt-robustness"],
        model_name=_title(config),
        eval_results=evaluations,
    )


def _text(config: TrainConfig, results: Results, inputs: Inputs, template: PromptTemplate) -> str:
    base = base_name(config)
    weights = ""
    if config.model.path is None:
        weights = "\nThe base was trained in its embedded form: 4-bit weights, dequantised.\n"
    elif (origin := results.fingerprints.base_model.dequantised_from) is not None:
        weights = f"\nThe base's weights were dequantised from a {origin}; another copy of the model has other weights.\n"
    robust, plan = results.robustness, results.plan
    assert robust is not None and plan is not None and results.chance is not None
    prompts = f"{plan.templates_seen} prompt templates" if config.method.name == "paft" else "one fixed prompt"
    rows = _OWN_ROWS if config.dataset.own_rows else config.dataset.name
    answers = "the letter of an option" if inputs.test.answer == "letter" else "a text"
    return f"""# {_title(config)}

A LoRA adapter for `{base}`, fine-tuned on {rows} under {prompts}
(Prompt-Agnostic Fine-Tuning, arXiv 2502.12859; K={config.K}, T={config.T}, seed {config.seed}).
{weights}
## How much the wording still matters

| mean | std | worst prompt | best prompt |
|---:|---:|---:|---:|
| {100 * robust.mean:.1f} | {100 * robust.std:.1f} | {100 * robust.min:.1f} | {100 * robust.max:.1f} |

{coverage(robust, results.chance, results.threshold, results.scoring.called)}
{certainty(results.uncertainty)}

## How to ask it

One of the prompts that it was trained on, which it answers with {answers}; the texts of a row go where the braces are:

{_fenced("text", template.text)}

{_fenced("python", _code(config, template))}

`paft.json` holds the settings and the fingerprints of the prompts; the run's `results.json` holds all numbers.
"""


def _code(config: TrainConfig, template: PromptTemplate) -> str:
    """Return Python that asks the adapter, with the very tokens that it was trained to read."""
    model = config.model
    base = f"PATH/TO/{base_name(config)}" if model.path is not None and _is_folder(model.path) else base_name(config)
    more = "" if model.revision is None else f", revision={model.revision!r}"
    if is_gguf(model.path):
        base, more = "PATH/TO/ITS/FOLDER", f", gguf_file={base_name(config)!r}, dtype='float32'"
    fields = ", ".join(f'"{name}": "..."' for name in dict.fromkeys(template.field_order))
    if model.chat_template:
        system = [] if model.system_prompt is None else [f'{{"role": "system", "content": {model.system_prompt!r}}}']
        chat = ", ".join([*system, '{"role": "user", "content": prompt}'])
        ask = f"""prompt = template.format(**row)
chat = [{chat}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""
    else:
        ask = """prompt = template.format(**row).rstrip()
inputs = tokenizer(prompt, return_tensors="pt")"""
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base!r}{more})
model = PeftModel.from_pretrained(base, "PATH/TO/THIS/FOLDER")
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
