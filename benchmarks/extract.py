"""How fast stage 1 is, side by side with what people do without it.

Run it on a machine that does nothing else::

    python benchmarks/extract.py                                        # everything: takes hours on two cores
    python benchmarks/extract.py --only networks --images elpv
    python benchmarks/extract.py --quick                                # a few minutes, to see that it works

It prints a table for each target. Every ratio compares numbers of one run: each side in a fresh process, one after the
other, all of it several times; given are medians, and after a ratio its smallest and largest value. Times are from
after the imports and the construction of the network until everything is on disk; those called "process" are of the
whole process, as a person waits for it. The images are in the page cache of the system.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measurement import ROOT, Measurement, in_fresh_process, measure
from pipeline.cli.output import echo
from pipeline.text import byte_count, table

IMAGES = {"elpv": "ELPV 300x300 PNG", "small": "500x375 JPEG", "large": "1500x1000 JPEG"}
PRECISIONS = ("fp32", "bf16")
LITE0, RESNET18 = "efficientnet_lite0", "resnet18"

AVERAGED = ("resnet18", "resnet50", "densenet121", "googlenet")
"""Networks whose features are the average of their last map, which is what visbench makes of one."""

SAME = 0.99999
"""Least cosine between the float32 features of the same pixels, ours and those of the tutorial way."""

_COMPARED = 64
"""Images of which the features of the same pixels are compared."""

Side = tuple[str, dict[str, Any]]
"""A function of this package, such as ``ours.extract_features``, and its arguments."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes
    ----------
    repetitions : int
    networks : tuple of str
        Those of the first target.
    images : dict of str to int
        How many images go through a network: so many that the quickest side takes some seconds.
    training : dict of str to int
        Images of each split of the tutorial's training.
    epochs, views : int
        Of that training: its length, and the cached views of an image where it augments.
    memory, growth : tuple of int
        Numbers of images at which the peak memory, and the time per image, are compared.
    download : bool
        Whether to try to download pretrained weights.
    """

    repetitions: int
    networks: Sequence[str]
    images: Mapping[str, int]
    training: Mapping[str, int]
    epochs: int
    views: int
    memory: Sequence[int]
    growth: Sequence[int]
    download: bool


_COUNTS = {
    LITE0: 1024,
    RESNET18: 512,
    "resnet50": 256,
    "mobilenet_v3_large": 1024,
    "densenet121": 256,
    "squeezenet1_1": 1024,
    "googlenet": 512,
}
FULL = Scale(
    repetitions=3,
    networks=tuple(_COUNTS),
    images=_COUNTS,
    training={"train": 240, "val": 150},
    epochs=15,
    views=5,
    memory=(500, 4000),
    growth=(500, 2000, 8000),
    download=True,
)
QUICK = Scale(
    repetitions=1,
    networks=("squeezenet1_1",),
    images=dict.fromkeys(_COUNTS, 16),
    training={"train": 24, "val": 16},
    epochs=2,
    views=2,
    memory=(16, 32),
    growth=(16, 32),
    download=False,
)


@dataclass(frozen=True)
class Table:
    """What is printed of a target: a title, an aligned table, and what has to be said about it."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    left: int = 1

    def __str__(self) -> str:
        body = [table(self.header, self.rows, self.left), ""] if self.rows else []
        return "\n".join(["", self.title, "=" * len(self.title), *body, *self.notes])


