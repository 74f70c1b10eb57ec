"""Which networks can be extracted from: the smallest of each family of torchvision and timm, at its own size.

Weights are random and images two, so what is seen is whether the network can be cut and run, and not how well::

    python benchmarks/families.py --markdown docs/families.md      # an hour on two cores
    python benchmarks/families.py --only timm:swin                 # families whose names begin so

It prints a row for each family as it is done. A family that fails is a row too, and ends nothing.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.photographs import make_photographs
from pipeline.cli.output import echo
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.manifest import Manifest, load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import Extractor, build_extractor
from stages.network.graph.hooked import HookedGraph

HEADER = ["family", "smallest network", "pixels", "cuts", "row", "what comes of it"]


@dataclass(frozen=True)
class Row:
    """What came of one family.

    Attributes
    ----------
    family, network : str
        As the library calls its file, and as `--backbone` takes the network.
    pixels, cuts : int
        Side of its images, and how many layers can be cut at; 0 where it came to neither.
    row : tuple of int
        Shape of a row at the default cut.
    outcome : str
        "works", "works, not traced", or the error.
    """

    family: str
    network: str
    pixels: int
    cuts: int
    row: tuple[int, ...]
    outcome: str

    @property
    def cells(self) -> list[str]:
        """The row as the table has it."""
        numbers = [str(number) if number else "" for number in (self.pixels, self.cuts)]
        shape = " × ".join(map(str, self.row))
        return [self.family, f"`{self.network}`", *numbers, shape, self.outcome]


def families() -> dict[str, list[str]]:
    """Return the networks of each family of torchvision and timm, by the names that `--backbone` takes."""
    import timm
    import torchvision
    from timm.models import list_modules

    found: dict[str, list[str]] = defaultdict(list)
    for name in torchvision.models.list_models(module=torchvision.models):
        module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        found[f"torchvision:{module}"].append(name)
    for module in sorted(list_modules()):
        names = timm.list_models(module=module, exclude_filters="test_*")  # not its toys
        if names:
            found[f"timm:{module}"] += [f"timm:{name}" for name in names]
    return dict(found)


def smallest(names: Iterable[str]) -> str:
    """Return the network with the fewest parameters; one that cannot be made comes last."""
    return min(names, key=_parameters)


def _parameters(name: str) -> float:
    import timm
    import torchvision

    if not name.startswith("timm:"):
        return float(next(iter(torchvision.models.get_model_weights(name))).meta["num_params"])
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = timm.create_model(name.removeprefix("timm:"))
        return sum(parameter.numel() for parameter in module.parameters())
    except Exception:  # noqa: BLE001 - whatever a library raises, the network is looked at when it is its turn
        return math.inf


def sweep(networks: Iterable[tuple[str, str]], photographs: Path) -> Iterator[Row]:
    """Yield what comes of extracting the photographs with each network, given by (family, name)."""
    manifest = load_manifest(DataConfig(str(photographs))).select([0, -1])
    for family, name in networks:
        pixels, cuts, shape = 0, 0, ()
        try:
            with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                extractor = _extracted(name, manifest, Path(cache))
                pixels = extractor.backbone.preprocessing.image_size
                cuts, shape = len(extractor.graph.cuts), extractor.row_shape
                outcome = "works, not traced" if isinstance(extractor.graph, HookedGraph) else "works"
        except Exception as error:  # noqa: BLE001 - what fails is a row of the table
            outcome = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield Row(family, name, pixels, cuts, shape, outcome)
        gc.collect()


def _extracted(name: str, manifest: Manifest, cache: Path) -> Extractor:
    # random weights of some networks give numbers beyond those of float16
    options = FeatureConfig(
        name, weights="none", cache=cache, extract_batch_size=1, device="cpu", storage_dtype="float32"
    )
    extractor = build_extractor(options)
    extract(extractor, manifest)
    return extractor


def markdown(rows: list[Row]) -> str:
    """Return a page with the table."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    works = sum(row.outcome.startswith("works") for row in rows)
    lines = [
        "# Which networks can be extracted from",
        "",
        "Made by `python benchmarks/families.py --markdown docs/families.md`: of each family of torchvision and timm",
        "(a file of the library) the network with the fewest parameters, with random weights, through `extract` at its",
        "own image size. Networks of one family are built alike: the others can be expected to do what this one does.",
        "",
        f'{works} of {len(rows)} families work ({libraries}). "Not traced" is a network whose graph cannot be had:',
        "its modules are the cuts, and it gives features and heads, and no fine-tuning.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row.cells)} |" for row in rows),
    ]
    done = {row.family for row in rows}
    if missing := [family for family in families() if family not in done]:
        lines += ["", *textwrap.wrap(f"Not looked at yet: {', '.join(missing)}.", 118)]
    return "\n".join(lines) + "\n"


def rows_of(page: Path) -> list[Row]:
    """Return the rows of a page that this script has written; none where it is not there."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    return [
        Row(
            family,
            name.strip("`"),
            pixels=int(pixels or 0),
            cuts=int(cuts or 0),
            row=tuple(map(int, filter(None, shape.split(" × ")))),
            outcome=outcome,
        )
        for family, name, pixels, cuts, shape, outcome in table
    ]


def main() -> None:
    """Sweep the families that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the names of families, as timm:swin")
    parser.add_argument("--markdown", type=Path, help="page to write; families that stand in it are not swept again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_photographs(6, 500, 375, Path(folder))  # as few as can be split
        rows = rows_of(arguments.markdown) if arguments.markdown is not None else []
        wanted = tuple(arguments.only)
        done = {row.family for row in rows}
        chosen = (
            (family, names) for family, names in families().items() if family.startswith(wanted) and family not in done
        )
        for row in sweep(((family, smallest(names)) for family, names in chosen), Path(folder)):
            rows = sorted([*rows, row], key=lambda row: row.family)
            echo(" | ".join(row.cells))
            if arguments.markdown is not None:
                arguments.markdown.write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
