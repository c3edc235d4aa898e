"""Planning a run before it starts: its updates and tokens, how many templates it shows, and the memory that it needs."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import fmean

from paft.config.base_model import called, is_gguf
from paft.config.schema import EvaluateConfig, TrainConfig
from paft.data.encode import Encoder
from paft.data.inputs import EvaluationInputs, Inputs
from paft.data.render import answers_under
from paft.data.shots import Shots
from paft.data.spans import of_template
from paft.data.tasks.base import Example
from paft.data.updates import Coverage, Updates, foreseen, mutator_of, updates_of
from paft.jobs.preflight import BesideRun, fitting_validation
from paft.model.base import Model, attention_of, device_of, load_config, multiplies_bf16_fast
from paft.model.fused import fused_kind
from paft.model.memory import training_memory
from paft.prompts import PromptPool
from paft.prompts.by_loss import ByLossSampler
from paft.prompts.mutate import Mutator
from paft.prompts.parts import shown_order
from paft.prompts.sampling import families_of, names_families
from paft.prompts.schedule import Draw
from paft.reporting.page import counted
from paft.reporting.plan import Plan
from paft.reporting.table import rows_left_out, seen_prompts
from paft.runtime.errors import InputError
from paft.selection.budget import KINDS

_SAMPLE = 64  # training renderings that are tokenised to estimate tokens
_SAMPLED_UPDATES = 16  # in which answers are compared under their templates


def make_plan(config: TrainConfig, inputs: Inputs, encoder: Encoder, without_weights: Model) -> Plan:
    """Return the plan of a run: its examples, updates, templates, tokens, renderings and memory.

    Raises InputError if the run is to compare answers, and none can be.

    Args:
        without_weights: the model as it is trained, on torch's meta device.
    """
    examples = inputs.examples
    count = tokens = longest = memory = 0
    compared = None
    seen = Coverage(0, 0, 0)
    if inputs.train is not None:
        drawn_from = inputs.train.head(1) if config.method.searches else inputs.train  # a search chooses a single one
        updates = updates_of(foreseen(config), len(examples.train), drawn_from, examples.task, len(examples.unlabelled))
        seen = updates.seen()
        count = updates.total
        lengths = []
        shots = Shots(examples.train, config.dataset.shots, config.seed)
        for i, example in enumerate(examples.train[:_SAMPLE]):
            template = inputs.train.templates[i % len(inputs.train.templates)]
            encoded = encoder.training(template, example, shots.of(Draw(0, 0), i))
            lengths.append(len(encoded.context) + len(encoded.continuations[0]))
        longest = max(lengths)
        renderings_per_device = -(-updates.most_renderings // config.trainer.devices)  # rounded up
        together = _kept_together(config) * longest
        micro_batch_tokens = max(together, min(config.trainer.micro_batch_tokens, renderings_per_device * longest))
        device = device_of(config.trainer.accelerator)
        shards = config.trainer.devices if config.trainer.strategy == "fsdp" else 1
        memory = training_memory(config.model, without_weights, device, max(micro_batch_tokens, longest), longest, shards)
        if config.loss.name == "consistent":
            compared = _compared(updates, [*examples.train, *examples.unlabelled], len(examples.train), encoder)
        if config.loss.name == "perturbed":
            _check_own_words(inputs.train, examples.train[0], encoder)
        renderings = len(examples.train) * config.T * (updates.templates_per_update if updates.paired else 1)
        renderings += count * (updates.most_renderings - config.examples_per_update)  # of unlabelled rows
        tokens = round(sum(lengths) / len(lengths) * renderings)
    return Plan(
        train_examples=len(examples.train),
        validation_examples=min(len(examples.validation), config.validation.examples),
        test_examples=len(examples.test),
        updates=count,
        draws=seen.draws,
        templates=0 if inputs.train is None else len(inputs.train.templates),
        wordings=0 if inputs.train is None else inputs.train.n_wordings,
        templates_seen=seen.templates,
        layouts_seen=seen.layouts,
        tokens=tokens,
        longest=longest,
        compared=compared,
        devices=config.trainer.devices,
        memory_bytes=memory,
        search_renderings=_search_renderings(config, inputs),
        test_renderings=len(inputs.test.templates) * len(examples.test),
    )


def _search_renderings(config: TrainConfig, inputs: Inputs) -> int:
    """Return how many renderings a search scores at most: its budget, or all there are."""
    if inputs.train is None or config.method.budget is None or not config.method.searches:
        return 0
    variants = len(KINDS) if config.method.name == "robust" else 1
    return min(config.method.budget, variants * len(inputs.train.templates) * len(inputs.examples.validation))


def _kept_together(config: TrainConfig) -> int:
    """Return how many renderings of an update must be in one micro-batch."""
    n = config.sampler.templates_per_update
    if not config.loss.compares:
        return 1
    return n if config.sampler.paired else -(-config.examples_per_update // n)


def _compared(updates: Updates, examples: Sequence[Example], n_labelled: int, encoder: Encoder) -> float:
    """Return the share of the answers in a sample of updates that are one of the same, of the same tokens, under all templates.

    Raises InputError if there is none such, or none of a row without an answer where there are such rows.

    Args:
        examples: the first n_labelled have answers; those of the others are not read.
    """
    alike: dict[bool, list[bool]] = {True: [], False: []}  # by whether rows have answers
    for tagged in islice(updates.of_epoch(0), _SAMPLED_UPDATES):
        answers: dict[int, set[tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]]] = {}
        for tag in tagged:
            encode = encoder.training if tag.row < n_labelled else encoder.asking
            template, example = updates.sampler.template(tag.draw, tag.template), examples[tag.row]
            offered, encoded = answers_under(template, example, encoder.answer), encode(template, example)
            answers.setdefault(tag.row, set()).add((tuple(offered), tuple(map(tuple, encoded.continuations))))
        for row, found in answers.items():
            alike[row < n_labelled].append(len(found) == 1)
    if not all(any(own) for own in alike.values() if own):
        of = "answer" if not any(alike[True]) else "answer of an unlabelled row"
        raise InputError(
            f"loss=consistent: in the first {_SAMPLED_UPDATES} updates no {of} has the same tokens under all templates "
            "that it is shown under, so that nothing can be compared; leave option_order out of sampler.mutations, let all "
            "training prompts end alike, in front of the answer, or use loss=mean."
        )
    return fmean([*alike[True], *alike[False]])


def _check_own_words(pool: PromptPool, example: Example, encoder: Encoder) -> None:
    """Raise InputError if it cannot be told which tokens are a template's own words, or if no template has any."""
    if not encoder.tokenizer.is_fast:
        raise InputError(
            "loss=perturbed: the model's tokenizer does not say where in a text its tokens stand, which a fast one does; use a "
            "model that has a tokenizer.json, or another loss."
        )
    contexts = ((template, encoder.training(template, example).context) for template in pool.templates)
    if not any(any(of_template(encoder, template, example, (), context)) for template, context in contexts):
        raise InputError(
            "loss=perturbed: no token of the training prompts is a template's own word, because the chat template changes them "
            "or they hold fields alone; set model.chat_template=false, or use another loss."
        )