@dataclass
class Bench:
    """Where it is measured: images and weights, made when they are first asked for, and all that was measured.

    Attributes
    ----------
    scale : Scale
    kinds : tuple of str
        Those of `IMAGES` that are measured with.
    precisions : tuple of str
        Those of `PRECISIONS` that are measured.
    machine : dict of str to str
    folder : Path
        For all files; temporary.
    device : str
    weights : dict of str to str
        Where the weights of each network come from, in words.
    runs : list of dict
        Every process: its side, arguments and measurement.
    different : list of str
        Comparisons in which the float32 features are not the same.
    """

    scale: Scale
    kinds: Sequence[str]
    precisions: Sequence[str]
    machine: Mapping[str, str]
    folder: Path
    device: str = "cpu"
    weights: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def images(self, kind: str, count: int) -> str:
        """Return a folder of so many images of a kind."""
        folder = self.folder / f"{kind}-{count}"
        if not folder.exists():
            in_fresh_process("photographs.make", self.folder, kind=kind, count=count, folder=str(folder))
        return str(folder)

    def network(self, backbone: str) -> dict[str, str]:
        """Return the arguments that name a network with its weights, the same for every side."""
        path = self.folder / f"{backbone}.safetensors"
        if backbone not in self.weights:
            images = self.images(self.kinds[0], self.scale.images[backbone])
            self.weights[backbone] = in_fresh_process(
                "weights.make",
                self.folder,
                backbone=backbone,
                images=images,
                path=str(path),
                download=self.scale.download,
            )
        return {"backbone": backbone, "weights": str(path), "device": self.device}

    def interleaved(self, sides: Mapping[str, Side]) -> dict[str, list[Measurement]]:
        """Measure each side once in every repetition, in turn from the first to the last and backwards."""
        measurements: dict[str, list[Measurement]] = {side: [] for side in sides}
        for repetition in range(self.scale.repetitions):
            for side in list(sides)[:: -1 if repetition % 2 else 1]:
                measurements[side].append(self.measure(side, *sides[side]))
        return measurements

    def measure(self, name: str, function: str, arguments: dict[str, Any]) -> Measurement:
        """Measure one side in a new folder, and say so on standard error."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="run-"))
        measurement = measure(function, folder, **arguments)
        self.runs.append({"side": name, "function": function, **arguments, **asdict(measurement)})
        backbone = arguments.get("backbone", "")
        print(f"  {name} {backbone}: {measurement.process_seconds:.1f} s", file=sys.stderr, flush=True)
        return measurement

    def our_sides(self, arguments: dict[str, Any]) -> dict[str, Side]:
        """Return our side of a comparison of features, in each precision."""
        return {
            precision: ("ours.extract_features", {**arguments, "precision": precision}) for precision in self.precisions
        }

    def same_features(self, title: str, plain: Measurement, ours: Measurement) -> str:
        """Return the lowest cosine of float32 features of the same pixels, and remember it if that is too low."""
        cosine = float(cosines(plain, ours).min())
        if not cosine >= SAME:
            self.different.append(f"{title}: {cosine:.6f}")
        return f"{cosine:.7f}"

    def sources(self, *backbones: str) -> list[str]:
        """Return a note on the weights of these networks."""
        return [f"Weights of {name}: {self.weights[name]}." for name in backbones]


# -- the targets -------------------------------------------------------------------------------------------------------


def networks(bench: Bench) -> Iterator[Table]:
    """Compare extraction end to end with the tutorial way, for several networks."""
    rows = []
    for kind in bench.kinds:
        ratios: dict[str, list[float]] = {precision: [] for precision in bench.precisions}
        for backbone in bench.scale.networks:
            arguments = {"images": bench.images(kind, bench.scale.images[backbone]), **bench.network(backbone)}
            sides = {"tutorial": ("baselines.tutorial_features", arguments), **bench.our_sides(arguments)}
            measurements = bench.interleaved(sides)
            tutorial = measurements["tutorial"]
            row = [IMAGES[kind], backbone, rate(tutorial)]
            for precision in bench.precisions:
                own_runs = measurements[precision]
                ratios[precision].append(statistics.median(quotients(tutorial, own_runs)))
                row += [rate(own_runs), *speedup(tutorial, own_runs), closeness(tutorial[-1], own_runs[-1])]
            same_pixels = ""
            if "fp32" in measurements:
                sought = {**arguments, "count": _COMPARED}
                plain = bench.measure("same pixels", "baselines.features_of_our_pixels", sought)
                same_pixels = bench.same_features(f"{IMAGES[kind]}, {backbone}", plain, measurements["fp32"][-1])
            rows.append([*row, same_pixels])
        means = [
            cell
            for precision_ratios in ratios.values()
            for cell in ("", f"{statistics.geometric_mean(precision_ratios):.2f}", "", "")
        ]
        rows.append([IMAGES[kind], "geometric mean", "", *means, ""])
    columns = [column for precision in bench.precisions for column in (precision, "ratio", "process", "cosine")]
    yield Table(
        f"The tutorial way against ours, end to end, on {bench.device}",
        ["images", "network", "tutorial", *columns, "same pixels"],
        rows,
        [
            "tutorial, fp32, bf16: images per second. ratio: time of the tutorial way over ours; process: of the whole "
            "processes. cosine: between the tutorial's features and ours, median and lowest of all images; same "
            f"pixels: in fp32, lowest of {_COMPARED} images, where the tutorial's network is given the pixels that we "
            "render, which differ from Pillow's by rounding.",
            "The tutorial way: eager, NCHW, float32, Pillow and torchvision's v1 transforms, a DataLoader with "
            "2 workers, batches of 32, np.save.",
            *bench.sources(*bench.scale.networks),
        ],
        left=2,
    )


def ideal(bench: Bench) -> Iterator[Table]:
    """Compare extraction end to end with what decoding and the forward pass take by themselves."""
    cores = int(bench.machine["cpus"])
    rows = []
    for kind in bench.kinds:
        for precision in bench.precisions:
            images = bench.images(kind, bench.scale.images[LITE0])
            arguments = {"images": images, **bench.network(LITE0), "precision": precision}
            sides: dict[str, Side] = {part: (f"ours.{part}", arguments) for part in ("trunk", "decode")}
            sides["extract_features"] = ("ours.extract_features", {**arguments, "warm": True})
            forward, decode, end_to_end = bench.interleaved(sides).values()
            best = [
                1 / (1 / forward_run.rate + 1 / (decode_run.rate * cores))
                for forward_run, decode_run in zip(forward, decode, strict=True)
            ]
            shares = [run.rate / limit for run, limit in zip(end_to_end, best, strict=True)]
            limit = f"{statistics.median(best):.0f}"
            rows.append([IMAGES[kind], precision, rate(decode), rate(forward), limit, rate(end_to_end), spread(shares)])
    yield Table(
        f"End to end against the ideal, {LITE0}",
        ["images", "precision", "decode per core", "forward", "ideal", "end to end", "share"],
        rows,
        [
            f"Images per second. ideal = 1 / (1 / forward + 1 / (decode per core x {cores} cores)): the forward pass "
            "alone on all cores, as stage 1 runs it; decoding and rendering alone in one thread. The clock of each "
            "starts when some batches have been through the network.",
            *bench.sources(LITE0),
        ],
        left=2,
    )


def others(bench: Bench) -> Iterator[Table]:
    """Compare extraction with visbench, and with plain loops over the libraries' own transforms."""
    visbench = installed("visbench")
    torchvision_networks = [name for name in bench.scale.networks if name != LITE0]
    sides = [
        *(
            ("visbench", backbone, "baselines.visbench_features")
            for backbone in torchvision_networks
            if backbone in AVERAGED
        ),
        *(("torchvision loop", backbone, "baselines.torchvision_features") for backbone in torchvision_networks),
        ("timm loop", LITE0, "baselines.timm_features"),
    ]
    if visbench is None:
        sides = [side for side in sides if side[0] != "visbench"]
    rows = []
    for kind in bench.kinds:
        for name, backbone, function in sides:
            arguments = {"images": bench.images(kind, bench.scale.images[backbone]), **bench.network(backbone)}
            measurements = bench.interleaved({name: (function, arguments), **bench.our_sides(arguments)})
            other_runs = measurements[name]
            row = [IMAGES[kind], backbone, name, rate(other_runs)]
            for precision in bench.precisions:
                own_runs = measurements[precision]
                row += [rate(own_runs), *speedup(other_runs, own_runs), closeness(other_runs[-1], own_runs[-1])]
            rows.append(row)
    columns = [column for precision in bench.precisions for column in (precision, "ratio", "process", "cosine")]
    visbench_note = (
        f"visbench {visbench}: its FeatureCache, batches of 32, the network as a CustomBackbone."
        if visbench
        else "visbench is not installed: not measured."
    )
    yield Table(
        "Other ways to the same features",
        ["images", "network", "other", "theirs", *columns],
        rows,
        [
            "Images per second, ratios of time, cosine of the features, median and lowest.",
            "The loops: model.eval(), torch.no_grad(), a DataLoader with "
            "2 workers, batches of 32, the transforms that come with the weights.",
            f"{visbench_note} It asks for Pillow below 12; `pip install --no-deps visbench` leaves Pillow as it is.",
            *bench.sources(*{backbone: None for _, backbone, _ in sides}),
        ],
        left=3,
    )


