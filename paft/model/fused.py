"""Fused forms of what a Llama-style model computes besides multiplying: normalisation, positions, gates, LoRA.

transformers writes each of them as several element-wise operations. Written as one function with a backward pass of its own,
for frozen weights, each needs fewer passes over memory and fewer kernel launches, and keeps fewer activations. On CUDA
liger-kernel's Triton kernels take their place where that package is installed.

A model's own code decides: what is replaced is byte for byte what Llama (or Gemma 3) computes, whatever the class is called,
gives the same numbers on random inputs when it is replaced, and is replaced in one model, never in a class or module.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUTanh, SiLUActivation
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama import modeling_llama as llama

from paft.runtime import ranks
from paft.runtime.errors import first_sentence
from paft.runtime.memory import is_out_of_memory

Fused = Literal["off", "torch", "liger"]
Gate = Literal["silu", "gelu_tanh"]


def fused_kind(device: torch.device, setting: Literal["auto", "off"]) -> Fused:
    """Return which fused operations a model on the device gets; no model is needed to know.

    Args:
        setting: `trainer.fused`.
    """
    if setting == "off":
        return "off"
    liger = device.type == "cuda" and all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton"))
    return "liger" if liger else "torch"


def fused_of(base: nn.Module) -> Fused:
    """Return which fused operations a base model has got; "off" for one that `fuse` has not seen."""
    kind: Fused = getattr(base, "_fused", "off")
    return kind


def fuse(base: nn.Module, kind: Fused) -> None:
    """Replace the operations that are known, in this model alone; others stay as they are, or become so again.

    Each is compared first with what it replaces, forwards and backwards; where they differ, or the fused one fails (no
    compiler, an old card), one line says so and the plain one stays.
    """
    for module in getattr(base, "_fused_modules", ()):
        del module.forward
    replaced: list[nn.Module] = []
    setattr(base, "_fused", kind)  # noqa: B010 (mypy)
    setattr(base, "_fused_modules", replaced)  # noqa: B010
    if kind == "off":
        return
    kernels = _liger() if kind == "liger" else TORCH
    agreed: dict[Any, bool] = {}  # by code and by setting: one comparison for all layers
    for module in base.modules():
        for key, forward, comparison in _replacements(module, kernels):
            if key not in agreed:
                agreed[key] = _agrees(key[0], comparison)
            if agreed[key]:
                module.forward = forward  # type: ignore[method-assign]
                replaced.append(module)


# --- what is known -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FusedOperations:
    """The fused operations.

    rms_norm(x, weight, eps, gemma): x (..., H), weight (H,). gated(gate, up, kind): both (..., I), returns act(gate) * up.
    rotary(q, k, cos, sin): q (B, heads, N, D), k (B, heads_kv, N, D), cos and sin (B, N, D), as transformers calls it.
    """

    rms_norm: Callable[[Tensor, Tensor, float, bool], Tensor]
    gated: Callable[[Tensor, Tensor, Gate], Tensor]
    rotary: Callable[..., tuple[Tensor, Tensor]]


_Comparison = tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]  # plain, fused, their inputs
_GATES: dict[type, Gate] = {nn.SiLU: "silu", SiLUActivation: "silu", GELUTanh: "gelu_tanh"}


def _same_code(function: Any, known: Any) -> bool:
    """Return whether two functions are the same byte code; their names, annotations and docstrings may differ."""
    one, other = (getattr(each, "__code__", None) for each in (function, known))
    if one is None or other is None:
        return False

    def constants(each: Any, code: Any) -> list[Any]:
        return [None if constant == each.__doc__ else constant for constant in code.co_consts]

    same_names = (one.co_names, one.co_varnames) == (other.co_names, other.co_varnames)
    return same_names and one.co_code == other.co_code and constants(function, one) == constants(known, other)


def _replacements(
    module: nn.Module, kernels: FusedOperations
) -> Iterator[tuple[tuple[Any, ...], Callable[..., Any], _Comparison]]:
    """Yield (key, fused forward, comparison) if the module's code is known; modules of one key compute the same."""
    kind: Any = type(module)
    name = kind.__name__
    plain = kind.forward
    is_llama = _same_code(plain, llama.LlamaRMSNorm.forward)
    is_gemma = _same_code(plain, Gemma3RMSNorm.forward) and _same_code(kind._norm, Gemma3RMSNorm._norm)
    if is_llama or is_gemma:
        weight: Any = module.weight
        eps: Any = module.eps if is_gemma else module.variance_epsilon

        def norm(self: Any, x: Tensor) -> Tensor:
            if x.dtype != self.weight.dtype or self.weight.requires_grad:
                return plain(self, x)  # type: ignore[no-any-return]
            return kernels.rms_norm(x, self.weight, eps, is_gemma)

        inputs = [_drawn(weight, 2, 3, len(weight))]
        yield (
            (name, plain, len(weight)),
            MethodType(norm, module),
            (MethodType(plain, module), MethodType(norm, module), inputs),
        )
    elif _same_code(plain, llama.LlamaMLP.forward) and (gate := _GATES.get(type(module.act_fn))) is not None:
        activation: Any = module.act_fn

        def mlp(self: Any, x: Tensor) -> Tensor:
            # The projections stay modules: they may be quantised, or adapted by LoRA.
            down: Tensor = self.down_proj(kernels.gated(self.gate_proj(x), self.up_proj(x), gate))
            return down

        like: Any = next(module.parameters())
        inputs = [_drawn(like, 2, 3, 64), _drawn(like, 2, 3, 64, seed=1)]
        comparison = (lambda g, u: activation(g) * u), (lambda g, u: kernels.gated(g, u, gate)), inputs
        yield (name, plain, gate), MethodType(mlp, module), comparison
    elif "apply_rotary_pos_emb" in getattr(getattr(plain, "__code__", None), "co_names", ()):
        rotary = plain.__globals__.get("apply_rotary_pos_emb")
        halves = getattr(rotary, "__globals__", {}).get("rotate_half")
        if _same_code(rotary, llama.apply_rotary_pos_emb) and _same_code(halves, llama.rotate_half):
            # The model's own attention code, which finds another function under this name.
            names = plain.__globals__ | {"apply_rotary_pos_emb": kernels.rotary}
            forward = FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)
            forward.__kwdefaults__ = plain.__kwdefaults__
            like = next(module.parameters())
            dtype = _drawn(like, 1).dtype
            angles = _drawn(like, 1, 3, 32).float().repeat(1, 1, 2)
            inputs = [
                _drawn(like, 1, 3, 2, 64),
                _drawn(like, 1, 3, 1, 64, seed=1),
                angles.cos().to(dtype),
                angles.sin().to(dtype),
            ]
            yield (name, plain), MethodType(forward, module), (_on_tokens(rotary), _on_tokens(kernels.rotary), inputs)


