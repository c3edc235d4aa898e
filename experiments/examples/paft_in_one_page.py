"""Prompt-agnostic fine-tuning on one page: Algorithm 1 of arXiv 2502.12859 with transformers and PEFT alone.

    python experiments/examples/paft_in_one_page.py     # the embedded model, a minute on a CPU

For reading. paft/ takes the same steps (tests/training/test_one_page.py compares every loss and gradient), and besides packs
batches without padding, validates, resumes, and measures the result on prompts that training has not seen.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

Row: TypeAlias = dict[str, str]  # the fields that templates show, and `answer`
Update: TypeAlias = tuple[str, list[Row]]  # the template, and the rows that are rendered with it

TEMPLATES = (
    "{story}\n{question}\nOptions: {A}, {B}, {C}, {D}\nAnswer:",
    "Read the story and answer with one of the options.\nStory: {story}\nQuestion: {question}\n- {A}\n- {B}\n- {C}\n- {D}\n=>",
    "Question: {question}\nChoose from {A}; {B}; {C}; {D}.\nStory: {story}\nThe right choice is",
)
UNSEEN = "You are a careful reader. {story} {question} Is it {A}, {B}, {C} or {D}? It is"


def draws(rows: Sequence[Row], templates: Sequence[str], k: int, epochs: int, size: int, seed: int) -> Iterator[Update]:
    """Yield (template, rows) of each update: a template is drawn uniformly and kept for K updates."""
    rng = random.Random(seed)
    for _ in range(epochs):
        shuffled = rng.sample(rows, len(rows))
        for update, start in enumerate(range(0, len(rows), size)):
            if update % k == 0:
                template = rng.choice(templates)
            yield template, shuffled[start : start + size]


def batch(tokenizer: Any, template: str, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Render rows with a template and pad them; labels are the tokens of the answers, -100 elsewhere."""
    encoded = []
    for row in rows:
        prompt = tokenizer(template.format(**row).rstrip()).input_ids
        whole = tokenizer(f"{template.format(**row).rstrip()} {row['answer']}").input_ids
        encoded.append((prompt, [*whole[len(prompt) :], tokenizer.eos_token_id]))
    width = max(len(prompt) + len(answer) for prompt, answer in encoded)
    ids, mask, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, -100))
    for i, (prompt, answer) in enumerate(encoded):
        end = len(prompt) + len(answer)
        ids[i, :end], mask[i, :end] = torch.tensor(prompt + answer), 1
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def fine_tune(
    model: Any, tokenizer: Any, updates: Iterable[Update], lr: float, warmup: float = 0.1, clip: float = 1.0, decay: float = 0.0
) -> Iterator[float]:
    """Take one AdamW step for each (template, rows), with a linear warm-up and a cosine to zero; yield the losses."""
    updates = list(updates)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
    n_warmup = math.ceil(warmup * len(updates))
    model.train()
    for step, (template, rows) in enumerate(updates):
        progress = (step - n_warmup) / max(1, len(updates) - n_warmup)
        rate = (step + 1) / n_warmup if step < n_warmup else 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = lr * rate
        optimizer.zero_grad()
        loss = model(**batch(tokenizer, template, rows), use_cache=False).loss  # the mean over the answers' tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    from paft.data.tasks.story_facts import generate_rows
    from paft.model.converted import smollm2_folder

    data = [row | {"answer": row[row["answer"]]} for row in generate_rows("train", 50)]  # the text instead of the letter
    tokens = AutoTokenizer.from_pretrained(smollm2_folder())
    base = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32)
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    plan = draws(data[:48], TEMPLATES, k=4, epochs=2, size=8, seed=0)
    for number, value in enumerate(fine_tune(adapted, tokens, plan, lr=2e-3), 1):
        print(f"update {number:2}: loss {value:.3f}")
    adapted.eval()
    for row in data[48:]:
        asked = tokens(UNSEEN.format(**row), return_tensors="pt")
        written = adapted.generate(**asked, max_new_tokens=8, do_sample=False)[0, asked["input_ids"].shape[1] :]
        print(f"unseen prompt: {tokens.decode(written, skip_special_tokens=True)!r}, right: {row['answer']!r}")
