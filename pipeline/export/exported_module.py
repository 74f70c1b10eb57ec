"""A trained method from pixels to answers as one module: what `predict` computes, without its files and threads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cache.errors import UsageError
from pipeline.experiment.models.mixture_model import Network, together
from pipeline.export.mask_module import MaskModule
from pipeline.library.export_model import TrainedModel
from stages.data.images.rendering_module import RenderingModule
from stages.data.sources.tiles import tiling_of
from stages.finetuning.transfer_model import FrozenPart, TrainableTop
from stages.network.heads.base import Head
from stages.network.heads.blocks import AggregatedBlocksHead
from stages.tasks.base import Task
from stages.tasks.dense import Dense
from stages.tasks.regression import Regression

IMAGES, SIZES, COLUMNS = "images", "sizes", "columns"
"""What a module may be given, in this order."""

PROBABILITIES, VALUES, MASK = "probabilities", "values", "mask"
"""What a module may give."""


class ExportedModule(nn.Module):
    """What a trained method answers for images of any size.

    Takes, by what the method takes:

    images
        uint8 [b, C, H, W], decoded pixels; of samples of several images uint8 [b, F, C, H, W].
    sizes
        Of samples of several images alone: int64 [b, F, 2], height and width of each image, which lies in the upper
        left corner of its H x W; 0 and 0 where there is none.
    columns
        float32 [b, k], the columns of the table as the method's encoder makes numbers of them.

    Gives probabilities, float32 [b, classes]; or values, float32 [b, targets], in the unit of the targets; or, where
    each pixel has a class, the mask, uint8 [b, H, W], and probabilities, float32 [b, classes, H, W], at the size of the
    images.

    Parameters
    ----------
    method : TrainedModel

    Attributes
    ----------
    input_names, output_names : tuple of str

    Raises
    ------
    UsageError
        If the method cuts images into tiles.
    """

    def __init__(self, method: TrainedModel) -> None:
        super().__init__()
        if tiling_of(method.extractor.options) is not None:
            raise UsageError(
                f"{method.directory} cuts images into tiles (`tile` {method.extractor.options.tile}), as many as fit "
                "into each, and a graph has no such loop: export a method of a run without `tile`, or let `predict` "
                "make its masks"
            )
        self.task = method.task
        networks = list(method.networks)
        if len(networks) > 1:
            networks = together(networks, method.task)
        self.networks = nn.ModuleList(NetworkModule(network, method) for network in networks)
        self.shares = [network.share for network in networks]
        self.masks = MaskModule(method.extractor.backbone.preprocessing) if isinstance(self.task, Dense) else None
        self.takes_samples = method.takes_samples
        takes = {IMAGES: method.takes_images, SIZES: self.takes_samples, COLUMNS: method.columns is not None}
        self.input_names = tuple(name for name, taken in takes.items() if taken)
        self.output_names = (MASK, PROBABILITIES) if self.masks is not None else (name_of_output(self.task),)
        self.temperature = method.decision.temperature
        if isinstance(self.task, Regression):
            for name in ("mean", "scale"):
                self.register_buffer(name, torch.tensor(getattr(self.task, name), dtype=torch.float32))
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Answer for a batch, given by `input_names`, in their order."""
        given = dict(zip(self.input_names, inputs, strict=True))
        images, sizes, columns = (given.get(name) for name in (IMAGES, SIZES, COLUMNS))
        if self.masks is not None:
            assert images is not None
            (network,) = self.networks
            assert isinstance(network, NetworkModule)
            masks: Tensor | tuple[Tensor, Tensor] = self.masks(network.outputs(network.rows(images)[0]), images)
            return masks
        answers = [network(images, sizes, columns) for network in self.networks]
        if len(answers) == 1:
            return self.in_units(answers[0])
        weighted = [share * answer for share, answer in zip(self.shares, answers, strict=True)]
        return self.in_units(torch.stack(weighted).sum(dim=0))

    def in_units(self, answers: Tensor) -> Tensor:
        """Return probabilities as the run reads them, or numbers in the unit of the targets."""
        if isinstance(self.task, Regression):
            scale, mean = self.get_buffer("scale"), self.get_buffer("mean")
            numbers = answers * scale + mean
            return torch.exp(numbers) if self.task.log else numbers
        if self.temperature == 1:
            return answers
        least = torch.finfo(torch.float32).tiny
        return (answers.clamp_min(least).log() / self.temperature).softmax(dim=1)


