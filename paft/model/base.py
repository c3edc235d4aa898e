"""Loading a base model and its tokenizer, with explicit settings where defaults are easy to get wrong."""

import hashlib
from dataclasses import dataclass
from typing import Any, TypeAlias

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
from transformers.pytorch_utils import Conv1D

from paft.config.schema import ModelConfig
from paft.model.attention import NAMES, Kernel, register
from paft.model.converted import loadable
from paft.model.fused import Fused, fuse_lora, fused_kind, fused_of
from paft.model.identity import revision_of
from paft.model.packed_check import check_architecture, check_packing, unscaled_positions
from paft.model.sharding import load_sharded
from paft.runtime.errors import InputError, first_sentence
from paft.runtime.memory import is_out_of_memory

Model: TypeAlias = PeftModel | PreTrainedModel  # with an adapter, or without


def device_of(accelerator: str) -> torch.device:
    """Return the device of an accelerator setting; raises InputError if CUDA is requested but not available."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("accelerator=cuda: this machine has no usable CUDA device; use cpu or auto.")
    return torch.device("cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda")


_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_FINGERPRINT = "_paft_fingerprint"  # attribute of a model whose weights are no longer all there, or no longer all its own


def check_quantization(model: ModelConfig, device: torch.device) -> None:
    """Raise InputError if weights are to be quantised on a device where gradients cannot pass through them.

    bitsandbytes also runs on some CPUs, but repacks weights at the first evaluation into a form without a gradient.
    """
    if model.quantization is not None and device.type != "cuda":
        raise InputError(f"model.quantization={model.quantization} needs an NVIDIA GPU; leave it out on this machine.")


def dtype_of(model: ModelConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of the base weights: bf16 where the hardware multiplies it fast, else fp32.

    Weights that are trained themselves are fp32, because bf16 would round small updates away.
    """
    if model.dtype != "auto":
        return _DTYPES[model.dtype]
    if model.lora is None:
        return torch.float32
    return torch.bfloat16 if multiplies_bf16_fast(device) else torch.float32


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16; without them a CPU takes many times as long as in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True)
class Attention:
    """A choice of attention: the kernel, and why it was taken."""

    kernel: Kernel
    why: str


def attention_of(model: ModelConfig, config: PreTrainedConfig, device: torch.device, backward: bool) -> Attention:
    """Return the attention of packed rows: what model.attention says, and for auto the fastest that is right there.

    Args:
        config: of the architecture.
        backward: whether gradients will pass through it.

    Raises InputError if the setting asks for kernels that this GPU does not have.
    """
    dtype = dtype_of(model, device)
    missing = _no_varlen(config, dtype) if device.type == "cuda" else None
    if model.attention == "varlen" and missing is not None:
        raise InputError(f"model.attention=varlen: {missing}; use auto.")
    if model.attention != "auto":
        return Attention(model.attention, "as set")
    if device.type == "cuda":
        return Attention("sdpa", missing) if missing else Attention("varlen", "flash attention without padding")
    if backward and dtype == torch.bfloat16:
        # The backward pass of sdpa, and only that, is several times slower there than that of eager.
        return Attention("eager", "bf16 on a CPU")
    return Attention("sdpa", "a CPU")


def _no_varlen(config: PreTrainedConfig, dtype: torch.dtype) -> str | None:
    """Return why flash attention of variable length cannot be used on this GPU, None if it can."""
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if dtype != torch.bfloat16:
        return "flash attention takes bf16, not fp32"
    if not torch.backends.cuda.is_flash_attention_available() or torch.cuda.get_device_capability() < (8, 0):
        return "flash attention needs a GPU of compute capability 8.0 or newer, and a torch built with it"
    if width > 256 or width % 8:
        return f"flash attention takes heads of up to 256 features, a multiple of 8, not {width}"
    return None


def switch_attention(base: PreTrainedModel, model: ModelConfig, backward: bool) -> None:
    """Switch a loaded model to the attention of training (`backward`) or of scoring; on a GPU they are the same."""
    if base.device.type == "cpu":
        base.set_attn_implementation(NAMES[attention_of(model, base.config, base.device, backward).kernel])


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer; raises InputError if the model cannot be loaded."""
    return _load(model, AutoTokenizer.from_pretrained)


def load_config(model: ModelConfig) -> PreTrainedConfig:
    """Load the architecture's configuration (sizes, window); raises InputError if the model cannot be loaded."""
    return _load(model, AutoConfig.from_pretrained)


def window_of(config: PreTrainedConfig, otherwise: int) -> int:
    """Return how many tokens the model can attend to, or `otherwise` if its configuration sets no limit.

    Beyond it, positions are scaled by the longest text of a batch, or there are none.
    """
    limits = (getattr(config, "max_position_embeddings", None), unscaled_positions(config))
    return min((limit for limit in limits if limit is not None), default=otherwise)


def load_base(
    model: ModelConfig,
    device: torch.device,
    backward: bool = False,
    cutoff: int = 1024,
    fused: Fused | None = None,
    sharded: bool = False,
) -> PreTrainedModel:
    """Load the frozen base model for packed batches.

    Args:
        backward: whether gradients will pass through the model.
        cutoff: tokens of the longest text that it will read.
        fused: which fused operations it gets; None: the best for the device. A sharded model gets none.
        sharded: whether its layers are spread over all ranks.

    Raises InputError if the model cannot be loaded, or packed batches would lose a part of its architecture.
    """
    config = load_config(model)
    cutoff = min(cutoff, getattr(config, "max_position_embeddings", None) or cutoff)
    check_architecture(model.path, config, cutoff)
    register()
    attention = attention_of(model, config, device, backward)
    base = load_sharded(lambda: _with_known_weights(model, device), device) if sharded else load_weights(model, device)
    fused = "off" if sharded else fused or fused_kind(device, "auto")
    try:
        check_packing(base, NAMES[attention.kernel], cutoff, fused)
    except InputError as error:
        if attention.kernel != "varlen" or model.attention == "varlen":
            raise
        print(f"model.attention=auto: sdpa, because kernels of variable length do not do here ({first_sentence(error)}).")
        check_packing(base, NAMES["sdpa"], cutoff, fused)
    return base


