"""A model card beside an exported file, as the Hugging Face hub reads them: front matter for tools, then prose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cache.atomic_write import write_atomically
from pipeline.evaluation.decision import class_names_of
from pipeline.evaluation.methods import get_method, is_method
from pipeline.evaluation.results import Result, read_comparison
from pipeline.experiment.models.mixture_model import Network
from pipeline.experiment.models.model_card import read_unlike
from pipeline.export.equality import BOUND, Equality
from pipeline.export.exported_module import ExportedModule, places_of_method
from pipeline.library.export_model import TrainedModel
from pipeline.options.toml_file import read_configuration
from pipeline.run_layout import CONFIGURATION, RESULT, run_of
from pipeline.text import capitalized, format_score, in_markdown
from stages.inspection.unlike import MARKED
from stages.network.backbones.registry import network_catalog
from stages.runtime.unicode_text import printable
from stages.tasks.dense import Dense
from stages.tasks.regression import Regression

PIPELINE_TAGS = {"dense": "image-segmentation"}
"""What the hub calls a task; `image-classification` is the rest but numbers, which it has no word for."""

_NOT_STATED = "not stated by the run: say it here before you publish the file"


def card_path(path: Path) -> Path:
    """Return where the card of an exported file lies: beside it, under its name."""
    return path.with_name(f"{path.name}.md")


def write_card(model: TrainedModel, path: Path, equality: Equality | None = None) -> Path:
    """Write the model card of an exported file; return where it is.

    Parameters
    ----------
    model : TrainedModel
    path : Path
        The exported file.
    equality : Equality, optional
        How its answers compare with the run's.

    Raises
    ------
    DataError
        If the result beside the model is damaged.
    """
    run = run_of(model.directory)
    result = Result.load(model.directory) if (model.directory / RESULT).exists() else None
    licenses = _licenses(model)
    license_name = next(iter(licenses.values())) if len({*licenses.values()}) == 1 else None
    card = ModelCard.from_template(
        card_data=_front_matter(model, result, path, run, license_name),
        template_str="---\n{{ card_data }}\n---\n\n{{ body }}\n",
        body="\n\n".join(
            [
                f"# {in_markdown(path.stem)}",
                _what_it_is(model, result),
                "## How to load it\n\n" + loading_snippet(model, path),
                "## Data\n\n" + _data(result, run),
                "## How good it is\n\n" + _metrics(result),
                "## Limits\n\n" + _limits(model, result, run, equality),
                "## Licenses\n\n"
                + "".join(
                    f"- Weights of {in_markdown(name)}: {of_name or _NOT_STATED}.\n"
                    for name, of_name in licenses.items()
                )
                + f"- Data: {_NOT_STATED}.",
            ]
        ),
    )
    target = card_path(path)
    write_atomically(target, printable(str(card)).encode())
    return target


def license_of_weights(backbone: str) -> str | None:
    """Return the license of a network's weights, as whoever published them calls it; None where that is not known."""
    return next((entry.license for entry in network_catalog() if entry.name == backbone), None)


def _licenses(model: TrainedModel) -> dict[str, str | None]:
    """Return the license of the weights of each network that is in the method, by its name."""
    options = [network.extractor.options for network in model.networks]
    return {
        of_network.backbone: license_of_weights(of_network.backbone) if of_network.weights == "default" else None
        for of_network in options
    }


def _front_matter(
    model: TrainedModel, result: Result | None, path: Path, run: Path, license_name: str | None
) -> ModelCardData:
    task = model.task.name
    tag = None if isinstance(model.task, Regression) else PIPELINE_TAGS.get(task, "image-classification")
    results = None
    if result is not None:
        results = [
            EvalResult(
                task_type=tag or "tabular-regression",
                dataset_type="custom",
                dataset_name=printable(str(_source(run) or "own data")),
                dataset_split="test",
                metric_type=name,
                metric_name=result.task.metrics[name].label,
                metric_value=round(float(result.test[name]), 6),
            )
            for name in dict.fromkeys((result.task.primary, *result.task.shown))
            if result.test.get(name) is not None
        ]
    return ModelCardData(
        model_name=printable(path.stem),
        library_name={".onnx": "onnx", ".pt2": "pytorch"}.get(path.suffix.lower(), "cutonce"),
        pipeline_tag=tag,
        license=(license_name or "other").lower() if ":" not in (license_name or "") else "other",
        tags=["cutonce", "transfer-learning", task],
        metrics=None if result is None else [result.task.primary],
        eval_results=results,
    )


def _what_it_is(model: TrainedModel, result: Result | None) -> str:
    card, names = model.card, class_names_of(model.task)
    classes = f" It tells {len(names)} classes: {in_markdown(', '.join(names))}." if names else ""
    date = "" if result is None else f" Trained on {result.provenance.get('date', 'a day that is not known')}."
    if len(model.networks) == 1:
        name = get_method(card.method).label(card.name) if is_method(card.method) else card.name
        return f"{in_markdown(capitalized(name))}, {_stands_on(model.networks[0])}.{classes}{date}"
    lines = [f"- {network.share:.2f} of it {_stands_on(network)}" for network in model.networks]
    said = f"A mean over {len(lines)} networks ({card.method}):"
    return "\n".join([said, "", *lines, *([""] if classes or date else []), f"{classes}{date}".strip()]).strip()


def _stands_on(network: Network) -> str:
    """Return what was trained on which network, for images of which size."""
    options = network.extractor.options
    trained = "a fine-tuned top" if network.recipe.unfreeze is not None else "trained on features"
    size = options.image_size or network.extractor.backbone.preprocessing.image_size
    return f"{trained} of {in_markdown(options.backbone)}, for images of {size} pixels"