class NetworkModule(nn.Module):
    """What one network answers, before numbers are in their unit: the mean over the renderings that it is tested on.

    Parameters
    ----------
    network : Network
    method : TrainedModel
        Whose network it is.
    """

    def __init__(self, network: Network, method: TrainedModel) -> None:
        super().__init__()
        self.task = method.task
        self.rendering: RenderingModule | None = None
        if method.takes_images:
            self.rendering = RenderingModule(network.extractor.backbone.preprocessing, network.recipe.tta)
        self.below: FrozenPart = network.upper.below if method.takes_images else FrozenPart(None)
        self.model: TrainableTop = network.upper.model

    def forward(self, images: Tensor | None, sizes: Tensor | None, columns: Tensor | None) -> Tensor:
        """Answer for a batch, as of `ExportedModule`; what the method does not take is None."""
        if images is None:
            assert columns is not None
            return self.activated(self.outputs(columns))
        rows = self.rows(images.flatten(0, 1), sizes.flatten(0, 1)) if sizes is not None else self.rows(images)
        answers = [self.activated(self.outputs(self._joined(part, sizes, columns))) for part in rows]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)

    def rows(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """Return what the head is given of each image, float32 [m, ...], for each rendering."""
        assert self.rendering is not None
        sizes = None if sizes is None else sizes.clamp_min(1)  # what is not there is left out afterwards
        return [self.model.rows(self.below(view)) for view in self.rendering(images, sizes)]

    def outputs(self, rows: Tensor) -> Tensor:
        """Return the outputs of the head."""
        outputs: Tensor = self.model.head(rows)
        return outputs.float()

    def activated(self, outputs: Tensor) -> Tensor:
        """Return what the task makes of outputs."""
        activated = self.task.activate(outputs)
        assert isinstance(activated, Tensor)
        return activated

    def _joined(self, rows: Tensor, sizes: Tensor | None, columns: Tensor | None) -> Tensor:
        """Return what the head takes: rows, bags of them, or either with columns behind them."""
        if sizes is not None:
            present = (sizes[..., 0] > 0).to(rows.dtype)[..., None]
            rows = rows.reshape(present.shape[0], present.shape[1], -1)
            rows = torch.cat([torch.where(present > 0, rows, torch.zeros_like(rows)), present], dim=2)
            rows = rows.flatten(1) if isinstance(self.model.head, AggregatedBlocksHead) else rows
        return rows if columns is None else torch.cat([rows, columns], dim=1)


def name_of_output(task: Task) -> str:
    """Return what the answers of a task are called."""
    return VALUES if isinstance(task, Regression) else PROBABILITIES


def example_inputs(module: ExportedModule, method: TrainedModel, count: int = 3) -> tuple[Tensor, ...]:
    """Return inputs of the shapes that a module takes, for a graph to be made with."""
    channels, (height, width) = channels_of_images(method), method.extractor.image_shape
    # no side like another, so that none is taken for the same
    shape = (channels, height + 19, width + 34)
    inputs: dict[str, Tensor] = {}
    if module.takes_samples:
        places = places_of_method(method)
        inputs[IMAGES] = torch.zeros((count, places, *shape), dtype=torch.uint8)
        inputs[SIZES] = torch.tensor(shape[1:]).expand(count, places, 2).contiguous()
    elif method.takes_images:
        inputs[IMAGES] = torch.zeros((count, *shape), dtype=torch.uint8)
    if method.columns is not None:
        inputs[COLUMNS] = torch.zeros(count, method.columns.width)
    return tuple(inputs[name] for name in module.input_names)


def channels_of_images(method: TrainedModel) -> int:
    """Return how many channels decoded images have."""
    return len(method.extractor.backbone.preprocessing.mean)


def places_of(head: nn.Module) -> int:
    """Return for how many images of a sample a head has room; heads on any number were trained with as many."""
    if isinstance(head, AggregatedBlocksHead):
        return head.aggregate.places
    assert isinstance(head, Head)
    return int(head.config["row_shape"][0])


def places_of_method(method: TrainedModel) -> int:
    """Return for how many images of a sample all networks of a method have room."""
    return max(places_of(network.upper.model.head) for network in method.networks)


def fixed_places(head: nn.Module) -> bool:
    """Return whether a head takes samples of just so many images."""
    configs = [getattr(head, "config", {})]
    while configs:
        config: dict[str, Any] = configs.pop()
        if config.get("head") in ("aggregated-blocks", "gru", "lstm"):  # those are unrolled, a step for each image
            return True
        if config.get("head") == "aggregated" and config["aggregate"]["kind"] == "concat":
            return True
        configs += [*config.get("members", ()), *([config["inner"]] if "inner" in config else ())]
    return False


def dynamic_dimensions(module: ExportedModule, method: TrainedModel) -> dict[str, dict[int, str]]:
    """Return which dimensions of the inputs may be of any length, by the names of inputs, and what each is called."""
    images = {0: "batch", 2: "height", 3: "width"}
    sizes = {0: "batch"}
    if module.takes_samples:
        fixed = any(fixed_places(network.upper.model.head) for network in method.networks)
        free = {} if fixed else {1: "images_of_sample"}
        images, sizes = {0: "batch", **free, 3: "height", 4: "width"}, {**sizes, **free}
    dimensions = {IMAGES: images, SIZES: sizes, COLUMNS: {0: "batch"}}
    return {name: dimensions[name] for name in module.input_names}
