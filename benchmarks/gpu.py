"""What this project does on a GPU, side by side with the limits of the machine and with what people write.

::

    python benchmarks/gpu.py --out gpu.md                       # under eight minutes on 16 cores and an H200
    python benchmarks/gpu.py --only stage1 --images 32768
    python benchmarks/gpu.py --device cpu --quick               # here, to see that it works

It needs nothing but the project: it makes its photographs, and all weights but EfficientNet-Lite0's are random, which
takes the time that others take. Each side runs in a fresh process, interleaved, backwards every other time; given are
medians, and after a ratio its smallest and largest value. When the time is up, the rest is left out, and it says so.

The sides of stage 1: *tutorial*, a DataLoader with a process a core, Pillow and torchvision's v1 transforms, batches of
64, float32; *good loop*, a DataLoader with a process a core, torchvision's decoder and v2 transforms on bytes, batches
of 256, autocast to bfloat16, channels_last; *ours*, from the folder to a complete cache: keys, damage checks and files
included. Their clocks start when the network has computed once. *decode* is the device's decoder alone, *forward* the
network alone in the arithmetic that we compute in, each on what lies ready in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measurement import ROOT, in_fresh_process, measure
from pipeline.cli.output import echo

LITE0, RESNET50, VIT = "efficientnet_lite0", "resnet50", "vit_b_16"
NETWORKS = {RESNET50: "none", LITE0: "default", VIT: "none"}
"""Those that are measured, and their weights."""

FLOWERS = 4317
"""Images of the run: as many as the data set of flowers has that tutorials use."""

_THREADS_OF_A_PROCESS = 4
"""Where several processes extract on one machine."""

_SHARE_OF_STAGE_1 = 0.6
"""Of the time there is, what the repetitions of stage 1 may take."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes
    ----------
    images : int
        Photographs of stage 1.
    different : int
        Of them those that are no copies; see `photographs.make_many`.
    repetitions : int
    networks : sequence of str
        Of `NETWORKS`.
    quick : bool
        Whether it is only to be seen that everything works.
    """

    images: int
    different: int
    repetitions: int
    networks: Sequence[str]
    quick: bool

    def some(self, count: int) -> int:
        """Return so many images, or a few where it is quick."""
        return min(count, self.images)


class TimeIsUpError(Exception):
    """No further process is begun."""


@dataclass
class Bench:
    """Where it is measured, and until when.

    Attributes
    ----------
    scale : Scale
    device : str
    folder : Path
        For all files; temporary.
    deadline : float
        By ``time.monotonic()``.
    found : dict
        Every number that was measured.
    """

    scale: Scale
    device: str
    folder: Path
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Until the time is up."""
        return self.deadline - time.monotonic()

    def images(self, kind: str, count: int, different: int | None = None) -> str:
        """Return a folder of so many photographs of a kind of `photographs.make_many`."""
        folder = self.folder / f"{kind}-{count}"
        if not folder.exists():
            different = min(count, different or self.scale.different)
            self.call("photographs.make_many", kind=kind, count=count, folder=str(folder), different=different)
        return str(folder)

    def others(self, images: str, count: int) -> str:
        """Return a folder of some photographs of the same kind that are none of these."""
        folder = Path(f"{images}-others")
        if not folder.exists():
            self.call("photographs.make_others", images=images, count=count, folder=str(folder))
        return str(folder)

    def call(self, function: str, **arguments: Any) -> Any:
        """Return what a function of this package returns, called in a process and an empty folder of its own.

        Raises
        ------
        TimeIsUpError
            If there is no time left to begin it.
        """
        self.check(function)
        return in_fresh_process(function, self._empty_folder(), **arguments)

    def extraction(self, images: str, backbone: str, **options: Any) -> float:
        """Return images per second of stage 1, as `ours.extraction` measures it."""
        self.check(f"ours, {backbone}")
        arguments = {"backbone": backbone, "weights": NETWORKS[backbone], "device": self.device, **options}
        few = self.others(images, 16 if self.scale.quick else 512)
        return measure("ours.extraction", self._empty_folder(), images=images, few=few, **arguments).rate

    def command(self, *arguments: str, cores: int | None = None, launcher: Sequence[str] = ()) -> tuple[float, Path]:
        """Return the seconds of a command, from the start of its process to the end, and its folder.

        Parameters
        ----------
        cores
            On how many of the cores it runs; on all if not given.
        launcher
            What starts it in place of Python, with options.
        """
        self.check(" ".join(arguments[:1]))
        folder = self._empty_folder()
        command = [sys.executable, *launcher, "-m", "pipeline", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        usable = os.sched_getaffinity(0)
        started = time.perf_counter()
        try:
            os.sched_setaffinity(0, sorted(usable)[:cores])  # what is started there stays there
            completed = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
        finally:
            os.sched_setaffinity(0, usable)
        if completed.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {completed.returncode}:\n{completed.stderr}")
        return time.perf_counter() - started, folder

    def check(self, what: str) -> None:
        """Say what is begun, if there is time left for it."""
        if self.seconds_left <= 0:
            raise TimeIsUpError(what)
        print(f"  {what} ({self.seconds_left:.0f} s left)", file=sys.stderr, flush=True)

    def _empty_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder, prefix="run-"))