def training(bench: Bench) -> Iterator[Table]:
    """Compare the tutorial's frozen training with extraction and the same training from the cache."""
    scale = bench.scale
    images = bench.folder / "training"
    in_fresh_process("photographs.make_elpv", bench.folder, counts=dict(scale.training), folder=str(images))
    arguments = {"images": str(images), **bench.network(RESNET18), "epochs": scale.epochs}
    rows = []
    for title, augmented, views in (
        ("evaluation view", False, {}),
        (f"augmented, {scale.views} views", True, {"views": scale.views, "augment": "light"}),
    ):
        sides: dict[str, Side] = {"tutorial": ("baselines.tutorial_training", {**arguments, "augmented": augmented})}
        for precision in bench.precisions:
            sides[precision] = ("ours.training", {**arguments, **views, "precision": precision})
        measurements = bench.interleaved(sides)
        tutorial = measurements["tutorial"]
        for precision in bench.precisions:
            head_seconds = statistics.median(run.details["seconds on cached rows"] for run in measurements[precision])
            times = [seconds(tutorial), seconds(measurements[precision]), f"{head_seconds:.2f}"]
            times += speedup(tutorial, measurements[precision])
            accuracies = [
                f"{runs[-1].details['validation accuracy']:.1%}" for runs in (tutorial, measurements[precision])
            ]
            rows.append([title, precision, *times, *accuracies])
    sizes = " and ".join(f"{count} {split}" for split, count in scale.training.items())
    yield Table(
        f"The tutorial's frozen training, {scale.epochs} epochs of {RESNET18}",
        [
            "training images",
            "precision",
            "tutorial s",
            "ours s",
            "of it head s",
            "ratio",
            "process",
            "accuracy",
            "ours",
        ],
        rows,
        [
            f"{sizes} images of ELPV; batches of 8, SGD, best validation accuracy. Ours: extraction, and the same "
            "training of the same head on the cached features.",
            *bench.sources(RESNET18),
        ],
        left=2,
    )


