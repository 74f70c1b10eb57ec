"""A trained method as one ONNX file: pixels in, answers out, for any runtime of that format."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from cache.errors import UsageError
from pipeline.export.exported_module import ExportedModule, dynamic_dimensions
from pipeline.export.torch_program import reason_of, traced_program
from pipeline.library.export_model import RunFile, TrainedModel, describe_model, register_model_format

OPSET = 18
"""The oldest set of operators that torch's exporter writes as it is; runtimes of 2023 and later know it."""

LARGEST = (1 << 31) - (1 << 20)
"""Bytes of tensors that one file of the format can hold, which is a message of protocol buffers."""


@register_model_format(".onnx", needs="onnx onnxscript onnxruntime", install="onnx onnxscript onnxruntime")
def write_onnx(model: TrainedModel, path: Path) -> RunFile:
    """ONNX: pixels in, answers out; the preprocessing is in the graph."""
    import onnxruntime

    module = ExportedModule(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size > LARGEST:
        raise UsageError(
            f"{model.directory} has {size:,} bytes of weights, and one ONNX file holds {LARGEST:,} at most: use "
            "`format` torch-export"
        )
    program = traced_program(model)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=module.input_names,
                output_names=module.output_names,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise UsageError(
            f"ONNX cannot hold {model.directory}: {reason_of(error)}. Use `format` torch-export"
        ) from error
    assert exported is not None
    _name_dimensions(exported.model.graph, dynamic_dimensions(module, model))
    exported.model.metadata_props.update(describe_model(model))
    exported.save(path)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(None, dict(zip(module.input_names, inputs, strict=True)))
        return outputs

    return run


def _name_dimensions(graph: Any, names: dict[str, dict[int, str]]) -> None:
    """Call the dimensions that may be of any length what they are, at inputs and outputs, in place of numbered symbols.

    Parameters
    ----------
    graph : onnx_ir.Graph
    """
    called: dict[str, str] = {}
    for value in graph.inputs:
        called |= {str(value.shape[dim]): name for dim, name in names[value.name].items()}
    for value in (*graph.inputs, *graph.outputs):
        for dim, length in enumerate(value.shape or ()):
            if str(length) in called:
                value.shape[dim] = called[str(length)]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporter prints and logs of its steps to itself; what goes wrong is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
