"""Which device computes, and what it can do."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import torch
import torch.utils.deterministic
from torch import Tensor

from cache.errors import CutonceError, UsageError
from stages.runtime.cgroup import memory_left
from stages.runtime.memory import is_out_of_memory

RECORDING = threading.Lock()
"""Held while a CUDA graph is recorded, of which torch records one at a time in a process, and while a library is called
of which it is not known what it does to the device: a recording ends where any thread waits for all of the device."""


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is CUDA, then Apple's MPS, then the CPU, whichever is there first.

    Raises
    ------
    UsageError
        If the device is unknown or not available on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(int(name) if str(name).isdecimal() else name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"`device` {name} is not a device; use auto, cpu, cuda, cuda:1 or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        why_not = f" ({_why_no_cuda()})" if device.type == "cuda" else ""
        raise UsageError(f"`device` {name} is not available on this machine{why_not}; use `device` auto or cpu")
    return device


def _why_no_cuda() -> str:
    """Return why torch does not find a GPU of NVIDIA's or AMD's, or none of that number, in words."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is a build for CPUs alone"
    if torch.cuda.is_available():
        return f"it has cuda:0 to cuda:{torch.cuda.device_count() - 1}"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # no driver, one that is too old for this torch, no GPU
        return str(error).split(". ")[0]
    return f"torch {torch.__version__} finds none"


def require_computing(device: torch.device) -> None:
    """Have a device compute something, so that what keeps it from that is told at once.

    Raises
    ------
    UsageError
        If this torch has no code for the card, or the card is another's alone.
    CutonceError
        If its memory is taken.
    """
    try:
        torch.zeros(1, device=device).add_(1)
    except torch.OutOfMemoryError as error:
        raise CutonceError(f"the memory of {device} is taken: free some of it, or use `device` cpu") from error
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise UsageError(
            f"`device` {described(device)} does not compute with torch {torch.__version__} "
            f"({str(error).splitlines()[0]}); use a torch that is made for it, or `device` cpu"
        ) from error


def described(device: torch.device) -> str:
    """Return a device in words: of a GPU its name, and which generation it is of."""
    if device.type != "cuda":
        return str(device)
    major, minor = torch.cuda.get_device_capability(device)
    return f"{device}, {torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"


_CUBLAS, _CUBLAS_MEMORY = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""Where cuBLAS and torch read, once in a process, whether products are to have the same bits; and how they have."""


def compute_deterministically() -> None:
    """Have a GPU give the same bits each time; what torch knows no such way for raises RuntimeError from then on.

    For the whole process, and before anything was multiplied on a GPU: cuBLAS asks for its memory once. Afterwards
    torch refuses products, which `not_deterministic` knows.
    """
    os.environ.setdefault(_CUBLAS, _CUBLAS_MEMORY)
    torch.use_deterministic_algorithms(True)
    # nothing here reads what was not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def not_deterministic(error: BaseException) -> str:
    """Return which operator torch refused after `compute_deterministically`; '' where the error is another."""
    if "Deterministic behavior was enabled" in str(error) and "CuBLAS" in str(error):
        return (
            f"products of matrices, since some were computed before that was asked for (set {_CUBLAS}={_CUBLAS_MEMORY} "
            "before Python begins)"
        )
    name, refused, _ = str(error).partition(" does not have a deterministic implementation")
    return name if refused else ""


def to_device(targets: Tensor, device: torch.device) -> Tensor:
    """Return targets on a device, in float32 instead of float64 on Apple's GPU, which has none."""
    has_type = device.type != "mps" or targets.dtype != torch.float64
    return uploaded(targets if has_type else targets.float(), device)


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; what NVIDIA's GPU copies from pinned memory, nobody waits for.

    Others are waited for: what they would still copy may be let go of by then, and only pinned memory is kept for that.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


_PAYS_FROM = 1 << 30
"""Multiplications of one product from which on it is worth sending: fewer are over on cores before they are there."""


def product_device(device: torch.device, multiplications: int) -> torch.device:
    """Return where products of so many multiplications are computed: on the `device`, if they pay there, or the CPU.

    Apple's GPUs, which have no float64, are left out: sums over many rows and decompositions are in that.
    """
    return device if device.type == "cuda" and multiplications >= _PAYS_FROM else torch.device("cpu")


def free_memory(device: torch.device) -> int:
    """Return how many bytes of memory a device has free; a CPU, how many this process may take.

    Of NVIDIA's with what torch holds for later: what was computed before leaves the GPU as good as empty, and full by
    what the driver says.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    available, left = int(psutil.virtual_memory().available), memory_left()
    return available if left is None else min(available, left)


def has_numbers_here(x: torch.Tensor) -> bool:
    """Say whether a tensor has numbers of a CPU that are to be computed now, as they are and without gradients.

    Programs (compiled, traced or exported) are made of what stands for tensors and has none.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and type(x) is torch.Tensor
        and x.device.type == "cpu"
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch.is_autocast_enabled("cpu")
    )


def supports_bf16(device: torch.device, *, emulated: bool = False) -> bool:
    """Say whether a device has instructions for products of bfloat16; elsewhere they are emulated, which is slow.

    Of processors those with AVX-512 BF16 or AMX, read from ``/proc/cpuinfo``: on others torch has not been seen to
    convolve in it quickly, and where there is no such file the answer is no. Of Apple's GPUs none: no gain was seen.

    Parameters
    ----------
    emulated : bool
        Whether it is enough that NVIDIA's GPU computes in it at all.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=emulated))
    return device.type == "cpu" and lists_bfloat16(cpuinfo())


def cpuinfo() -> str:
    """Return what Linux says of the processors; '' on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def lists_bfloat16(listed: str) -> bool:
    """Say whether the flags of an x86 processor, as ``/proc/cpuinfo`` has them, hold products of bfloat16."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(listed.split())


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that the device is of no use to this process any more."""
    if is_out_of_memory(error):  # which CUDA itself says by the class of errors that a lost device has
        return False
    words = str(error).lower()
    lost = (
        "illegal memory access",
        "device-side assert",
        "unspecified launch failure",
        "has fallen off",
        "device lost",
    )
    return isinstance(error, torch.AcceleratorError) or any(phrase in words for phrase in lost)


def told_as_lost(device: torch.device, error: BaseException) -> str:
    """Return in words what `is_lost` found, where all that was done is kept."""
    return (
        f"{device} answers no more ({str(error).splitlines()[0]}): what is written stays, and the same command goes on "
        "from there once the device is back"
    )