# Learning rates that models of less than so many weights learnt with from 400 to 3,000 rows, 150 to 1,125 updates: 0.13 billion
# weights in experiments/results/demo, where it was chosen on validation prompts, and in paper_cpu; 0.49 billion in race_qwen05.
# The default is the paper's, for 8 billion weights and up to 20,000 rows. Kept results say nothing of what lies between.
_LEARNT_WITH = ((0.3e9, 2e-3), (1e9, 3e-4))
_FEW_UPDATES = 2000
_TOO_LOW = 0.4  # share of that rate below which it is worth a word; the best rates are known to a factor of two
_OFTEN = 0.05  # of the updates: from here on it is worth a word
_FULL = 5e-4  # about where rates are LoRA's, which are ten times those of all weights (https://thinkingmachines.ai/blog/lora)


def advice(config: TrainConfig, plan: Plan, n_weights: int) -> list[str]:
    """Return what to type where settings do not fit a run, each with the reason; nothing is changed.

    Args:
        n_weights: of the base model.
    """
    if not config.method.trains:
        return []
    lines = []
    more = plan.updates * config.sampler.templates_per_update  # draws of K=1
    fits = config.method.name != "paft" or config.schedule.unit != "update" or plan.draws >= min(plan.templates, more)
    if not fits:
        lines.append(f"K=1: {counted(plan.draws, 'draw')} for {counted(plan.templates, 'template')}; K=1 makes {more:,}")
    small = n_weights < _LEARNT_WITH[0][0]
    fitting = next((rate for size, rate in _LEARNT_WITH if n_weights < size), None)
    if config.model.lora is None:
        if config.optim.lr >= _FULL:
            lines.append(f"optim.lr={config.optim.lr / 10:g}: all weights are trained, and {config.optim.lr:g} is for adapters")
    elif fitting is not None and plan.updates < _FEW_UPDATES and config.optim.lr < _TOO_LOW * fitting:
        lines.append(
            f"optim.lr={fitting:g}: a model of {max(1, round(n_weights / 1e6)):,} million weights learns little in "
            f"{counted(plan.updates, 'update')} at {config.optim.lr:g}, which suits larger models and more rows"
        )
    if lines and config.dataset.own_rows and config.model.lora is not None:
        lines.append(f"preset=own_rows{'_small' if small else ''}: sets K, T and optim.lr for few rows of your own")
    every = config.validation.every
    if every is not None and (lost := plan.updates % every):
        lines.append(
            f"validation.every={fitting_validation(every, plan.updates)}: the last {counted(lost, 'update')} would come after "
            "the last validation, which chooses what is kept, and be lost"
        )
    if config.model.dtype == "bf16" and not multiplies_bf16_fast(device_of(config.trainer.accelerator)):
        lines.append("model.dtype=fp32: this machine has no instructions for bf16, and takes many times as long with it")
    return lines