def memory(bench: Bench) -> Iterator[Table]:
    """State the peak memory for few and for many images."""
    rows = []
    for precision in bench.precisions:
        for count in bench.scale.memory:
            arguments = {"images": bench.images("small", count), **bench.network(LITE0), "precision": precision}
            (runs,) = bench.interleaved({precision: ("ours.extract_features", arguments)}).values()
            peak = statistics.median(run.peak_memory for run in runs)
            faults = statistics.median(run.minor_faults / run.images for run in runs)
            rows.append([f"{count:,}", precision, byte_count(peak), f"{faults:.0f}"])
    header = ["images", "precision", "peak memory", "minor faults per image"]
    yield Table(f"Peak memory, {LITE0}, {IMAGES['small']}", header, rows, ["Peak memory: largest resident set."])


def growth(bench: Bench) -> Iterator[Table]:
    """State the time per image for few and for many images, and what it takes to start."""
    sides: dict[str, Side] = {}
    for count in bench.scale.growth:
        arguments = {"images": bench.images("small", count), **bench.network(LITE0), "precision": "fp32"}
        sides[f"{count:,}"] = ("ours.extract_features", {**arguments, "warm": True})
    measurements = bench.interleaved(sides)
    per_image = {count: statistics.median(1000 / run.rate for run in runs) for count, runs in measurements.items()}
    yield Table(
        f"Time per image, {LITE0}, {IMAGES['small']}, fp32",
        ["images", "s", "ms per image"],
        [[count, seconds(runs), f"{per_image[count]:.2f}"] for count, runs in measurements.items()],
        [
            f"Largest over smallest: {max(per_image.values()) / min(per_image.values()):.3f}. "
            "The clock starts when one batch has been through the network."
        ],
    )
    yield _startup(bench)


def _startup(bench: Bench) -> Table:
    arguments = {"images": bench.images("small", 32), **bench.network(LITE0), "precision": "fp32"}
    (runs,) = bench.interleaved({"start-up": ("ours.startup", arguments)}).values()
    steps = {step: statistics.median(run.details[step] for run in runs) for step in ("build", "first batch")}
    times = {"to build the trunk": steps["build"], "32 photographs, to the disk": steps["first batch"]}
    flags = ["--data", arguments["images"], "--backbone", LITE0, "--weights", arguments["weights"]]
    command_seconds = [
        _command("extract", *flags, "--cache", bench.folder / f"start-{repetition}")
        for repetition in range(bench.scale.repetitions)
    ]
    times["`python -m pipeline extract`, all of it"] = statistics.median(command_seconds)
    times["`python -m pipeline --help`"] = statistics.median(_command("--help") for _ in range(bench.scale.repetitions))
    rows = [[step, f"{value:.2f}"] for step, value in times.items()]
    return Table(f"Start-up, {LITE0}, 32 photographs of 500x375", ["step", "s"], rows)


