"""Memory that runs out is recognised in the words of every library, and nothing else is taken for it."""

import weakref

import pytest
import torch

from paft.cli.hydra_app import run_plain
from paft.runtime.errors import InputError, NotEnoughMemoryError
from paft.runtime.launch import run_on
from paft.runtime.memory import device_is_lost, in_short, is_out_of_memory, out_of_memory_is_an_input_error

_FAILED = "execute(handle, variant_pack, workspace_ptr.get()).is_good() to be true, but got false"
_PLEASE = ".  (Could this error message be improved?  If so, please report an enhancement request to PyTorch.)"

# As libraries said it, each with what a sentence shows of it.
RECORDED = [
    (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 9.56 MiB is "
            "free. Process 123 has 9.87 GiB memory in use. Including non-PyTorch memory, this process has 9.81 GiB."
        ),
        "CUDA out of memory; Tried to allocate 20.00 MiB; GPU 0 has a total capacity of 79.10 GiB of which 9.56 MiB is free; ",
    ),
    (
        RuntimeError(
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
            "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
        ),
        "(CUDA error: out of memory)",
    ),
    (RuntimeError("CUDA driver error: out of memory"), "CUDA driver error: out of memory"),
    (
        RuntimeError(f"Expected mha_graph.{_FAILED}{_PLEASE}"),
        f"(Expected mha_graph.{_FAILED})",
    ),
    (
        RuntimeError(f"Expected mha_graph->{_FAILED}{_PLEASE}"),
        "Expected mha_graph->execute(",
    ),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "ALLOC_FAILED when"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), "NOT_INITIALIZED"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasLtCreate(&handle)`"), "cublasLtCreate"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), "NOT_INITIALIZED"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "DEVICE_ALLOCATION_FAILED"),
    (RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"), "DnCreate"),
    (RuntimeError("cusolver error: 7, when calling `cusolverDnCreate(handle)`"), "cusolver error: 7"),
    (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnSgetrf(...)`"), "STATUS_ALLOC"),
    (
        RuntimeError(
            "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:93, unhandled cuda error (run with "
            "NCCL_DEBUG=INFO for details), NCCL version 2.26.2\nncclUnhandledCudaError: Call to CUDA function failed.\n"
            "Last error:\nCuda failure 2 'out of memory'"
        ),
        "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:93, unhandled cuda error",
    ),
    (RuntimeError("Triton Error [CUDA]: out of memory"), "Triton Error [CUDA]: out of memory"),
    (torch.OutOfMemoryError("HIP out of memory. Tried to allocate 2.00 GiB."), "HIP out of memory; Tried to allocate 2.00 GiB"),
    (RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GiB)."), "MPS backend out of memory"),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "132426121216 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "[enforce fail at alloc_cpu.cpp:121] err == 0; DefaultCPUAllocator: can't allocate memory",
    ),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1981808640 bytes."), "not enough memory"),
    (RuntimeError("std::bad_alloc"), "std::bad_alloc"),
    (OSError(12, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
    (MemoryError(), "MemoryError"),
]  # fmt: skip

OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (320x256 and 128x256)"),
    RuntimeError("out of resource: shared memory, Required: 132096, Hardware limit: 101376"),
    OSError(28, "No space left on device"),
    ValueError("prompts.yaml, line 3: 'out of memory' is no placeholder"),
    InputError("out of memory"),
]


@pytest.mark.parametrize(("error", "shown"), RECORDED, ids=lambda value: str(value)[:60])
def test_what_libraries_say_becomes_one_sentence(error, shown):
    assert is_out_of_memory(error)
    with pytest.raises(NotEnoughMemoryError) as told, out_of_memory_is_an_input_error(lambda: "lower K"):
        raise error
    message = str(told.value)
    assert message.startswith("Memory ran out (") and shown in message and message.endswith("): lower K.")
    assert "\n" not in message and len(in_short(error)) < 150


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_nothing_else_is_taken_for_it(error):
    with pytest.raises(type(error)) as told, out_of_memory_is_an_input_error(lambda: "lower K"):
        raise error
    assert told.value is error


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: unknown error\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: no CUDA-capable device is detected",
        "CUDA error: the remote procedural call between the MPS server and the MPS client failed",
        "CUDA unknown error - this may be due to an incorrectly set up environment",
    ],
)
def test_a_gpu_that_went_away_is_told_from_memory_and_from_mistakes_of_ours(said, capsys):
    error = RuntimeError(said)
    assert device_is_lost(error) and not is_out_of_memory(error)
    with pytest.raises(SystemExit) as left:
        run_plain(lambda: _raise(error))
    printed = capsys.readouterr().err
    assert (
        left.value.code == 2
        and printed.startswith("error: The GPU cannot be used, or not any more (CUDA")
        and printed.count("\n") == 1
    )


@pytest.mark.parametrize("error", [*(error for error, _ in RECORDED), *OTHERS], ids=lambda value: str(value)[:60])
def test_no_other_error_means_that_the_gpu_went_away(error):
    assert not device_is_lost(error)


def _raise(error: Exception) -> None:
    raise error


def test_the_error_of_this_machine_is_one():
    """torch's own: more than any machine has."""
    with pytest.raises(NotEnoughMemoryError, match=r"allocate"), out_of_memory_is_an_input_error(lambda: "lower K"):
        torch.empty(2**60, dtype=torch.uint8)


def test_the_error_holds_none_of_what_took_the_room():
    """A sweep keeps the errors of its jobs to the end."""
    held = []

    def work() -> None:
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(NotEnoughMemoryError) as told, out_of_memory_is_an_input_error(lambda: "lower K"):
        work()
    assert told.value.__context__ is not None and held[0]() is None


def runs_out() -> None:
    with out_of_memory_is_an_input_error(lambda: "lower K"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_it_arrives_from_a_process_of_its_own():
    with pytest.raises(
        NotEnoughMemoryError, match=r"^Memory ran out \(CUDA out of memory; Tried to allocate 2.00 GiB\): lower K\.$"
    ):
        run_on(2, "cpu", runs_out)