def _drawn(like: Tensor, *size: int, seed: int = 0) -> Tensor:
    """Draw normal numbers, for each seed the same at each call."""
    dtype = like.dtype if like.is_floating_point() else torch.float32  # quantised weights are integers
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(like.device, dtype)


def _on_tokens(rotary: Callable[..., Any]) -> Callable[..., Any]:
    """Return a rotary function of q and k (B, N, heads, D), as the projections give them."""
    return lambda q, k, cos, sin: rotary(q.transpose(1, 2), k.transpose(1, 2), cos, sin)


# What rounding may change, of the largest number.
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def _agrees(name: str, comparison: _Comparison) -> bool:
    """Return whether fused and plain give the same results and gradients; where not, say so in one line."""
    plain, fused, inputs = comparison
    try:
        wanted, got = _results(plain, inputs), _results(fused, inputs)
        if [each.dtype for each in got] != [each.dtype for each in wanted]:
            raise TypeError(f"it returns {got[0].dtype} for {wanted[0].dtype}")
        wanted, got = [each.float() for each in wanted], [each.float() for each in got]
        error = max(float((g - w).abs().max() / w.abs().max().clamp_min(1e-30)) for g, w in zip(got, wanted, strict=True))
        if error <= _ROUNDING[inputs[0].dtype]:
            return True
        reason = f"it is {error:.0e} off"
    except Exception as problem:  # Triton, its compiler and drivers raise many kinds
        if is_out_of_memory(problem):
            raise
        reason = f"{type(problem).__name__}: {first_sentence(problem)}"
    if ranks.rank() == 0:
        print(f"{name} stays as transformers computes it: its fused form does not work here ({reason}).", flush=True)
    return False