def _with_known_weights(model: ModelConfig, device: torch.device) -> PreTrainedModel:
    """Load the frozen base model on the CPU, with the precision of a device, and take its fingerprint while it is whole."""
    (dtype,) = (name for name, dtype in _DTYPES.items() if dtype == dtype_of(model, device))
    base = load_weights(model.model_copy(update={"dtype": dtype}), torch.device("cpu"))
    keep_fingerprint(base)
    return base


def load_weights(model: ModelConfig, device: torch.device) -> PreTrainedModel:
    """Load the frozen base model as transformers runs it; quantised to NF4, as in QLoRA (arXiv 2305.14314), if asked for.

    Raises InputError if the model cannot be loaded.
    """
    settings: dict[str, Any] = {"dtype": dtype_of(model, device)}
    if model.quantization is not None:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=settings["dtype"],
        )
        settings["device_map"] = {"": torch.cuda.current_device() if device.type == "cuda" else "cpu"}
    base = _load(model, AutoModelForCausalLM.from_pretrained, **settings).to(device)
    base.config._commit_hash = revision_of(model)  # transformers 5.23 no longer says of which commit the weights are
    base.requires_grad_(False)
    return base


def skeleton(model: ModelConfig, trained: bool) -> PeftModel | PreTrainedModel:
    """Build the model, with `trained` ready to be trained, without weights (on the meta device).

    Raises InputError if transformers knows no causal LM of this architecture or a target module does not exist.
    """
    config = load_config(model)
    with torch.device("meta"):
        base = _load(
            model, lambda *_, **kw: AutoModelForCausalLM.from_config(config, trust_remote_code=kw["trust_remote_code"])
        )
        return make_trainable(base, model, seed=0) if trained else base


def make_trainable(base: PreTrainedModel, model: ModelConfig, seed: int) -> Model:
    """Return a base model that is ready to be trained: wrapped in a fresh adapter, or itself with all its weights (lora=none).

    Raises InputError if the target modules of the adapter do not exist.
    """
    if model.lora is not None:
        return add_lora(base, model, seed)
    base.requires_grad_(True)
    _checkpoint_activations(base, model)
    return base


def without_adapter(model: Model) -> PreTrainedModel:
    """Return the base model that an adapter was put on; a model without one as it is."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base


def add_lora(base: PreTrainedModel, model: ModelConfig, seed: int) -> PeftModel:
    """Wrap the base model in a fresh LoRA adapter with fp32 weights; in a fused base model its layers are fused too.

    Raises InputError if the target modules do not exist.
    """
    assert model.lora is not None
    linear = {name: module for name, module in base.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}
    targeted = []
    for target in model.lora.target_modules:
        found = [module for name, module in base.named_modules() if name == target or name.endswith(f".{target}")]
        if not found:
            names = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise InputError(
                f"model.lora.target_modules: {type(base).__name__} has no module {target!r}; LoRA can adapt its "
                f"{', '.join(names)}."
            )
        targeted += found
    lora = PeftLoraConfig(
        r=model.lora.r,
        lora_alpha=model.lora.alpha,
        lora_dropout=model.lora.dropout,
        target_modules=list(model.lora.target_modules),
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in targeted),  # how GPT-2's layers store their weights
        use_dora=model.lora.use_dora,
        use_rslora=model.lora.use_rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # initialisation, on the CPU, has its own seed stream
        torch.manual_seed(seed)
        try:
            peft = get_peft_model(base, lora)  # type: ignore[arg-type]
        except ValueError as error:
            raise InputError(
                f"model.lora.target_modules={model.lora.target_modules}: {first_sentence(error)}; name linear layers."
            ) from None
    _checkpoint_activations(base, model)
    assert isinstance(peft, PeftModel)
    fuse_lora(peft, fused_of(base))
    return peft


def _checkpoint_activations(base: PreTrainedModel, model: ModelConfig) -> None:
    if model.activation_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})


def _load(model: ModelConfig, load: Any, **kwargs: Any) -> Any:
    """Call a transformers loader with the model's path and revision; raises InputError if it fails."""
    revision, path = revision_of(model), loadable(model.path, model.accept_license)
    try:
        # trust_remote_code is always given: without it transformers would ask at the terminal.
        return load(path, revision=revision, trust_remote_code=model.remote_code, **kwargs)
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
            f"with a transformers model ({type(error).__name__}: {first_sentence(error)})."
        ) from None


def keep_fingerprint(base: PreTrainedModel) -> None:
    """Take the fingerprint of a base model before it is sharded, or gets an adapter, which may replace biases or embeddings."""
    setattr(base, _FINGERPRINT, weights_fingerprint(base))


def weights_fingerprint(base: PreTrainedModel) -> dict[str, str | None]:
    """Return what identifies the base weights: the hub's commit, and a hash of a few values of each tensor.

    The hash is the same in bf16 and in fp32. Quantised weights are left out, because their format is internal to bitsandbytes.
    """
    if (known := getattr(base, _FINGERPRINT, None)) is not None:
        return dict(known)
    weights = [p for name, p in base.named_parameters() if "lora_" not in name and p.is_floating_point()]
    sample = torch.cat([p.detach().flatten()[:64].bfloat16().float().cpu() for p in weights])
    digest = hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16]
    return {"hub_commit": getattr(base.config, "_commit_hash", None), "sample": digest}