@dataclass(frozen=True)
class Table:
    """What is printed of a part."""

    title: str
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [f"## {self.title}", ""]
        if self.rows:
            lines += [_row(self.header), _row(["---"] * len(self.header)), *map(_row, self.rows), ""]
        return "\n".join([*lines, *(f"{note}\n" for note in self.notes)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# -- the parts ---------------------------------------------------------------------------------------------------------


def stage1(bench: Bench) -> Iterator[Table]:
    """Compare extraction with the limits of the machine and with the loops that people write."""
    scale = bench.scale
    images = bench.images("small", scale.images)
    named = [{"backbone": name, "weights": NETWORKS[name]} for name in scale.networks]
    found: dict[str, list[dict[str, float]]] = {"limits": [], "loops": [], "ours": []}

    def limits() -> dict[str, float]:
        count = scale.some(8192)
        return bench.call("ours.limits", images=images, networks=named, count=count, device=bench.device)

    def loops() -> dict[str, float]:
        counts = {"tutorial": scale.images // 2, "good": scale.images}
        return bench.call("baselines.loops", images=images, networks=named, counts=counts, device=_torch(bench.device))

    def ours() -> dict[str, float]:
        return {name: bench.extraction(images, name) for name in scale.networks}

    allowed = bench.seconds_left * _SHARE_OF_STAGE_1
    started = time.monotonic()
    notes = []
    for repetition in range(scale.repetitions):
        try:
            for side in [limits, loops, ours][:: -1 if repetition % 2 else 1]:
                found[side.__name__].append(side())
        except TimeIsUpError:
            notes.append(f"The time was up in repetition {repetition + 1} of {scale.repetitions}.")
            break
        spent = time.monotonic() - started
        if repetition + 1 < scale.repetitions and spent * (repetition + 2) / (repetition + 1) > allowed:
            notes.append(
                f"{repetition + 1} of {scale.repetitions} repetitions: one more would have left the rest no time."
            )
            break
    bench.found["stage1"] = found
    complete = min(map(len, found.values()))
    if not complete:
        yield Table("Stage 1", notes=notes)
        return
    rows = []
    for name in scale.networks:
        limits_of, loops_of, rates = (found[part][:complete] for part in ("limits", "loops", "ours"))
        rates = [rate[name] for rate in rates]
        forward, decode = [limit[name] for limit in limits_of], [limit["decode"] for limit in limits_of]
        tutorial, good = ([loop[f"{name} {kind}"] for loop in loops_of] for kind in ("tutorial", "good"))
        lower = [min(pair) for pair in zip(forward, decode, strict=True)]
        rows.append(
            [
                name,
                *(_rate(side) for side in (decode, forward, tutorial, good, rates)),
                *(_ratio(rates, side) for side in (tutorial, good, lower)),
            ]
        )
    yield Table(
        f"Stage 1, {scale.images:,} JPEG photographs of 500x375",
        ["network", "decode", "forward", "tutorial", "good loop", "ours", "/ tutorial", "/ good loop", "/ lower limit"],
        rows,
        ["Images per second.", *notes],
    )
    whole = []
    for name in scale.networks:
        flags = ["--data", images, "--backbone", name, "--weights", NETWORKS[name], "--device", bench.device]
        seconds, _ = bench.command("extract", *flags)
        whole.append([name, f"{seconds:.1f}", f"{scale.images / seconds:,.0f}"])
    bench.found["whole process"] = whole
    yield Table("The whole process, `cutonce extract`, from an empty cache", ["network", "s", "images/s"], whole)


def run(bench: Bench) -> Iterator[Table]:
    """Time a whole run of heads."""
    count = bench.scale.some(FLOWERS)
    images = bench.images("small", count)
    flags = ["--data", images, "--skip-finetune", "--device", bench.device, "--backbone", LITE0, "--out", "out"]
    seconds, _ = bench.command("run", *flags)
    bench.found["run"] = seconds
    yield Table(
        "`cutonce run`, heads only",
        ["images", "s"],
        [[f"{count:,}", f"{seconds:.1f}"]],
        ["The whole process, from a folder to the page, Lite0, two classes."],
    )


def heads(bench: Bench) -> Iterator[Table]:
    """Run the benchmark of stage 2 on a device, a script of its own."""
    script = ROOT / "benchmarks" / "gpu_heads.py"
    if not script.exists():
        yield Table("Stage 2", notes=["benchmarks/gpu_heads.py is not there: not measured."])
        return
    for part in ("settings", "large"):
        bench.check(f"gpu_heads.py, {part}")
        command = [sys.executable, str(script), "--device", bench.device, "--only", part]
        command += ["--quick"] if bench.scale.quick else []
        try:
            completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=bench.seconds_left)
        except subprocess.TimeoutExpired as error:
            raise TimeIsUpError(f"gpu_heads.py, {part}") from error
        if completed.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {completed.returncode}:\n{completed.stderr}")
        bench.found[f"heads {part}"] = completed.stdout
        yield Table(f"Stage 2: {part}", notes=[f"```text\n{completed.stdout.strip()}\n```"])


def stage3(bench: Bench) -> Iterator[Table]:
    """Time epochs of the top three blocks, from images and from the cache."""
    images = bench.images("small", bench.scale.some(FLOWERS))
    rows = []
    for name, from_cache in (("from images", False), ("from the cache", True)):
        took = bench.call(
            "finetune.side",
            images=images,
            backbone=LITE0,
            weights="default",
            unfreeze="3",
            epochs=2 if bench.scale.quick else 4,
            views=2,
            device=bench.device,
            precision="auto",
            amp_dtype="auto",
            from_cache=from_cache,
            finetune_batch_size=8 if bench.scale.quick else 256,
        )
        bench.found[f"stage3 {name}"] = took
        rate = took["images"] / took["seconds"]
        rows.append([name, f"{rate:,.0f}", f"{took['seconds']:.2f}", f"{took['views']:.1f}"])
    yield Table(
        "Stage 3, the top three blocks of EfficientNet-Lite0",
        ["", "images/s", "s an epoch", "s for the cached views"],
        rows,
        ["Training and validation images of an epoch over its seconds; the first epoch is not counted."],
    )


def sizes(bench: Bench) -> Iterator[Table]:
    """Compare extraction with decoding alone on photographs of mixed sizes, and of 12 megapixels."""
    rows = []
    for kind, count, different in (("mixed", 8192, None), ("huge", 512, 16)):
        count = min(count, bench.scale.images)
        images = bench.images(kind, count, different)
        name = LITE0
        limit = bench.call("ours.limits", images=images, networks=[], count=count, device=bench.device)["decode"]
        rate = bench.extraction(images, name)
        bench.found[f"sizes {kind}"] = {"decode": limit, "ours": rate}
        rows.append([kind, f"{count:,}", f"{limit:,.0f}", f"{rate:,.0f}", f"{rate / limit:.2f}"])
    yield Table(
        "Photographs of mixed sizes (320 to 800 pixels a side) and of 12 megapixels, EfficientNet-Lite0",
        ["photographs", "images", "decode", "ours", "share"],
        rows,
        ["Images per second; once each."],
    )


def cores(bench: Bench) -> Iterator[Table]:
    """Compare what all cores extract without the GPU with what one does, times their number."""
    number = len(os.sched_getaffinity(0))
    ways: dict[str, tuple[int, Sequence[str], Sequence[str]]] = {"one core": (1, [], []), "all cores": (number, [], [])}
    if find_spec("openvino"):
        ways["all cores, `--engine openvino`"] = (number, [], ["--engine", "openvino"])
    if number >= 2 * _THREADS_OF_A_PROCESS:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(number // _THREADS_OF_A_PROCESS)]
        flags = ["--decode-threads", str(_THREADS_OF_A_PROCESS)]
        ways[f"all cores, {number // _THREADS_OF_A_PROCESS} processes by torchrun"] = (number, launcher, flags)
    rates: dict[str, float] = {}
    for way, (used, launcher, flags) in ways.items():
        count = bench.scale.some(512 * used)
        images = bench.images("small", count)
        arguments = ["--data", images, "--backbone", LITE0, "--device", "cpu", "--precision", "auto", "--out", "out"]
        _, folder = bench.command("extract", *arguments, *flags, cores=used, launcher=launcher)
        (account,) = (folder / "out").rglob("extraction.json")
        rates[way] = count / json.loads(account.read_text(encoding="utf-8"))["seconds"]
    bench.found["cores"] = {**rates, "number": number}
    share_of_single = {way: rate / (rates["one core"] * ways[way][0]) for way, rate in rates.items()}
    yield Table(
        f"Without the GPU, EfficientNet-Lite0, {number} cores",
        ["", "images/s", "of as many single ones"],
        [[way, f"{rate:,.0f}", f"{share_of_single[way]:.2f}"] for way, rate in rates.items()],
        ["`--precision auto`: the quickest arithmetic of the processor."],
    )


PARTS: dict[str, Callable[[Bench], Iterator[Table]]] = {
    "stage1": stage1,
    "run": run,
    "stage3": stage3,
    "sizes": sizes,
    "cores": cores,
    "heads": heads,
}
"""In the order in which they are left out from the end when the time is up."""


# -- numbers and words -------------------------------------------------------------------------------------------------


def _torch(device: str) -> str:
    return "cuda" if device == "auto" else device


def _rate(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f}"


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def heading(machine: Mapping[str, str]) -> str:
    """Return what the figures were measured on, and when."""
    where = f"{machine['accelerators']}, {machine['cpus']} cores of {machine['processor']}"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("cutonce", "torch", "torchvision") if name in machine)
    return f"# {where}\n\n{versions}, Python {machine['python']}; {time.strftime('%Y-%m-%d')}.\n"


def main() -> int:
    """Measure, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts, in their own order")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=16384, help="photographs of stage 1, and most of any part")
    parser.add_argument("--repetitions", type=int, default=3, help="of stage 1")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu, to see that it works")
    parser.add_argument("--time-limit", type=float, default=460, help="seconds after which nothing more is begun")
    parser.add_argument("--quick", action="store_true", help="few images, once: to see that it works")
    parser.add_argument("--folder", type=Path, help="where files are made (default: the system's place for them)")
    parser.add_argument("--out", type=Path, help="file for the tables, in Markdown")
    parser.add_argument("--json", type=Path, help="file for every number that was measured")
    options = parser.parse_args()
    if options.quick:
        scale = Scale(min(options.images, 48), 24, 1, options.networks, quick=True)
    else:
        scale = Scale(options.images, 512, options.repetitions, options.networks, quick=False)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cutonce-benchmark-", dir=options.folder) as name:
        bench = Bench(scale, options.device, Path(name), started + options.time_limit)
        machine = in_fresh_process("ours.machine", bench.folder)
        if options.device != "cpu" and machine["cuda"] != "yes":
            raise SystemExit("there is no GPU here; --device cpu --quick shows whether everything works")
        texts = [heading(machine)]
        left_out = []
        for part, measured in PARTS.items():
            if part not in options.only:
                continue
            try:
                for table in measured(bench):
                    texts.append(str(table))
                    echo(texts[-1])
            except TimeIsUpError as error:
                left_out.append(f"{part} (from {error} on)")
        took = f"All of it took {time.monotonic() - started:.0f} s."
        if left_out:
            took += f" When {options.time_limit:.0f} s were over, these were left out: {', '.join(left_out)}."
        texts.append(took + "\n")
        echo(took)
        if options.out:
            options.out.write_text("\n".join(texts), encoding="utf-8")
        if options.json:
            options.json.write_text(json.dumps({"machine": machine, **bench.found}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