def layout_advice(config: TrainConfig, inputs: Inputs) -> list[str]:
    """Return what to type where all training templates show their parts in one order, which training then ties a model to.

    By how much: experiments/results/one_order.
    """
    pool, choice_fields = inputs.train, inputs.examples.task.choice_fields
    if pool is None or config.method.name != "paft" or {"order", "options_first"} <= {*config.sampler.mutations}:
        return []
    orders = {shown_order(template, choice_fields) for template in pool.templates}
    mutator = Mutator(["order"], choice_fields, None, "text")
    if len(orders) > 1 or not any(mutator.can_change(t) and not mutator.keeps_order(t) for t in pool.templates):
        return []
    (order,) = orders
    if len(order) < 2:
        return []
    return [
        f"sampler=mutated: every template shows {', '.join(order)} in this order, and a model that was trained on one order "
        "failed under others (docs/which.md); or write templates in others"
    ]


def kernels_line(config: TrainConfig | EvaluateConfig, backward: bool) -> str:
    """Return what will compute: the device, the attention, the fused operations and whether CUDA graphs are replayed, and why.

    Args:
        backward: whether anything is trained.
    """
    device = device_of(config.trainer.accelerator)
    attention = attention_of(config.model, load_config(config.model), device, backward)
    sharded = config.trainer.strategy == "fsdp"
    fused = "off (the model is sharded)" if sharded else fused_kind(device, config.trainer.fused)
    chosen = f"{device.type}, attention {attention.kernel} ({attention.why}), fused operations {fused}"
    if device.type != "cuda":
        return chosen
    off = {
        "as set": config.trainer.graphs == "off",
        "the model is sharded": sharded,
        f"attention {attention.kernel} has no static shapes": attention.kernel != "varlen",
        "activations are checkpointed": backward and config.model.activation_checkpointing,
    }
    reasons = [reason for reason, holds in off.items() if holds]
    graphs = f"off ({reasons[0]})" if reasons else "auto"
    return f"{chosen}, CUDA graphs {graphs}"


def sampler_notes(config: TrainConfig, inputs: Inputs) -> list[str]:
    """Return what is to be known of how training prompts are drawn: families found by clustering, prompts without parts."""
    pool, notes = inputs.train, list[str]()
    if config.loss.name == "perturbed" and config.method.trains:
        share = 100 * (1 - config.loss.warmup)
        notes.append(f"loss: the last {share:g}% of the updates are computed twice, which the tokens above do not count")
    if pool is None or config.method.name != "paft":
        return notes
    if (config.sampler.balanced or config.sampler.by_loss) and not names_families(pool):
        n = len({*families_of(pool, inputs.examples.task.choice_fields)[0]})
        for_what = "which take turns" if config.sampler.balanced else "whose losses are compared"
        notes.append(f"train prompts: the pool names no wording families; clustering found {n}, {for_what}")
    if (share := _repeats(config, len(pool.templates))) > _OFTEN:
        notes.append(
            f"train prompts: {100 * share:.0f}% of the updates show fewer than {config.sampler.templates_per_update} different "
            "ones; sampler.balanced=true deals different ones"
        )
    if not idle_sampler(config, inputs):
        if config.sampler.by_loss:
            notes.append(_when_losses_say(config))
        if config.sampler.candidates > 1:
            notes.append(_when_candidates_are_tried(config))
    if (mutator := mutator_of(config, inputs.examples.task)) is not None:
        n = sum(map(mutator.can_change, pool.templates))
        as_they_are = f"; the others ({len(pool.templates) - n}) are shown as they are" if n < len(pool.templates) else ""
        kept = sum(mutator.can_change(t) and mutator.keeps_order(t) for t in pool.templates)
        order = f"; {kept} say where something stands and keep their order" if kept and "order" in mutator.kinds else ""
        notes.append(f"train prompts: {n} of {len(pool.templates)} have parts whose layout is mutated{as_they_are}{order}")
    return notes


