"""Loading a base model and its tokenizer, with explicit settings where defaults are easy to get wrong."""

import hashlib
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from paft.config.schema import ModelConfig
from paft.model.attention import NAMES, Kernel, packed_logits, register
from paft.model.embedded import smollm2_folder
from paft.packing import Branches, pack
from paft.runtime.errors import InputError
from paft.runtime.memory import is_out_of_memory


def device_of(accelerator: str) -> torch.device:
    """Return the device of an accelerator setting; raises InputError if CUDA is requested but not available."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("accelerator=cuda: this machine has no usable CUDA device; use cpu or auto.")
    return torch.device("cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda")


def check_quantization(model: ModelConfig, device: torch.device) -> None:
    """Raise InputError if weights are to be quantised on a device where gradients cannot pass through them.

    bitsandbytes also runs on some CPUs, but repacks weights at the first evaluation into a form without a gradient.
    """
    if model.quantization is not None and device.type != "cuda":
        raise InputError(f"model.quantization={model.quantization} needs an NVIDIA GPU; leave it out on this machine.")


def dtype_of(model: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of the base weights: bf16 where the hardware multiplies it fast, else fp32."""
    if model.dtype != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[model.dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def kernel_of(model: ModelConfig, device: torch.device, backward: bool) -> Kernel:
    """Return the attention kernel: the one that is set, or for auto sdpa, except to train in bf16 on a CPU.

    There the backward pass of sdpa, and only that, is several times slower than that of eager.
    """
    if model.attention != "auto":
        return model.attention
    return "eager" if backward and device.type == "cpu" and dtype_of(model, device) == torch.bfloat16 else "sdpa"


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer; raises InputError if the model cannot be loaded."""
    return _load(model, AutoTokenizer.from_pretrained)


def load_config(model: ModelConfig) -> PreTrainedConfig:
    """Load the architecture's configuration (sizes, window); raises InputError if the model cannot be loaded."""
    return _load(model, AutoConfig.from_pretrained)


def window_of(config: PreTrainedConfig, otherwise: int) -> int:
    """Return how many tokens the model can attend to, or `otherwise` if its configuration sets no limit."""
    return getattr(config, "max_position_embeddings", otherwise)


def load_base(model: ModelConfig, device: torch.device, backward: bool = False) -> PreTrainedModel:
    """Load the frozen base model for packed batches, quantised to NF4 as in QLoRA (arXiv 2305.14314) if the config says so.

    Args:
        backward: whether gradients will pass through the model.

    Raises InputError if the model cannot be loaded or its architecture cannot run packed batches.
    """
    register()
    settings: dict[str, Any] = {
        "dtype": dtype_of(model, device),
        "attn_implementation": NAMES[kernel_of(model, device, backward)],
    }
    if model.quantization is not None:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=settings["dtype"],
        )
        settings["device_map"] = {"": torch.cuda.current_device() if device.type == "cuda" else "cpu"}
    base = _load(model, AutoModelForCausalLM.from_pretrained, **settings).to(device)
    base.requires_grad_(False)
    _check_packing(base)
    return base


def skeleton(model: ModelConfig, adapter: bool) -> torch.nn.Module:
    """Build the model, with `adapter` also the adapter, without weights (on the meta device).

    Raises InputError if transformers knows no causal LM of this architecture or a target module does not exist.
    """
    config = load_config(model)
    with torch.device("meta"):
        base = _load(
            model, lambda *_, **kw: AutoModelForCausalLM.from_config(config, trust_remote_code=kw["trust_remote_code"])
        )
        return add_lora(base, model, seed=0) if adapter else base


def add_lora(base: PreTrainedModel, model: ModelConfig, seed: int) -> PeftModel:
    """Wrap the base model in a fresh LoRA adapter with fp32 weights.

    Raises InputError if the target modules do not exist.
    """
    modules = dict(base.named_modules())
    for target in model.lora.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            linear = {name.rsplit(".", 1)[-1] for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
            raise InputError(
                f"model.lora.target_modules: {type(base).__name__} has no module {target!r}; its linear layers are "
                f"{', '.join(sorted(linear))}."
            )
    lora = PeftLoraConfig(
        r=model.lora.r,
        lora_alpha=model.lora.alpha,
        lora_dropout=model.lora.dropout,
        target_modules=list(model.lora.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # initialisation, on the CPU, has its own seed stream
        torch.manual_seed(seed)
        try:
            peft = get_peft_model(base, lora)  # type: ignore[arg-type]
        except ValueError as error:
            raise InputError(
                f"model.lora.target_modules={model.lora.target_modules}: {_first_sentence(error)}; name linear layers."
            ) from None
    if model.activation_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    assert isinstance(peft, PeftModel)
    return peft


def _load(model: ModelConfig, load: Any, **kwargs: Any) -> Any:
    """Call a transformers loader with the model's path and revision; raises InputError if it fails."""
    path = smollm2_folder() if model.path is None else model.path
    try:
        # trust_remote_code is always given: without it transformers would ask at the terminal.
        return load(path, revision=model.revision, trust_remote_code=model.remote_code, **kwargs)
    except Exception as error:  # the hub, the files and transformers raise many kinds
        if is_out_of_memory(error):
            raise
        if not model.remote_code and "custom code" in str(error):
            raise InputError(
                f"model.path={model.path}: this model needs code that comes with it; if you trust who wrote it, give "
                "model.remote_code=true (to merge, --remote-code)."
            ) from None
        raise InputError(
            f"model.path={model.path}: this model cannot be loaded; give a hub id that this machine may read, or a folder "
            f"with a transformers model ({type(error).__name__}: {_first_sentence(error)})."
        ) from None


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:200].rstrip(".")


@torch.no_grad()
def _check_packing(base: PreTrainedModel) -> None:
    """Check that packed sequences do not see each other; an architecture with its own attention would be silently wrong."""

    def last_logits(first: range, second: range) -> torch.Tensor:
        packed = pack([Branches(first), Branches(second)]).to(base.device)
        return packed_logits(base, packed, torch.tensor([len(first) - 1, len(first) + len(second) - 1], device=base.device))

    try:
        one, other = last_logits(range(5, 12), range(20, 24)), last_logits(range(50, 57), range(20, 24))
        separate = torch.allclose(one[1], other[1], atol=1e-3) and not torch.allclose(one[0], other[0], atol=1e-3)
    except (TypeError, RuntimeError, IndexError) as error:
        # its forward does not take these arguments, or its tensors have other shapes
        if is_out_of_memory(error):
            raise
        separate = False
    if not separate:
        raise InputError(
            f"model.path={base.config._name_or_path}: the attention of {type(base).__name__} cannot run packed batches; "
            "use a model whose attention goes through transformers' AttentionInterface (Llama, Qwen, Mistral, SmolLM, ...)."
        )


def weights_fingerprint(base: PreTrainedModel) -> dict[str, str | None]:
    """Return what identifies the base weights: the hub's commit, and a hash of a few values of each tensor.

    The hash is the same in bf16 and in fp32. Quantised weights are left out, because their format is internal to bitsandbytes.
    """
    weights = [p for name, p in base.named_parameters() if "lora_" not in name and p.is_floating_point()]
    sample = torch.cat([p.detach().flatten()[:64].bfloat16().float().cpu() for p in weights])
    digest = hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16]
    return {"hub_commit": getattr(base.config, "_commit_hash", None), "sample": digest}
