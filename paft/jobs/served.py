"""The parts of an evaluation that differ where the model is served: trying its server, the plan, and what results say of it.

Nothing heavy is imported here, so that a server that is down shows at once.
"""

import hashlib
import json
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from paft.config.schema import EvaluateConfig
from paft.data.inputs import EvaluationInputs, answer_kind
from paft.evaluation.metrics import metric_of
from paft.evaluation.served import Asked, Found, find, read_asking
from paft.runtime import ranks
from paft.runtime.errors import InputError
from paft.runtime.run_folder import RunFolder

if TYPE_CHECKING:
    from paft.evaluation.evaluator import Scored
    from paft.evaluation.served_scoring import ServedEvaluator

_CHARACTERS_PER_TOKEN = 4  # of English, roughly
_SAMPLE = 64  # renderings of which the length is estimated


def asked_of(config: EvaluateConfig, inputs: EvaluationInputs) -> Asked:
    """Return what the cells of an evaluation are asked for."""
    model, hidden = config.model, inputs.pool.options == "hidden"
    labels = config.dataset.labels is not None  # which a model may write without having been shown them
    for_chats = model.system_prompt is not None or model.chat_template_args is not None
    return Asked(
        answer=answer_kind(config.dataset, inputs.task),
        metric=metric_of(config.dataset),
        chat=True if for_chats else model.chat_template,
        scoring=config.scoring,
        hidden=hidden and not labels,
        normalise=config.normalise or ("byte" if hidden else "sum"),
        space=config.dataset.answer_space,
        max_new_tokens=config.max_new_tokens,
        shots=inputs.shots,
    )


def find_served(config: EvaluateConfig, inputs: EvaluationInputs, folder: RunFolder) -> Found | None:
    """Return what the server of an evaluation gives; None if the evaluation is finished.

    Raises InputError if the server cannot be used.
    """
    if ranks.n_ranks() > 1:
        raise InputError(
            "model.api: one process asks a server, with model.api_requests at a time; start it without a launcher."
        )
    if folder.results.is_file():
        from paft.jobs.finished import has_results

        if has_results(folder, config.dataset):
            return None
    asked = asked_of(config, inputs)
    if not asked.protocols():
        raise InputError(
            "model.chat_template=true: servers give the log-probability of a text without a chat only; give "
            f"model.chat_template=false and no system prompt{'' if asked.hidden else ', or scoring=generate'}."
        )
    return find(config.model, asked, inputs.pool, inputs.examples, read_asking(folder.path).given_up)


def served_plan(config: EvaluateConfig, inputs: EvaluationInputs, found: Found) -> list[str]:
    """Return the lines of the plan that say what is asked of a server, and what that may cost."""
    model, protocol = config.model, found.protocol
    says = ", ".join(f"{key}={value}" for key, value in (found.entry or {}).items() if isinstance(value, str | int))
    says = says or "not in its list of models"
    n_prompts, n_examples = len(inputs.pool.templates), len(inputs.examples)
    n_cells = n_prompts * n_examples
    places = [place * n_cells // _SAMPLE for place in range(_SAMPLE)]
    asked = asked_of(config, inputs)
    each = [_characters(inputs, asked, *divmod(place, n_examples), echoes=protocol.way == "echo") for place in places]
    n_requests = n_prompts * sum(len(row.choices) for row in inputs.examples) if protocol.way == "echo" else n_cells
    read = round(sum(each) / len(each) * n_cells / _CHARACTERS_PER_TOKEN)
    written = n_requests * (config.max_new_tokens if protocol.way == "generate" else 1)
    cost = ""
    if model.price_in is not None and model.price_out is not None:
        cost = f", at most about ${(read * model.price_in + written * model.price_out) / 1e6:.2f}"
    return [
        f"  server    {model.api}, {model.name} ({says}), {model.api_requests} requests at a time",
        f"  answers   by {protocol}",
        f"  requests  about {n_requests:,}, with about {read:,} tokens of prompts ({_CHARACTERS_PER_TOKEN} characters a token) "
        f"and at most {written:,} of answers{cost}",
    ]


def _characters(inputs: EvaluationInputs, asked: Asked, prompt: int, example: int, echoes: bool) -> int:
    """Return the characters that are sent for a cell."""
    row = inputs.examples[example]
    n = len(asked.prompt(inputs.pool.templates[prompt], row))
    return n * len(row.choices) + sum(map(len, row.choices)) if echoes else n


def served_evaluator(
    config: EvaluateConfig, inputs: EvaluationInputs, found: Found | None, folder: RunFolder
) -> "ServedEvaluator":
    """Return what scores the served model of an evaluation."""
    from paft.evaluation.served_scoring import ServedEvaluator

    assert found is not None, "an evaluation that is not finished has tried its server"
    asked = asked_of(config, inputs)
    return ServedEvaluator(config.model, found, asked, folder.identity, folder.path, config.trainer.progress)


def served_origin(evaluator: "ServedEvaluator", scored: "Scored") -> dict[str, Any]:
    """Return what results say of a served model and of its server, by their keys."""
    import torch

    from paft.evaluation.store import read_cells
    from paft.reporting.provenance import peak_memory_bytes, provenance
    from paft.reporting.results import BaseModelRecord, Device, RepeatedCells, ServedRecord

    model, found, usage = evaluator.model, evaluator.found, evaluator.asking.usage
    assert model.api is not None and model.name is not None and evaluator.first is not None
    protocol, repeated = evaluator.first
    log_probs = read_cells(scored.path, ["log_probs"])["log_probs"].to_pylist()
    cost = None
    if model.price_in is not None and model.price_out is not None:
        cost = (usage.prompt_tokens * model.price_in + usage.completion_tokens * model.price_out) / 1e6
    record = ServedRecord(
        url=model.api,
        name=model.name,
        entry=found.entry,
        answers_as=found.answers_as,
        protocol=str(protocol),
        given_up=evaluator.asking.given_up,
        **asdict(usage),
        cost=cost,
        letters_not_listed=sum(-float("inf") in values for values in log_probs),
        repeated=RepeatedCells(**asdict(repeated)),
    )
    here = torch.device("cpu")
    came_from = provenance(here)
    says = json.dumps([model.api, model.name, found.entry], sort_keys=True)
    return {
        **came_from,
        "versions": came_from["versions"] | {"openai": metadata.version("openai")},
        "device": Device(type="server", name=model.api),
        "dtype": "as served",
        "peak_memory_bytes": peak_memory_bytes(here),
        "base_model": BaseModelRecord(hub_commit=None, sample=f"served:{hashlib.sha256(says.encode()).hexdigest()[:16]}"),
        "served": record,
    }