def idle_sampler(config: TrainConfig, inputs: Inputs) -> list[str]:
    """Return a warning if the run ends before its sampler does anything else than draw uniformly."""
    sampler, examples = config.sampler, inputs.examples
    if inputs.train is None or config.method.name != "paft" or not (sampler.by_loss or sampler.candidates > 1):
        return []
    updates = updates_of(config, len(examples.train), inputs.train, examples.task)
    if isinstance(updates.sampler, ByLossSampler):
        last = [Draw(epoch, (updates.per_epoch - 1) // config.K) for epoch in range(config.T)]  # of each epoch
        if any(map(updates.sampler.goes_by_losses, last)):
            return []
        return [
            f"All {updates.total} updates draw prompts uniformly, because losses say after {2 * sampler.lag} which are drawn "
            f"more often; lower sampler.lag={sampler.lag}{f' or K={config.K}' if config.K > 1 else ''}, or train longer."
        ]
    drawn = (tag for epoch in range(config.T) for update in updates.of_epoch(epoch) for tag in update)
    if any(tag.candidates > 1 for tag in drawn):
        return []
    return [
        f"No draw takes the worst of {sampler.candidates} candidates, because none that begins after sampler.warmup="
        f"{sampler.warmup:g} of the {updates.total} updates does; "
        f"{f'lower K={config.K}, or ' if config.K > 1 else ''}train longer."
    ]


def _repeats(config: TrainConfig, n: int) -> float:
    """Return the share of the updates whose templates are compared and not all different, by uniform draws of n; else 0."""
    sampler = config.sampler
    if not config.loss.compares or sampler.balanced or sampler.by_loss or sampler.mutations:
        return 0.0
    return 1 - math.prod(1 - i / n for i in range(sampler.templates_per_update))


def _when_candidates_are_tried(config: TrainConfig) -> str:
    """Say from when on draws take the worst of several candidates."""
    sampler = config.sampler
    kind = "candidates" if sampler.candidates_are == "templates" else "layouts of their prompt"
    return (
        f"train prompts: after {100 * sampler.warmup:g}% of the updates {100 * sampler.adversarial:g}% of the draws take the "
        f"worst of up to {sampler.candidates} {kind}, tried by forward passes; the draws above are those of the first "
        "candidates"
    )


def _when_losses_say(config: TrainConfig) -> str:
    """Say from when on draws go by losses."""
    says = f"after {2 * config.sampler.lag} updates losses say which are drawn more often"
    return f"train prompts: {says}; the draws above are as many uniform ones"


def print_beside(config: TrainConfig, beside: Mapping[str, BesideRun]) -> None:
    """Print, below a plan, what a run is shown beside, and what that costs."""
    how = {
        "base": "is scored on the same renderings before training, once for all runs on these data, prompts and model",
        "user": "is trained and scored first, under one fixed prompt, as a run of its own that takes about as long as this one",
    }
    for name, other in beside.items():
        said = "is finished already" if other.folder.results.is_file() else how[name]
        print(f"  {name:9} {said}: {other.folder.path}", flush=True)
    if not config.evaluate and config.score_base:
        print("  base      is not scored, because evaluate=false is for choosing settings, of which it has none", flush=True)


def print_inputs(config: TrainConfig | EvaluateConfig, inputs: Inputs | EvaluationInputs, warnings: Sequence[str]) -> None:
    """Print, below a plan, what is to be known of the model, the prompts and the rows before anything is computed.

    Args:
        warnings: those that are known by now.
    """
    trains = isinstance(config, TrainConfig) and config.method.trains
    if config.model.api is None:
        print(f"  device    {kernels_line(config, trains)}", flush=True)
    if is_gguf(config.model.path):
        print(f"  model     {called(config.model.path, '')}", flush=True)
    lines = [f"{split} prompts: {note}" for split, pool in inputs.pools.items() for note in pool.notes]
    seen = seen_prompts(inputs.seen, len(inputs.pools["test"].templates), config.prompts.allow_seen)
    if isinstance(inputs, Inputs) and isinstance(config, TrainConfig):
        lines += sampler_notes(config, inputs)
    lines += [*inputs.notes, *seen, *rows_left_out(inputs.left_out)]
    for line in (*lines, *(f"BEWARE: {warning}" for warning in warnings)):
        print(f"  {line}", flush=True)
