"""paft merge RUN --out DIR: write the base model with an adapter's weights added in, also as a GGUF file, or to the hub."""

import argparse
from pathlib import Path

from paft.config.adapter import is_whole_model, read_metadata
from paft.runtime.errors import InputError
from paft.runtime.files import check_place


def main() -> None:
    """Export the run in sys.argv; raises InputError for a folder that exists already or holds no adapter."""
    parser = argparse.ArgumentParser(
        prog="paft merge", description="Write the base model with an adapter's weights added in, as a folder for transformers."
    )
    parser.add_argument("run", type=Path, help="a run folder, or its adapter folder")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the merged model")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of the folder's weights (default: fp32)")
    parser.add_argument("--gguf", choices=("q8_0", "f16", "bf16"), help="also write a GGUF file, for llama.cpp and Ollama")
    parser.add_argument("--push", metavar="USER/NAME", help="also upload the folder to the hub; a new repository is private")
    parser.add_argument("--remote-code", action="store_true", help="run the code that comes with the base model")
    arguments = parser.parse_args()
    run, out = arguments.run, arguments.out
    if out.exists():
        raise InputError(f"--out {out}: this exists already; name a new folder.")
    check_place(f"--out {out}", out)
    source = next((run / name for name in ("adapter", "model") if (run / name).is_dir()), run)
    if not is_whole_model(source):
        read_metadata(source)
    elif not (arguments.dtype or arguments.gguf or arguments.push):
        raise InputError(
            f"{source}: all weights of this run were trained, so there is nothing to merge; use this folder as it is, or give "
            "--dtype, --gguf or --push."
        )
    if arguments.push is not None:
        from paft.jobs.hub import check_push, check_token, push

        check_push(arguments.push)
        check_token(arguments.push)
    # Heavy imports wait until what can be seen without them is known to be right.
    from paft.jobs.export import export

    export(source, out, arguments.dtype or "fp32", arguments.gguf, arguments.remote_code)
    print(f"Merged model: {out}")
    if arguments.gguf is not None:
        (file,) = out.glob("*.gguf")
        print(f"GGUF file: {file}; for Ollama, in that folder: ollama create NAME -f Modelfile")
    if arguments.push is not None:
        print(f"Pushed: {push(out, arguments.push)}")
