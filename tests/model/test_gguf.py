"""GGUF files as base models: the weights that they stand for, what is refused, fetching from an index, and their names."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from paft.jobs.evaluate import run_evaluation
from paft.jobs.export import export
from paft.jobs.train import run_training
from paft.model import converted, pypi
from paft.model.converted import loadable
from paft.model.gguf import checked_header, gguf_digest
from paft.model.identity import base_identity
from paft.reporting.runs import FinishedRun
from paft.runtime.errors import InputError
from tests.conftest import compose_config, compose_evaluation, small_run
from tests.tiny_gguf import CHAT, save_tiny_gguf, write_wheel

HALF = "pypi:half.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tiny_llama, tmp_path) -> Path:
    save_tiny_gguf(tiny_llama, tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def folders(cache: Path) -> set[str]:
    """What a later command would find in the cache: no scratch, no locks, no notes."""
    return {path.name for path in cache.glob("*") if path.suffix != ".lock"} - {"digests"}


def test_the_copy_has_the_weights_that_the_file_stands_for(tiny_llama, tmp_path, cache):
    stored = save_tiny_gguf(tiny_llama, tmp_path / "tiny.gguf")
    folder = loadable(str(tmp_path / "tiny.gguf"))
    assert folders(cache) == {Path(folder).name} == {f"gguf-{gguf_digest(str(tmp_path / 'tiny.gguf'))[:16]}"}
    copy = AutoModelForCausalLM.from_pretrained(folder)
    weights = dict(copy.named_parameters())
    assert copy.dtype == torch.float32 and weights.keys() == stored.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.detach(), stored[name], rtol=0, atol=0)
    by_transformers = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.tensor([[5, 60, 7, 300]])
    torch.testing.assert_close(copy(ids).logits, by_transformers(ids).logits, rtol=0, atol=0)


def test_the_copy_has_the_tokenizer_and_the_end_of_text(file, tiny_llama):
    original, copy = (AutoTokenizer.from_pretrained(folder) for folder in (tiny_llama, loadable(str(file))))
    for text in ("Who is in the shed?\n\nAnswer: 1234", " <end>", "é 提示"):
        assert copy(text)["input_ids"] == original(text)["input_ids"]
    assert (copy.eos_token, copy.bos_token, copy.chat_template) == ("<end>", None, CHAT)
    generation = json.loads((Path(loadable(str(file))) / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 0


def test_an_end_that_transformers_takes_for_another_token_is_the_one_that_the_file_names(file, monkeypatch):
    class Swapped(AutoTokenizer):  # as transformers 5.17 has it
        @classmethod
        def from_pretrained(cls, *args, gguf_file=None, **kwargs):
            tokenizer = AutoTokenizer.from_pretrained(*args, **kwargs, **({"gguf_file": gguf_file} if gguf_file else {}))
            if gguf_file:
                tokenizer.eos_token = tokenizer.convert_ids_to_tokens(5)
            return tokenizer

    monkeypatch.setattr("transformers.AutoTokenizer", Swapped)
    assert AutoTokenizer.from_pretrained(loadable(str(file))).eos_token_id == 0


def test_what_lies_beside_the_file_is_not_read(file, tiny_llama):
    wanted = AutoTokenizer.from_pretrained(loadable(str(file)))("Who is it?")["input_ids"]
    shutil.rmtree(loadable(str(file)))
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        content = (tiny_llama / name).read_text().replace("Ġ", "_").replace('"eos_token_id": 0', '"eos_token_id": 9')
        (file.parent / name).write_text(content)
    folder = loadable(str(file))
    assert AutoTokenizer.from_pretrained(folder)("Who is it?")["input_ids"] == wanted
    assert json.loads((Path(folder) / "generation_config.json").read_text())["eos_token_id"] == 0


@pytest.mark.parametrize("first", [True, False])
def test_a_first_token_stands_where_the_file_says(first, file, tiny_llama):
    save_tiny_gguf(tiny_llama, file, tokenizer__ggml__bos_token_id=7, tokenizer__ggml__add_bos_token=first)
    copy = AutoTokenizer.from_pretrained(loadable(str(file)))
    original = AutoTokenizer.from_pretrained(tiny_llama)
    assert copy.bos_token_id == 7 and copy("It is")["input_ids"] == [7] * first + original("It is")["input_ids"]


def test_a_file_is_converted_once(file, monkeypatch):
    folder = loadable(str(file))
    monkeypatch.setattr(converted, "_convert", lambda *_: pytest.fail("converted again"))
    assert loadable(str(file)) == loadable(str(file.parent)) == folder
    moved = file.rename(file.with_name("other.gguf"))
    assert loadable(str(moved)) == folder


def test_two_processes_convert_once(file, cache):
    script = f"from paft.model.converted import loadable; print(loadable({str(file)!r}))"
    environment = os.environ | {"PAFT_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    started = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate()[0].splitlines() for process in started]
    assert said[0][-1] == said[1][-1] and sorted(map(len, said)) == [1, 2]  # one of them says that it dequantises
    assert folders(cache) == {Path(said[0][-1]).name}


@pytest.mark.parametrize("settled", [True, False], ids=["old", "fresh"])
def test_the_digest_is_remembered_until_the_file_changes(settled, file, monkeypatch):
    def age(seconds: int) -> None:
        if settled:
            os.utime(file, ns=(10**18 + seconds, 10**18 + seconds))

    age(0)
    digest = gguf_digest(str(file))
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr("paft.model.gguf.hashlib.file_digest", lambda *_: pytest.fail("read again"))
        if settled:  # of one that has just changed nothing is remembered: its times may not show the next change
            assert gguf_digest(str(file)) == gguf_digest(os.path.relpath(file)) == digest
    with file.open("r+b") as content:  # as long as before
        content.seek(-1, 2)
        content.write(b"\x01")
    age(0)  # even if its time is set back
    assert gguf_digest(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest() != digest


def test_a_run_is_of_the_file_and_says_so(file, tmp_path, capsys):
    overrides = [*small_run(file, tmp_path / "runs"), "train_examples=8", "T=1"]
    config = compose_config(*overrides)
    results = run_training(config)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    origin = f"GGUF file tiny.gguf, SHA-256 {digest}"
    assert results.run.startswith("story_facts-tiny.gguf-paft-")
    assert base_identity(config.model) == f"gguf:{digest[:16]}"
    assert results.fingerprints.base_model.dequantised_from == origin
    printed = " ".join(capsys.readouterr().out.split())
    assert "model tiny.gguf, dequantised from GGUF" in printed and origin in printed
    assert origin in (results.folder / "report.html").read_text()
    assert FinishedRun(results).model == "tiny.gguf, dequantised from GGUF"
    text = (results.folder / "adapter" / "README.md").read_text()
    assert ModelCard(text).data.base_model == "tiny.gguf" and origin in text and str(tmp_path) not in text
    (code,) = re.findall(r"```python\n(.*?)\n```", text, flags=re.DOTALL)
    code = code.replace("PATH/TO/THIS/FOLDER", str(results.folder / "adapter")).replace("PATH/TO/ITS/FOLDER", str(tmp_path))
    exec(code, {})

    few = ["trainer.accelerator=cpu", "trainer.progress=false", "eval_examples=6", "eval_prompts=3"]
    again = run_evaluation(compose_evaluation(f"adapter={results.folder / 'adapter'}", f"output_root={tmp_path}", *few))
    assert again.robustness == results.robustness and again.fingerprints.base_model.dequantised_from == origin
    assert again.run.startswith("eval-story_facts-tiny.gguf-paft-")
    export(results.folder / "adapter", tmp_path / "merged")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.float32


def test_a_chat_template_of_the_file_is_used(file, tmp_path):
    chat = [*small_run(file, tmp_path / "runs"), "method=base", "score_base=true", "model.chat_template=true"]
    plain = run_training(compose_config(*chat[:-1]))
    assert run_training(compose_config(*chat)).folder != plain.folder


def test_a_folder_with_one_file_is_that_file(file, tmp_path, tiny_llama):
    by_file, by_folder = (compose_config(f"model.path={path}") for path in (file, tmp_path))
    assert by_file == by_folder and by_file.run_name == by_folder.run_name
    both = tmp_path / "both"
    shutil.copytree(tiny_llama, both)
    shutil.copy(file, both)
    assert compose_config(f"model.path={both}").model.path == str(both)  # a transformers model comes first
    shutil.copy(file, tmp_path / "second.GGUF")
    with pytest.raises(InputError, match=r"holds 2 GGUF files \(second\.GGUF, tiny\.gguf\); name one of them\.$"):
        compose_config(f"model.path={tmp_path}")


REFUSED = {
    "an unknown architecture": ({"architecture": "rwkv7"}, "cannot read GGUF files of the architecture rwkv7; give"),
    "a missing tensor": ({"without": ["blk.1.ffn_down.weight"]}, "transformers reads only a part of this GGUF file (it holds "),
    "a tensor that is dropped": ({"tensors": {"blk.0.attn_q.bias": [0.5] * 32}}, "transformers reads only a part"),
    "a window that is dropped": ({"llama__attention__sliding_window": 16}, "attention.sliding_window is 16, and transformers"),
    "another way to split": ({"tokenizer__ggml__pre": "poro-chat"}, "how this file splits texts (poro-chat); give"),
    "scaled frequencies": (
        {"tensors": {"rope_freqs.weight": [1.0] * 4}},
        "this model scales its positions (rope_freqs.weight)",
    ),
    "scaled positions": ({"llama__rope__scaling__type": "yarn"}, "scales its positions (llama.rope.scaling.type)"),
    "a part of several": ({"split__count": 3}, "this is one of 3 parts of a split GGUF file; join them with llama.cpp's"),
    "an adapter": ({"general__type": "adapter"}, "this GGUF file holds no model (its type is adapter)"),
    "no tokenizer": ({"without": ["tokenizer"]}, "this GGUF file holds no tokenizer; give one"),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_score_wrong_is_refused_and_leaves_nothing(changes, sentence, tiny_llama, tmp_path, cache):
    path = tmp_path / "tiny.gguf"
    save_tiny_gguf(tiny_llama, path, **changes)
    with pytest.raises(InputError) as refused:
        loadable(str(path))
    assert str(refused.value).startswith(f"model.path={path}: ") and sentence in str(refused.value)
    assert str(refused.value).endswith(".") and folders(cache) == set()


def harmed(content: bytes, harm: str) -> bytes:
    return {"half": content[: len(content) // 2], "a header alone": content[:40], "no GGUF": b"PK" + content, "empty": b"",
            "a text of no end": content[:24] + b"\xff" * 8 + content[32:], "version 9": content[:4] + b"\x09" + content[5:],
            "no version": content[:4]}[harm]  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        ("half", r"this file is cut off \([\d,]+ of [\d,]+ bytes\); copy or download it again\.$"),
        ("a header alone", r"the header of this GGUF file is damaged or cut off \(\w+\); copy or download it again\.$"),
        ("no version", r"the header of this GGUF file is damaged or cut off"),
        ("a text of no end", r"the header of this GGUF file is damaged or cut off"),
        ("no GGUF", r"this is no GGUF file \(it does not begin with the letters GGUF\)\.$"),
        ("empty", r"this is no GGUF file"),
        ("version 9", r"this is no GGUF file of version 2 or 3"),
    ],
)
def test_a_damaged_file(harm, sentence, file):
    file.write_bytes(harmed(file.read_bytes(), harm))
    with pytest.raises(InputError, match=f"^model.path={file}: {sentence}"):
        checked_header(str(file))


def test_a_file_that_changes_while_it_is_read_is_not_kept(file, tiny_llama, monkeypatch, cache):
    convert = converted._convert

    def slowly(*arguments):
        convert(*arguments)
        save_tiny_gguf(tiny_llama, file, llama__context_length=64)

    monkeypatch.setattr(converted, "_convert", slowly)
    with pytest.raises(InputError, match="this file changed while it was read"):
        loadable(str(file))
    assert folders(cache) == set()


def test_what_a_killed_process_left_is_cleared(file, cache):
    (cache / f".gguf-{gguf_digest(str(file))[:16]}.tmp" / "model").mkdir(parents=True)
    folder = loadable(str(file))
    assert folders(cache) == {Path(folder).name}


# The road through a package index: tiny wheels in a folder that pip takes for one.


@pytest.fixture
def index(file, tmp_path, monkeypatch) -> Path:
    """An index with the halves of a file in two wheels, whose description is among the known ones."""
    content, folder = file.read_bytes(), tmp_path / "index"
    parts = []
    for n, half in enumerate((content[: len(content) // 2], content[len(content) // 2 :]), start=1):
        member = f"paft_half_{n}/data/part{n}.bin"
        code = {f"paft_half_{n}/__init__.py": b"raise SystemExit('code of a wheel was run')"}
        wheel = write_wheel(folder, f"paft-half-{n}", "1.0", {member: half} | code)
        parts.append(pypi.Part(f"paft-half-{n}==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), member))
    half = pypi.Packaged("half.gguf", tuple(parts), gguf_digest(str(file)), len(content), 27_000)
    monkeypatch.setitem(pypi._PACKAGED, HALF, half)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def described(monkeypatch, **changes) -> None:
    """Change the description of the file."""
    monkeypatch.setitem(pypi._PACKAGED, HALF, pypi._PACKAGED[HALF].__class__(**(vars(pypi._PACKAGED[HALF]) | changes)))


def refused(sentence: str, cache: Path) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        loadable(HALF)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    assert folders(cache) == set()


def test_wheels_are_fetched_joined_and_never_run(index, file, cache):
    folder = loadable(HALF)
    assert folders(cache) == {Path(folder).name}
    assert folder == loadable(str(file))  # the same file, the same copy
    assert not [name for name in sys.modules if name.startswith("paft_half")]
    shutil.rmtree(index)
    assert loadable(HALF) == folder  # and once


def test_installed_wheels_are_used_and_not_run(index, cache, tmp_path, monkeypatch):
    for wheel in index.iterdir():
        shutil.unpack_archive(wheel, tmp_path / "site", "zip")
        wheel.unlink()
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert Path(loadable(HALF)).is_dir() and not [name for name in sys.modules if name.startswith("paft_half")]


def test_a_wheel_with_another_hash(index, cache):
    with (index / "paft_half_2-1.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"more")
    refused("the package index has a wheel with another hash than the one that was published, so it was not used", cache)


def test_a_wheel_that_is_not_there(index, cache):
    (index / "paft_half_2-1.0-py3-none-any.whl").unlink()
    refused(
        r"^half.gguf could not be fetched from PyPI \(No matching distribution found for paft-half-2==1.0.*\): run `pip "
        "install --no-deps paft-half-1==1.0 paft-half-2==1.0`",
        cache,
    )


def test_an_index_out_of_reach(index, cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    refused("^half.gguf could not be fetched from PyPI", cache)


def test_a_file_with_another_hash(index, cache, monkeypatch):
    described(monkeypatch, sha256="0" * 64)
    refused(r"has another SHA-256 than it should \(\w{16}..., not 0{16}...\); it was not used", cache)


def test_a_wheel_without_its_part(index, cache, monkeypatch):
    one, two = pypi._PACKAGED[HALF].parts
    described(monkeypatch, parts=(one, two._replace(member="paft_half_2/data/part3.bin")))
    refused(r"the wheel paft-half-2==1.0 does not hold paft_half_2/data/part3\.bin", cache)


def test_a_disk_that_is_too_small_is_seen_before_the_download(index, cache, monkeypatch):
    monkeypatch.setattr(pypi.subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    described(monkeypatch, n_weights=10**15)
    refused(rf"half.gguf: dequantising it needs 3725290\.\d GiB in {cache}.*, where [\d.]+ GiB are free; make room", cache)


def test_a_disk_that_fills_up(index, cache, monkeypatch):
    full = subprocess.CompletedProcess([], 1, "", "ERROR: Could not install: [Errno 28] No space left on device\n")
    monkeypatch.setattr(pypi.subprocess, "run", lambda *_, **__: full)
    refused(f"^{cache}: the disk is full; make room", cache)


def test_no_pip(index, cache, monkeypatch):
    find = pypi.importlib.util.find_spec
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    refused("half.gguf: pip is missing, which downloads its wheels; run `python -m ensurepip`", cache)


def test_a_licence_is_accepted_by_who_names_the_model(index, cache, monkeypatch, tmp_path):
    described(monkeypatch, license=("gemma", "https://ai.google.dev/gemma/terms"))
    refused(r"under the terms of https://ai.google.dev/gemma/terms; read them, and give .*model.accept_license=gemma", cache)
    run = [*small_run(HALF, tmp_path / "runs"), "train_examples=8", "T=1"]
    with pytest.raises(InputError, match=r"model\.accept_license=gemma"):
        run_training(compose_config(*run))
    accepted = compose_config(*run, "model.accept_license=gemma")
    assert accepted.run_name == compose_config(*run).run_name and "accept_license" not in accepted.identity()["model"]
    results = run_training(accepted)
    assert results.run.startswith("story_facts-half.gguf-paft-")
    few = ["trainer.accelerator=cpu", "trainer.progress=false", "eval_examples=6", "eval_prompts=3", f"output_root={tmp_path}"]
    evaluation = compose_evaluation(f"adapter={results.folder / 'adapter'}", *few)
    assert evaluation.model.accept_license is None  # an adapter accepts nothing for who uses it
    assert run_evaluation(evaluation).robustness == results.robustness  # but the copy is here, so it was accepted
    shutil.rmtree(loadable(HALF))
    with pytest.raises(InputError, match=r"model\.accept_license=gemma"):
        export(results.folder / "adapter", tmp_path / "merged")


@pytest.mark.parametrize("model", [pypi.EMBEDDED, *pypi._PACKAGED.values()], ids=lambda model: model.file)
def test_the_files_on_pypi_are_pinned(model):
    assert re.fullmatch("[0-9a-f]{64}", model.sha256) and model.size > 10**7 < model.n_weights
    for part in model.parts:
        assert re.fullmatch("[0-9a-f]{64}", part.sha256) and re.fullmatch(r"[\w-]+==[\d.]+", part.wheel)
        assert part.member.startswith(part.wheel.partition("==")[0].replace("-", "_") + "/")


def test_configs_name_them():
    named = {compose_config(f"model={name}").model.path for name in ("qwen2_5_coder_0_5b_gguf", "gemma3_270m_gguf")}
    assert named == pypi._PACKAGED.keys()