def _results(function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return a function's results, and the gradients of those inputs that have some (cos and sin need none)."""
    device, dtype = inputs[0].device.type, inputs[0].dtype
    # As training calls it: in bf16 under autocast, to which some functions of torch answer in fp32.
    with torch.enable_grad(), torch.autocast(device, dtype, enabled=dtype == torch.bfloat16, cache_enabled=False):
        leaves = [each.clone().requires_grad_(number < 2) for number, each in enumerate(inputs)]
        # Not the leaves themselves: liger's rotary function writes over what it reads, as projections let it.
        out = function(*(leaf * 1 if leaf.requires_grad else leaf for leaf in leaves))
        results = list(out) if isinstance(out, tuple) else [out]
        sum((_drawn(result, *result.shape, seed=2) * result).sum() for result in results).backward()
    return [*(result.detach() for result in results), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


# --- torch -------------------------------------------------------------------------------------------------------------


class _RMSNorm(torch.autograd.Function):
    """RMSNorm with a frozen weight; statistics in fp32. Keeps its input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, gemma: bool) -> Tensor:
        """Normalise (..., H)."""
        x32 = x.float()
        rstd = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rstd)
        ctx.gemma = gemma
        normal = x32 * rstd
        return normal.mul_(1 + weight.float()).to(x.dtype) if gemma else normal.to(x.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """With n = x * rstd and g = grad * weight: rstd * (g - n * mean(g * n))."""
        x, weight, rstd = ctx.saved_tensors
        g = grad * (1 + weight.float()) if ctx.gemma else (grad * weight).float()
        x32 = x.float()
        share = torch.linalg.vecdot(g, x32).unsqueeze(-1) * rstd.pow(3).mul_(-1 / x.shape[-1])
        return g.mul_(rstd).addcmul_(x32, share).to(x.dtype), None, None, None


def _rms_norm(x: Tensor, weight: Tensor, eps: float, gemma: bool) -> Tensor:
    if x.is_cuda:  # there torch has a kernel of its own, forwards and backwards, which autocast would feed and leave in fp32
        with torch.autocast("cuda", enabled=False):
            if gemma:
                return F.rms_norm(x.float(), weight.shape, 1 + weight.float(), eps).to(x.dtype)
            return F.rms_norm(x, weight.shape, weight, eps)
    out: Tensor = _RMSNorm.apply(x, weight, eps, gemma)
    return out


class _Gated(torch.autograd.Function):
    """act(gate) * up. Keeps what each gradient is multiplied by, two tensors in place of three."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kind: Gate) -> Tensor:
        """Return act(gate) * up."""
        active = _activate(gate, kind)
        slope = torch.ops.aten.silu_backward(up, gate) if kind == "silu" else _gelu_backward(up, gate)
        ctx.save_for_backward(slope, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """grad * act'(gate) * up, and grad * act(gate)."""
        slope, active = ctx.saved_tensors
        return grad * slope, grad * active, None


def _activate(gate: Tensor, kind: Gate) -> Tensor:
    return F.silu(gate) if kind == "silu" else F.gelu(gate, approximate="tanh")


def _gelu_backward(grad: Tensor, gate: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten.gelu_backward(grad, gate, approximate="tanh")
    return out


def _gated(gate: Tensor, up: Tensor, kind: Gate) -> Tensor:
    if not (torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad)):
        return _activate(gate, kind).mul_(up)
    out: Tensor = _Gated.apply(gate, up, kind)
    return out


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Return x * cos + rotate_half(x) * sin, or (sign -1) its transpose; x (B, heads, N, D), cos and sin (B, 1, N, D)."""
    half = x.shape[-1] // 2
    first, second = (sin[..., :half], sin[..., half:])[::sign]
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], first, value=-sign)
    out[..., half:].addcmul_(x[..., :half], second, value=sign)
    return out


class _Rotary(torch.autograd.Function):
    """Rotary positions of queries and keys; the gradient turns back by the same angles."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Turn q and k."""
        ctx.save_for_backward(cos, sin)
        return _rotate(q, cos, sin, 1), _rotate(k, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Turn their gradients back."""
        cos, sin = ctx.saved_tensors
        return _rotate(q, cos, sin, -1), _rotate(k, cos, sin, -1), None, None


def _rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    turned: tuple[Tensor, Tensor] = _Rotary.apply(q, k, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim))
    return turned


TORCH = FusedOperations(_rms_norm, _gated, _rotary)


# --- liger-kernel ------------------------------------------------------------------------------------------------------


def _liger() -> FusedOperations:
    """Return liger-kernel's functions; each is one kernel forwards and one backwards, none waits for the card."""
    from liger_kernel.ops import LigerGELUMulFunction, LigerRMSNormFunction, LigerRopeFunction, LigerSiLUMulFunction

    def rms_norm(x: Tensor, weight: Tensor, eps: float, gemma: bool) -> Tensor:
        mode = "gemma" if gemma else "llama"
        # In place it would write over a gradient that Gemma's residual stream still needs.
        out: Tensor = LigerRMSNormFunction.apply(x, weight, eps, float(gemma), mode, False)
        return out

    def gated(gate: Tensor, up: Tensor, kind: Gate) -> Tensor:
        out: Tensor = (LigerSiLUMulFunction if kind == "silu" else LigerGELUMulFunction).apply(gate, up)
        return out

    def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        turned: tuple[Tensor, Tensor] = LigerRopeFunction.apply(q, k, cos, sin)
        return turned

    return FusedOperations(rms_norm, gated, rotary)


# --- LoRA --------------------------------------------------------------------------------------------------------------


class _LoraLinear(torch.autograd.Function):
    """A frozen linear layer and its low-rank update, in one function.

    It computes in the dtype of the frozen weight and of its input; the adapter's fp32 weights are rounded to it here, and
    get fp32 gradients. In fp32 that is PEFT's sum in another order (1e-6 of the result). In bf16 it rounds where PEFT under
    autocast rounds, except that the scaled update is added before it is rounded: the losses of both are equally far from
    those of fp32, and differ from each other by at most 1% (bf16 has eight bits).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float, dropout: float
    ) -> Tensor:
        """Return x (..., in) times weight (out, in), plus scaling * B A dropout(x); a (r, in), b (out, r)."""
        rows = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(weight.dtype), b.to(weight.dtype)
        seen, kept = torch.native_dropout(rows, dropout, True) if dropout else (rows, None)
        inner = seen @ low_a.T
        out = F.linear(rows, weight, bias).addmm_(inner, low_b.T, alpha=scaling)
        ctx.save_for_backward(rows, weight, low_a, low_b, inner, kept)
        ctx.scaling, ctx.dropout, ctx.kinds = scaling, dropout, (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        rows, weight, a, b, inner, kept = ctx.saved_tensors
        of_rows = grad.reshape(-1, grad.shape[-1])
        of_inner = (of_rows @ b).mul_(ctx.scaling)
        of_b = (of_rows.T @ inner).to(ctx.kinds[1]).mul_(ctx.scaling)
        scale = 1 / (1 - ctx.dropout) if kept is not None else 1.0
        seen = rows if kept is None else torch.ops.aten.native_dropout_backward(rows, kept, scale)
        of_a = (of_inner.T @ seen).to(ctx.kinds[0])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = of_rows @ weight
            if kept is None:
                of_x.addmm_(of_inner, a)
            else:
                of_x += torch.ops.aten.native_dropout_backward(of_inner @ a, kept, scale)
            of_x = of_x.view(*grad.shape[:-1], -1)
        return of_x, None, None, of_a, of_b, None, None


def _lora_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """PEFT's forward of a LoRA layer; in one function where one plain adapter is trained or scored, and is not merged."""
    names = self.active_adapters
    name = names[0] if len(names) == 1 else None
    base = self.base_layer
    if (
        args or kwargs or self.disable_adapters or self.merged or name not in self.lora_A or name in self.lora_variant
        or type(base) is not nn.Linear or base.weight.requires_grad or self.lora_bias[name] or self.fan_in_fan_out
    ):  # fmt: skip
        return lora.Linear.forward(self, x, *args, **kwargs)
    a, b, drop = self.lora_A[name].weight, self.lora_B[name].weight, self.lora_dropout[name]
    dtype = base.weight.dtype
    # Without autocast PEFT computes the update in the adapter's precision; with it, in that of autocast.
    inner = torch.get_autocast_dtype(x.device.type) if _autocasts(x) else a.dtype
    if not x.dtype == dtype == inner:
        return lora.Linear.forward(self, x)
    dropout = drop.p if isinstance(drop, nn.Dropout) and drop.training else 0.0
    out: Tensor = _LoraLinear.apply(x, base.weight, base.bias, a, b, self.scaling[name], dropout)
    return out


def _autocasts(x: Tensor) -> bool:
    """Return whether autocast is on where a tensor lies; on the meta device there is none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def _cast_unless_autocast(self: Any, x: Any, dtype: torch.dtype) -> Any:
    """PEFT casts an adapter's input to fp32, which autocast would cast back at once."""
    if x is not None and _autocasts(x):
        return x
    return lora.LoraLayer._cast_input_dtype(self, x, dtype)


def fuse_lora(model: nn.Module, kind: Fused) -> None:
    """Let the LoRA layers of a model compute in one function each, and cast nothing that autocast casts."""
    for layer in model.modules():
        if isinstance(layer, lora.LoraLayer):
            layer._cast_input_dtype = MethodType(_cast_unless_autocast, layer)  # type: ignore[method-assign]
        if kind != "off" and type(layer) is lora.Linear:
            layer.forward = MethodType(_lora_forward, layer)  # type: ignore[method-assign]