def loading_snippet(model: TrainedModel, path: Path) -> str:
    """Return how to load an exported file and ask it about ``photo.jpg``, as a block of Python."""
    ending, quoted = path.suffix.lower(), json.dumps(path.name, ensure_ascii=False)
    if ending not in (".onnx", ".pt2"):
        lines = [
            "from safetensors import safe_open",
            "",
            f'with safe_open({quoted}, framework="pt") as file:',
            "    tensors = {name: file.get_tensor(name) for name in file.keys()}",
        ]
        return f"```python\n{chr(10).join(lines)}\n```\n\nThe network below these tensors is not in the file."
    module = ExportedModule(model)
    lines = ["import numpy"]
    given = {"images": "image[None]", "sizes": "sizes", "columns": "columns"}
    lines += ["import torch"] if ending == ".pt2" else ["import onnxruntime"]
    notes = []
    if model.takes_images:
        lines += ["from PIL import Image, ImageOps", ""]
        lines.append('photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")')
        lines.append("image = numpy.array(photo).transpose(2, 0, 1)")
    else:
        lines.append("")
    if model.takes_samples:
        places = places_of_method(model)
        given["images"] = "images"
        lines.append(
            f"images, sizes = numpy.stack([image] * {places})[None], numpy.zeros((1, {places}, 2), numpy.int64)"
        )
        lines.append("sizes[0, 0] = image.shape[1:]")
        notes.append(
            "Images of a sample lie in the upper left corner of one size; a size of 0 says that one is missing."
        )
    if model.columns is not None:
        lines.append(f"columns = numpy.zeros((1, {model.columns.width}), numpy.float32)")
        notes.append(
            "What the numbers of `columns` are, the file says in its metadata; `docs/export.md` of Cutonce shows how "
            "cells become numbers."
        )
    if ending == ".onnx":
        inputs = ", ".join(f'"{name}": {given[name]}' for name in module.input_names)
        lines.append(f"session = onnxruntime.InferenceSession({quoted})")
        lines.append(
            f"{', '.join(module.output_names)}{',' * (len(module.output_names) == 1)} = session.run(None, {{{inputs}}})"
        )
    else:
        inputs = ", ".join(f"torch.from_numpy({given[name]})" for name in module.input_names)
        lines.append(f"model = torch.export.load({quoted}).module()")
        lines.append(f"{', '.join(module.output_names)} = model({inputs})")
    return "\n\n".join(["```python\n" + "\n".join(lines) + "\n```", *notes])


def _data(result: Result | None, run: Path) -> str:
    source = _source(run)
    lines = [f"- Source: {in_markdown(str(source))}" if source else "- Source: not kept by the run"]
    if result is not None:
        lines.append("- Samples: " + ", ".join(f"{count:,} {split}" for split, count in result.samples.items()))
        digest = result.provenance.get("data_digest")
        lines += [f"- Digest: {digest}"] if digest else []
    return "\n".join(lines)


def _metrics(result: Result | None) -> str:
    if result is None:
        return "No result lies beside the model."
    metric, known = result.metric, result.interval
    score, low, high = (
        format_score(value, as_percent=metric.as_percent)
        for value in (result.score(metric.name), known.low, known.high)
    )
    rows = [
        f"| {other.label} | {format_score(result.score(name), as_percent=other.as_percent)} |"
        for name, other in ((name, result.task.metrics[name]) for name in result.task.shown)
        if name != metric.name and result.test.get(name) is not None
    ]
    said = (
        f"{metric.label} on the test samples, which nothing was chosen by: **{score}** (95 % interval {low} to {high}; "
    )
    return "\n".join([f"{said}{known.method}).", "", "| beside it | |", "|---|---|", *rows])


def _limits(model: TrainedModel, result: Result | None, run: Path, equality: Equality | None) -> str:
    lines = []
    verdict = _verdict(run)
    if verdict:
        lines.append(f"- What was told apart from it, and what not: {in_markdown(verdict)}")
    groups = None if result is None else result.test.get("groups")
    lines.append(
        "- The test samples are of the same source as the training samples"
        + (f", and come from {groups:,} groups, none of which is in both" if groups else "")
        + ": how it fares on those of another source, `evaluate` tells."
    )
    unlike = read_unlike(model.directory)
    if unlike is not None:
        lines.append(
            f"- It answers any image with a class or number of its own. `predict` marks images whose features are "
            f"farther than {unlike.level:.4f} (1 - cosine) from the training images', which is so of about "
            f"{100 * MARKED:.0f} % of held-out ones; the file does not."
        )
    if equality is not None:
        lines.append(
            f"- Checked when it was written: {equality.asked}; largest difference "
            f"from the run's own answers {equality.difference:.1e} (at most {BOUND:g}), in float32."
        )
    decision = model.decision
    if decision.temperature != 1:
        lines.append(f"- Its probabilities are calibrated: logits were divided by {decision.temperature:.4g}.")
    if decision.threshold is not None:
        name = class_names_of(model.task)[decision.threshold.positive]
        lines.append(f"- {in_markdown(name)} is predicted from a probability of {decision.threshold.value:.4g} on.")
    if isinstance(model.task, Dense):
        lines.append("- It names the most probable class of each pixel; where none is meant, it says nothing of that.")
    return "\n".join(lines)


def _source(run: Path) -> Any:
    path = run / CONFIGURATION
    return read_configuration(path).get("data") if path.exists() else None


def _verdict(run: Path) -> str:
    return str(read_comparison(run).get("verdict") or "")
