"""The trunk on a CPU by OpenVINO, whose kernels are quicker than torch's where networks have many small layers."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cache.errors import UsageError

INSTALL = "pip install 'openvino>=2025.0'"

_IMAGES = 2
"""Images of a call: what they become stays in the caches of a core, where those of more do not."""

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class _Normalization(Protocol):
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def shape(self) -> tuple[int, int]: ...


def openvino_arithmetic(arithmetic: str, precision: str) -> str:
    """Return the name of what OpenVINO computes where torch would compute `arithmetic` for a precision.

    fp32 is float32 with sums in another order, as on any other device, and keeps its name; bf16 rounds elsewhere than
    torch does.

    Raises
    ------
    UsageError
        If it computes in no such precision.
    """
    if precision not in _HINTS:
        raise UsageError(
            f"`engine` openvino computes in fp32 and bf16, and `precision` is {precision}: take one of them"
        )
    return arithmetic if precision == "fp32" else f"{arithmetic}-openvino"


def require_openvino() -> Any:
    """Return OpenVINO; UsageError, which names what to install, where it is not there."""
    try:
        with _without_its_reports():
            return import_module("openvino")
    except ImportError as error:
        raise UsageError(f"`engine` openvino needs OpenVINO, which does not load ({error}): {INSTALL}") from error


class OpenVINOTrunk:
    """A trunk in float32, compiled by OpenVINO: rendered images -> rows. Several threads may call it at once.

    Parameters
    ----------
    trunk : Module
        Normalised images, float32 [b, C, H, W] -> tensors [b, ...].
    preprocessing
        How rendered images are normalised.
    precision : {'fp32', 'bf16'}
        In which it computes; bf16 is emulated, and slow, where the processor does not multiply it.
    threads : int
        How many call it at once; each gets one core.

    Raises
    ------
    UsageError
        If OpenVINO is not there, or cannot do what the network does.
    """

    def __init__(self, trunk: nn.Module, preprocessing: _Normalization, precision: str, threads: int) -> None:
        shape = [_IMAGES, len(preprocessing.mean), *preprocessing.shape]
        try:
            model = _as_model(trunk, preprocessing, shape)
            self._compiled = _core().compile_model(
                model,
                "CPU",
                {
                    "NUM_STREAMS": threads,
                    "INFERENCE_NUM_THREADS": threads,
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    "ENABLE_CPU_PINNING": False,  # other threads decode
                },
            )
        except _failures() as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"OpenVINO cannot compute this network ({reason}): use `engine` cores") from error
        self._of_thread = threading.local()

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the rows, float32 [b, ...] each, of rendered images, uint8 [b, C, H, W]."""
        pixels = images.permute(0, 2, 3, 1).contiguous()
        if missing := -len(pixels) % _IMAGES:
            pixels = torch.cat([pixels, pixels.new_zeros((missing, *pixels.shape[1:]))])
        request = self._request()
        parts: list[list[Tensor]] = []
        for first in range(0, len(pixels), _IMAGES):
            part = pixels[first : first + _IMAGES]
            request.infer([part.numpy()], share_inputs=True)
            # copied, as the next call writes there
            parts.append([torch.from_numpy(output.data.copy()) for output in request.output_tensors])
        return [torch.cat(rows)[: len(images)] for rows in zip(*parts, strict=True)]

    def _request(self) -> Any:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request


@cache
def _core() -> Any:
    """Return OpenVINO's core, which is kept as long as the process.

    As the first one is made, the thread gets a stack for handlers of signals; as the last one goes, in whatever thread,
    that stack is given back. The next signal then ends the process without a word: of a child process that has ended,
    say, which torch's loaders wait for.
    """
    return require_openvino().Core()


@contextmanager
def _without_its_reports() -> Iterator[None]:
    """Let OpenVINO be imported as it is where the package is missing by which it reports each import to its makers.

    Whose images these are has not asked for that; and it is done in a process that a thread forks, in the midst of what
    other threads compute.
    """
    reporting = "openvino_telemetry"
    if reporting in sys.modules:  # who uses it knows
        yield
        return
    sys.modules[reporting] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[reporting]


def _failures() -> tuple[type[BaseException], ...]:
    """Return what OpenVINO raises on a network that it cannot convert."""
    frontend = import_module("openvino.frontend")
    names = (
        "GeneralFailure",
        "InitializationFailure",
        "NotImplementedFailure",
        "OpConversionFailure",
        "OpValidationFailure",
    )
    return (RuntimeError, TypeError, ValueError, *(getattr(frontend, name) for name in names))


def _as_model(trunk: nn.Module, preprocessing: _Normalization, shape: list[int]) -> Any:
    """Return what OpenVINO compiles: uint8 [b, H, W, C] -> outputs.

    By its parts and not by ``openvino.convert_model``, which reports to its makers that it was called.
    """
    openvino = require_openvino()
    frontend = import_module("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    decoder = import_module("openvino.frontend.pytorch.ts_decoder").TorchScriptPythonDecoder
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that tracing will go, and that shapes become constants, as they shall
        traced = torch.jit.trace(trunk, torch.zeros(shape), check_trace=False)  # type: ignore[no-untyped-call]
        decoded = decoder(traced)  # it has to be there until all is converted
        model = frontend.convert(frontend.load(decoded))
    model.reshape(shape)
    steps = import_module("openvino.preprocess").PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    normalized = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    normalized.mean([255 * mean for mean in preprocessing.mean]).scale([255 * std for std in preprocessing.std])
    return steps.build()