def _command(*arguments: str | Path) -> float:
    """Return the seconds of a command, from the start of its process to the end."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def gpu(bench: Bench) -> Iterator[Table]:
    """Compare extraction with the tutorial way on a GPU, where there is one."""
    if bench.machine["cuda"] == "yes":
        yield from networks(replace(bench, device="cuda"))
    else:
        yield Table("The tutorial way against ours, end to end, on cuda", notes=["no GPU here: not measured"])


TARGETS: dict[str, Callable[[Bench], Iterator[Table]]] = {
    "networks": networks,
    "ideal": ideal,
    "others": others,
    "training": training,
    "memory": memory,
    "growth": growth,
    "gpu": gpu,
}


# -- numbers and words -------------------------------------------------------------------------------------------------


def cosines(baseline: Measurement, ours: Measurement) -> NDArray[np.float64]:
    """Return the cosine between the features of each image, of those the baseline has features of."""
    baseline_features = baseline.features()
    our_features = ours.features()[: len(baseline_features)]
    return (baseline_features * our_features).sum(axis=1) / (
        np.linalg.norm(baseline_features, axis=1) * np.linalg.norm(our_features, axis=1)
    )


def closeness(baseline: Measurement, ours: Measurement) -> str:
    """Return the median and the lowest cosine between the features of an image."""
    similarities = cosines(baseline, ours)
    return f"{np.median(similarities):.6f} ({similarities.min():.6f})"


def quotients(baseline: Sequence[Measurement], ours: Sequence[Measurement], time_of: str = "seconds") -> list[float]:
    """Return how many times less time than the baseline ours took, repetition by repetition.

    One by one, since what slows the machine for a while slows both sides of a repetition.
    """
    return [
        getattr(baseline_run, time_of) / getattr(our_run, time_of)
        for baseline_run, our_run in zip(baseline, ours, strict=True)
    ]


def speedup(baseline: Sequence[Measurement], ours: Sequence[Measurement]) -> list[str]:
    """Return the ratio of the times inside the processes with its range, and that of the whole processes."""
    return [spread(quotients(baseline, ours)), f"{statistics.median(quotients(baseline, ours, 'process_seconds')):.2f}"]


def spread(values: Sequence[float]) -> str:
    """Return the median, with the smallest and the largest value where there are several."""
    middle = f"{statistics.median(values):.2f}"
    return f"{middle} ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else middle


def rate(runs: Sequence[Measurement]) -> str:
    """Return the median of the images per second."""
    return f"{statistics.median(run.rate for run in runs):.1f}"


def seconds(runs: Sequence[Measurement]) -> str:
    """Return the median time."""
    return f"{statistics.median(run.seconds for run in runs):.2f}"


def installed(package: str) -> str | None:
    """Return the version of an installed package, None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    """Measure what is asked for, and return 1 if float32 features of the same pixels differ, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), help="targets (default: all)")
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=list(IMAGES), help="images (default: all)")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        help="arithmetic of ours (default: fp32, and bf16 where the processor has instructions for it)",
    )
    parser.add_argument("--repetitions", type=int, help="runs of each side (default: 3; 1 with --quick)")
    parser.add_argument("--epochs", type=int, help="epochs of the tutorial's training (default: 15; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a handful of images: to see that it works")
    parser.add_argument("--json", type=Path, help="file for the tables and every single measurement")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    scale = replace(scale, repetitions=options.repetitions or scale.repetitions, epochs=options.epochs or scale.epochs)
    tables = []
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-") as folder:
        machine = in_fresh_process("ours.machine", Path(folder))
        native = PRECISIONS if machine["bf16 instructions"] != "none" else PRECISIONS[:1]
        bench = Bench(scale, options.images, options.precisions or native, machine, Path(folder))
        for target in options.only:
            for result_table in TARGETS[target](bench):
                echo(str(result_table))
                tables.append(asdict(result_table))
    echo("", "; ".join(f"{property_name} {value}" for property_name, value in machine.items()))
    if options.json:
        report = {"machine": machine, "tables": tables, "runs": bench.runs, "different features": bench.different}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if bench.different:
        echo(f"float32 features of the same pixels differ (lowest cosine below {SAME}):", *bench.different)
    return 1 if bench.different else 0


if __name__ == "__main__":
    sys.exit(main())
