"""A trained method as a program of ``torch.export``: pixels in, answers out, with torch alone."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from cache.errors import UsageError
from pipeline.export.exported_module import ExportedModule, dynamic_dimensions, example_inputs
from pipeline.library.export_model import RunFile, TrainedModel, describe_model, register_model_format

_OPERATOR = re.compile(r"\b(?:aten|torchvision|prims|quantized)(?:\.|::)\w+")


@register_model_format(".pt2", called="torch-export")
def write_torch_program(model: TrainedModel, path: Path) -> RunFile:
    """Program of torch.export: pixels in, answers out; torch alone runs it."""
    program, file = traced_program(model), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where tensors share their memory, of what is not on a CPU
        torch.export.save(program, file, extra_files=describe_model(model))
    path.write_bytes(file.getbuffer())
    file.seek(0)
    loaded = torch.export.load(file).module()

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        with torch.no_grad():
            outputs = loaded(*map(torch.from_numpy, inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run


def traced_program(model: TrainedModel) -> ExportedProgram:
    """Return a method as a graph of torch's operators, for images of any size and batches of any length.

    Raises
    ------
    UsageError
        If its network or its head cannot be traced so, naming the operator where one is known.
    """
    module = ExportedModule(model)
    lengths: dict[str, Dim] = {}
    shapes = tuple(
        {dim: lengths.setdefault(name, Dim(name)) for dim, name in dimensions.items()}
        for dimensions in dynamic_dimensions(module, model).values()
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own deprecations, in what it decomposes
            return torch.export.export(
                module, example_inputs(module, model), dynamic_shapes={"inputs": shapes}, strict=False
            )
    except Exception as error:
        raise UsageError(
            f"{model.directory} cannot be traced for export: {reason_of(error)}. `format` safetensors holds its "
            "tensors for this library to load"
        ) from error


def reason_of(error: BaseException) -> str:
    """Return what stands in the way, in a line: the operators that an error names, and its first words."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    operators = sorted({name.replace("::", ".") for text in texts for name in _OPERATOR.findall(text)})
    words = next((line.strip() for text in reversed(texts) for line in text.splitlines() if line.strip()), "")
    named = f"the operator {', '.join(operators[:3])}; " if operators else ""
    return f"{named}{words[:200]}"
