"""GGUF files that are written: read by transformers and by llama.cpp they have the tokens and the scores of the model."""

import shutil
import sys
from pathlib import Path

import gguf
import httpx
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import paft.cli.merge
from paft.data.tasks.story_facts import generate_rows
from paft.jobs.export import export
from paft.jobs.train import run_training
from paft.model.converted import loadable
from paft.model.gguf_export import _LLAMA3, _QWEN2, check_exportable, write_gguf
from paft.model.packed_check import relative_error
from paft.runtime.errors import InputError
from tests.conftest import compose_config, small_run
from tests.model.test_architectures import LLAMA, VOCABULARY

TEXTS = [f"{row['story']} {row['question']} {row['A']} In 1998, it's 12 o'clock:" for row in generate_rows("train", 300)]
PROMPTS = ["Who is in the shed?\n\nAnswer:", "It's 2024.", "é 提示  x\n\n\ny", "Ada left the <tool> at 7<end> and"]
SIZES = LLAMA | {"head_dim": 32, "hidden_size": 64, "initializer_range": 0.1, "vocab_size": VOCABULARY + 32}
# transformers reads 256 for query_pre_attn_scalar whatever a file says; it is the head_dim of all but the largest Gemma 3.
GEMMA = SIZES | {"num_hidden_layers": 7, "sliding_window": 16, "head_dim": 256, "query_pre_attn_scalar": 256}
SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 1e4}  # fmt: skip
MODELS = {
    "llama": SIZES | {"tie_word_embeddings": False},
    "llama, tied": SIZES | {"tie_word_embeddings": True},
    "llama, scaled": SIZES | {"rope_parameters": SCALED},
    "qwen2": SIZES | {"head_dim": 16},  # of Qwen2 a file says no other
    "qwen3": SIZES | {"head_dim": 128, "tie_word_embeddings": True},
    "gemma3_text": GEMMA,
}
# By kind of tokenizer: llama.cpp's name for how it splits a text.
SPLITS = {"gpt-2": "gpt-2", "smollm": "smollm", "qwen2": "qwen2", "llama-bpe": "llama-bpe", "dbrx": "dbrx", "gemma": "default"}
ERROR = {"f16": 0.003, "bf16": 0.03, "q8_0": 0.1}  # of the logits' size


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind with 512 tokens, special ones and one of a user's own."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt-2", "smollm"))
    bpe = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe", byte_fallback=kind == "gemma"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = {"smollm": [pre_tokenizers.Digits(individual_digits=True)]}.get(kind, [])
    if kind in ("qwen2", "llama-bpe", "dbrx"):
        first = [pre_tokenizers.Split(Regex(_QWEN2 if kind == "qwen2" else _LLAMA3), "isolated")]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<end>"]
    if kind == "gemma":
        alphabet, special = [], [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
        bpe.normalizer = normalizers.Replace(" ", "▁")
        bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Sequence([*first, byte_level]) if first else byte_level
        bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<eos>", bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def without_bytes_as_special(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Of Gemma's kind: bytes are ordinary tokens, and a text begins with <bos>."""
    import json

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = [each for each in backend["added_tokens"] if not each["content"].startswith("<0x")]
    bpe = Tokenizer.from_str(json.dumps(backend))
    bpe.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", bpe.token_to_id("<bos>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<eos>", bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )


def made(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_of(kind)
    return without_bytes_as_special(tokenizer) if kind == "gemma" else tokenizer


def model_of(name: str, tokenizer: PreTrainedTokenizerFast):
    torch.manual_seed(0)
    ids = {f"{key}_token_id": getattr(tokenizer, f"{key}_token_id") for key in ("bos", "eos", "pad")}
    config = CONFIG_MAPPING[name.split(",")[0]](**MODELS[name] | ids)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for key, weight in model.named_parameters():
        if "norm" in key or key.endswith("bias"):  # else all norms are one, and a mistake with them is not seen
            torch.nn.init.normal_(weight, mean=0.0 if "gemma" in name or key.endswith("bias") else 1.0, std=0.3)
    return model


def read(file: Path):
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


@pytest.mark.parametrize("quantisation", ERROR)
@pytest.mark.parametrize("name", MODELS)
def test_transformers_reads_the_scores_of_the_model(name, quantisation, tmp_path):
    tokenizer = made("gemma" if name == "gemma3_text" else "gpt-2")
    model = model_of(name, tokenizer)
    file = tmp_path / "tiny.gguf"
    write_gguf(model, tokenizer, file, quantisation, "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
    again = read(file)
    if "scaled" in name:
        again.model.rotary_emb = model.model.rotary_emb  # transformers reads no scaled positions
        with pytest.raises(InputError, match="scales its positions"):
            loadable(str(file))
    ids = tokenizer(TEXTS[0]).input_ids[:60]
    assert len(ids) > 32 and relative_error(logits(again, ids), logits(model, ids)).max() < ERROR[quantisation]
    assert again.config.tie_word_embeddings == model.config.tie_word_embeddings
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert kinds == {quantisation.upper(), "F32"}


@pytest.mark.parametrize("kind", SPLITS)
def test_transformers_reads_the_tokens_of_the_model(kind, tmp_path):
    tokenizer = made(kind)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    file = tmp_path / "tiny.gguf"
    write_gguf(model_of("gemma3_text" if kind == "gemma" else "llama", tokenizer), tokenizer, file, "f16", "tiny")
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    for text in [*PROMPTS, *TEXTS[:20]]:
        assert again(text).input_ids == tokenizer(text).input_ids
        assert again.decode(tokenizer(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<bos>", "<eos>", "<pad>")
    assert again.chat_template == tokenizer.chat_template
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == SPLITS[kind]


class LlamaCpp:
    """llama.cpp's server, in this process, on a file."""

    def __init__(self, file: Path) -> None:
        xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp as a wheel, is not installed")
        asked = xllamacpp.CommonParams()
        asked.model.path = str(file)
        asked.n_ctx, asked.n_parallel, asked.warmup, asked.port = 256, 1, False, 0
        asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
        self.server = xllamacpp.Server(asked)

    def ask(self, path: str, **content: object) -> dict:
        answer = httpx.post(f"{self.server.listening_address}/{path}", json=content, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def ids(self, text: str) -> list[int]:
        return self.ask("tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def greedy(self, ids: list[int], n: int) -> tuple[list[int], int, torch.Tensor]:
        """Return n tokens that follow, and of the first one that ends a character its place and the log-probabilities (V,)."""
        asked = {"prompt": ids, "n_predict": n, "temperature": 0, "ignore_eos": False, "return_tokens": True, "n_probs": 1000}
        answer = self.ask("completion", **asked, cache_prompt=False)
        first = answer["completion_probabilities"][0]
        known = {each["id"]: each["logprob"] for each in first["top_logprobs"]}
        log_probs = torch.tensor([known.get(i, float("nan")) for i in range(max(known) + 1)])
        return answer["tokens"], answer["tokens"].index(first["id"]), log_probs


@pytest.mark.parametrize("name", [*MODELS, *(f"tokens of {kind}" for kind in SPLITS)])
def test_llama_cpp_answers_as_transformers_does(name, tmp_path):
    kind = name.removeprefix("tokens of ") if name.startswith("tokens of") else "gemma" if "gemma" in name else "gpt-2"
    tokenizer = made(kind)
    model = model_of(name if name in MODELS else "gemma3_text" if kind == "gemma" else "llama", tokenizer)
    file = tmp_path / "tiny.gguf"
    write_gguf(model, tokenizer, file, "f16", "tiny")
    llama = LlamaCpp(file)
    for text in [*PROMPTS, *TEXTS[:5]]:
        assert llama.ids(text) == tokenizer(text).input_ids
    ids = tokenizer(TEXTS[0]).input_ids[:60]
    with torch.no_grad():
        wanted = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
    answer, place, log_probs = llama.greedy(ids, 8)
    expected = logits(model, ids + answer[:place])[-1].log_softmax(-1)
    seen = log_probs.isfinite()
    assert seen.sum() > 100 and (log_probs - expected[: len(log_probs)])[seen].abs().max() < 0.05
    assert answer == [token for token in wanted if token != tokenizer.eos_token_id]


def changed(name: str, **changes):
    return CONFIG_MAPPING[name](**(GEMMA if name == "gemma3_text" else SIZES) | changes)


YARN = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
REFUSED = {
    "another architecture": (
        changed("smollm3"),
        "gpt-2",
        "no GGUF file of a smollm3 model is written here, only of llama, qwen2",
    ),
    "scaled positions": (changed("qwen2", rope_parameters=YARN), "gpt-2", "this qwen2 model scales its positions by yarn"),
    "a window": (changed("qwen2", use_sliding_window=True), "gpt-2", "this qwen2 model attends within a window"),
    "other layers": (changed("gemma3_text", query_pre_attn_scalar=7), "gemma", "this Gemma 3 model has other layers"),
    "Gemma's tokens elsewhere": (
        changed("llama"),
        "gemma",
        "the tokenizer of this llama model splits texts in a way of its own",
    ),
}


@pytest.mark.parametrize(("config", "kind", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_written_is_refused(config, kind, sentence):
    with pytest.raises(InputError) as refused:
        check_exportable(config, made(kind))
    assert str(refused.value).startswith("--gguf: ") and sentence in str(refused.value)
    assert str(refused.value).endswith("convert the merged folder with llama.cpp's convert_hf_to_gguf.py.")


def test_another_way_to_split_is_refused():
    tokenizer = made("gpt-2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(InputError, match="splits texts in a way of its own"):
        check_exportable(changed("llama"), tokenizer)


def test_a_file_that_stands_for_another_model_is_not_kept(tmp_path, monkeypatch):
    tokenizer = made("gpt-2")
    monkeypatch.setattr("paft.model.gguf_export._neighbours", lambda weight, heads: weight)
    with pytest.raises(InputError, match=r"LlamaForCausalLM scores otherwise \(its logits are \d+% off\), so that nothing was"):
        write_gguf(model_of("llama", tokenizer), tokenizer, tmp_path / "tiny.gguf", "f16", "tiny")


def test_values_beyond_fp16(tmp_path):
    tokenizer = made("gpt-2")
    model = model_of("llama", tokenizer)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(InputError, match=r"--gguf f16: blk\.0\.ffn_up\.weight has values beyond the range of fp16; use bf16\."):
        write_gguf(model, tokenizer, tmp_path / "tiny.gguf", "f16", "tiny")


# A run, exported by the command.


@pytest.fixture(scope="module")
def run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(compose_config(*small_run(tiny_llama, tmp_path_factory.mktemp("run")), "optim.lr=1e-2")).folder


def merge(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["paft merge", *map(str, arguments)])
    paft.cli.merge.main()


def test_a_run_becomes_a_folder_with_a_file_for_ollama(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine"
    merge(monkeypatch, run, "--out", out, "--dtype", "bf16", "--gguf", "q8_0")
    assert f"GGUF file: {out / 'mine-q8_0.gguf'}; for Ollama" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "mine-q8_0.gguf", "Modelfile"} <= names
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in out.iterdir())
    export(run / "adapter", tmp_path / "exact")
    exact, rounded = (AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto") for name in ("exact", "mine"))
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    for one, other in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), other)
    ids = list(range(20, 60))
    assert relative_error(logits(read(out / "mine-q8_0.gguf"), ids), logits(exact, ids)).max() < 0.05
    assert (out / "Modelfile").read_text().splitlines() == [
        "FROM ./mine-q8_0.gguf",
        "PARAMETER temperature 0",
        "# It was trained without a chat template: prompts go in as they are.",
        "TEMPLATE {{ .Prompt }}",
    ]
    card = (out / "README.md").read_text()
    assert "library_name: transformers" in card and "with a LoRA adapter merged in, fine-tuned on story_facts" in card
    for line in ("`vllm serve PATH/TO/THIS/FOLDER`; `/v1/completions`", "`ollama create NAME -f Modelfile`", "| mean | std |"):
        assert line in card
    assert loadable(str(out / "mine-q8_0.gguf")) and loadable(str(out)) == str(out)


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise InputError("no.")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("paft.jobs.export.write_gguf", fails)
    with pytest.raises(InputError):
        merge(monkeypatch, run, "--out", tmp_path / "mine", "--gguf", "f16")
    assert sorted(tmp_path.iterdir()) == before


def test_fp16_and_its_range(run, tmp_path, monkeypatch):
    merge(monkeypatch, run, "--out", tmp_path / "half", "--dtype", "fp16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.float16
    from paft.jobs.export import _rounded

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    model.model.norm.weight.data[0] = 1e5
    with pytest.raises(InputError, match=r"--dtype fp16: model\.norm\.weight has values beyond the range of fp16; use bf16\."):
        _rounded(model, "fp16")


def test_an_adapter_alone_gets_a_short_card(run, tmp_path):
    shutil.copytree(run / "adapter", tmp_path / "alone")
    export(tmp_path / "alone", tmp_path / "merged")
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "with an adapter merged in" in card and "`vllm serve PATH/TO/THIS/FOLDER`" in card
