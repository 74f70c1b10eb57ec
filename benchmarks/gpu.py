"""What this project does on a GPU, side by side with the limits of the machine and with what people write.

::

    python benchmarks/gpu.py --out gpu.md                       # under eight minutes, whatever happens
    python benchmarks/gpu.py --only stage1 --images 32768
    python benchmarks/gpu.py --device cpu --quick               # here, to see that it works

It needs nothing but the project: it makes its photographs, and all weights but EfficientNet-Lite0's are random, which
takes the time that others take. Each side runs in a fresh process. All parts are measured once, and then the sides of
stage 1 again, interleaved, backwards every other time, while there is time: given are medians, and after a ratio its
smallest and largest value. What fails costs its own figures alone, and is told with its error; what does not end is
ended. When the time is up, the rest is left out, and it says so. Tables are written as they come.

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
from typing import Any, TypeVar

# The repository goes before this folder, whose cache.py is not the package cache.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measurement
from benchmarks.measurement import ROOT, Measurement, in_fresh_process, measure
from pipeline.cli.output import echo

LITE0, RESNET50, VIT = "efficientnet_lite0", "resnet50", "vit_b_16"
NETWORKS = {RESNET50: "none", LITE0: "default", VIT: "none"}
"""Those that are measured, and their weights."""

FLOWERS = 4317
"""Images of the run: as many as the data set of flowers has that tutorials use."""

_THREADS_OF_A_PROCESS = 4
"""Where several processes extract on one machine."""

_MOST_SECONDS = 150.0
"""Of a single process: what takes longer does not end any more."""

_GRACE = 20.0
"""Seconds that a process has to end when the time is up."""

_TOLD = 3000
"""Characters of an error that are written: its end."""

Found = TypeVar("Found")


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
    failed : dict
        What failed, with what was said of it.
    """

    scale: Scale
    device: str
    folder: Path
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Until the time is up."""
        return self.deadline - time.monotonic()

    def attempt(self, what: str, measured: Callable[[], Found]) -> Found | None:
        """Return what is measured; None where that fails, which is noted, so that the rest goes on.

        Raises
        ------
        TimeIsUpError
            If there is no time left to begin it, or it was ended when the time was up.
        """
        if self.seconds_left <= 0:
            raise TimeIsUpError(what)
        print(f"  {what} ({self.seconds_left:.0f} s left)", file=sys.stderr, flush=True)
        try:
            return measured()
        except subprocess.TimeoutExpired as error:
            if self.seconds_left <= 0:
                raise TimeIsUpError(what) from error
            told = f"it did not end in {error.timeout:.0f} s\n{error.stderr or ''}"
        except (Exception, SystemExit) as error:  # what a process that failed has said is a SystemExit
            if isinstance(error, TimeIsUpError):
                raise
            told = str(error) or type(error).__name__
        self.failed[what] = told[-_TOLD:]
        print(f"  {what} failed:\n{told}", file=sys.stderr, flush=True)
        return None

    def images(self, kind: str, count: int, different: int | None = None) -> str:
        """Return a folder of so many photographs of a kind of `photographs.make_many`, or the first of a larger one."""
        folder = self.folder / f"{kind}-{count}"
        if not folder.exists():
            made = Path(f"{folder}.made")
            larger = [other for other in self.folder.glob(f"{kind}-*[0-9]") if int(other.name.split("-")[1]) > count]
            if larger:
                self.call("photographs.take", images=str(larger[0]), count=count, folder=str(made))
            else:
                different = min(count, different or self.scale.different)
                self.call("photographs.make_many", kind=kind, count=count, folder=str(made), different=different)
            made.rename(folder)
        return str(folder)

    def others(self, images: str, count: int) -> str:
        """Return a folder of some photographs of the same kind that are none of these."""
        folder = Path(f"{images}-others")
        if not folder.exists():
            self.call("photographs.make_others", images=images, count=count, folder=str(folder))
        return str(folder)

    def call(self, function: str, **arguments: Any) -> Any:
        """Return what a function of this package returns, called in a process and an empty folder of its own."""
        return in_fresh_process(function, self._empty_folder(), self.seconds_at_most(), **arguments)

    def extraction(self, images: str, backbone: str, **options: Any) -> Measurement:
        """Return what `ours.extraction` measures of stage 1."""
        arguments = {"backbone": backbone, "weights": NETWORKS[backbone], "device": self.device, **options}
        few = self.others(images, 16 if self.scale.quick else 512)
        folder, seconds = self._empty_folder(), self.seconds_at_most()
        return measure("ours.extraction", folder, seconds, images=images, few=few, **arguments)

    def command(self, *arguments: str, cores: int | None = None, launcher: Sequence[str] = ()) -> tuple[float, Path]:
        """Return the seconds of a command, from the start of its process to the end, and its folder.

        Parameters
        ----------
        cores
            On how many of the cores it runs; on all if not given.
        launcher
            What starts it in place of Python, with options.

        Raises
        ------
        SystemExit
            If it fails; with what it said.
        """
        folder = self._empty_folder()
        command = [sys.executable, *launcher, "-m", "pipeline", *arguments]
        usable = os.sched_getaffinity(0)
        started = time.perf_counter()
        try:
            os.sched_setaffinity(0, sorted(usable)[:cores])  # what is started there stays there
            completed = measurement.run_to_end(
                command, cwd=folder, env=measurement.environment(), seconds=self.seconds_at_most()
            )
        finally:
            os.sched_setaffinity(0, usable)
        _require_success(completed)
        return time.perf_counter() - started, folder

    def seconds_at_most(self) -> float:
        """Return how long a process may take that is begun now."""
        return min(max(self.seconds_left, 0.0) + _GRACE, _MOST_SECONDS)

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


def _require_success(completed: subprocess.CompletedProcess[str]) -> None:
    if completed.returncode:
        command = completed.args if isinstance(completed.args, str) else " ".join(map(str, completed.args))
        raise SystemExit(f"{command} ended with {completed.returncode}:\n{completed.stderr}")


# -- the parts ---------------------------------------------------------------------------------------------------------


def stage1(bench: Bench) -> Iterator[Table]:
    """Compare extraction with the limits of the machine and with the loops that people write, once."""
    yield from _repetition(bench)


def repetitions(bench: Bench) -> Iterator[Table]:
    """Compare them again, as often as is asked for, if the last time says that there is time for it."""
    while 0 < len(bench.found.get("stage1", [])) < bench.scale.repetitions:
        if bench.seconds_left < bench.found["seconds of a repetition"]:
            raise TimeIsUpError(f"repetition {len(bench.found['stage1']) + 1} of {bench.scale.repetitions}")
        yield from _repetition(bench)


def _repetition(bench: Bench) -> Iterator[Table]:
    """Measure all sides of stage 1 once more, and yield the table of all that was measured of it, whatever ends it."""
    scale, started = bench.scale, time.monotonic()
    images = bench.attempt("photographs", lambda: bench.images("small", scale.images))
    if images is None:
        return
    named = [{"backbone": name, "weights": NETWORKS[name]} for name in scale.networks]
    before: list[dict[str, Any]] = bench.found.setdefault("stage1", [])
    found: dict[str, Any] = {"limits": None, "loops": None, "ours": {}}
    before.append(found)

    def limits() -> None:
        def measured() -> Any:
            count = scale.some(8192)
            return bench.call("ours.limits", images=images, networks=named, count=count, device=bench.device)

        found["limits"] = bench.attempt("limits", measured)

    def loops() -> None:
        def measured() -> Any:
            counts = {"tutorial": scale.images // 2, "good": scale.images}
            device = _torch(bench.device)
            return bench.call("baselines.loops", images=images, networks=named, counts=counts, device=device)

        found["loops"] = bench.attempt("loops", measured)

    def ours() -> None:
        for name in scale.networks:

            def extraction(name: str = name) -> Measurement:
                return bench.extraction(images, name)

            side = bench.attempt(f"ours, {name}", extraction)
            if side is not None:
                found["ours"][name] = {"rate": side.rate, **side.details}

    up: TimeIsUpError | None = None
    try:
        for side in [limits, loops, ours][:: -1 if len(before) % 2 == 0 else 1]:
            side()
    except TimeIsUpError as error:
        up = error
    bench.found["seconds of a repetition"] = time.monotonic() - started
    yield _table_of_stage_1(scale, before)
    if up is not None:
        raise up


def _table_of_stage_1(scale: Scale, found: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of as many repetitions as there are; of a side that failed there is nothing."""
    rows, busy = [], []
    for name in scale.networks:
        limits = [repetition["limits"] or {} for repetition in found]
        loops = [repetition["loops"] or {} for repetition in found]
        ours = [repetition["ours"].get(name, {}) for repetition in found]
        decode, forward = ([limit.get(key) for limit in limits] for key in ("decode", name))
        tutorial, good = ([loop.get(f"{name} {kind}") for loop in loops] for kind in ("tutorial", "good"))
        rates = [side.get("rate") for side in ours]
        lower = [None if None in pair else min(pair) for pair in zip(forward, decode, strict=True)]
        sides = (_rate(side) for side in (decode, forward, tutorial, good, rates))
        rows.append([name, *sides, *(_ratio(rates, side) for side in (tutorial, good, lower))])
        shares = {stage: share for side in ours for stage, share in side.items() if stage != "rate"}
        busy += [f"{name}: {', '.join(f'{stage} {share:.0%}' for stage, share in shares.items())}"] if shares else []
    header = [
        "network",
        "decode",
        "forward",
        "tutorial",
        "good loop",
        "ours",
        "/ tutorial",
        "/ good loop",
        "/ lower limit",
    ]
    times = "Once." if len(found) == 1 else f"Medians of {len(found)} repetitions."
    notes = [f"Images per second. {times}", *([f"How busy each stage was: {'; '.join(busy)}."] if busy else [])]
    return Table(f"Stage 1, {scale.images:,} JPEG photographs of 500x375", header, rows, notes)


def whole(bench: Bench) -> Iterator[Table]:
    """Time whole processes of an extraction."""
    scale, rows = bench.scale, []
    for name in scale.networks:

        def measured(name: str = name) -> float:
            flags = ["--backbone", name, "--weights", NETWORKS[name], "--device", bench.device]
            return bench.command("extract", "--data", bench.images("small", scale.images), *flags)[0]

        seconds = bench.attempt(f"extract, {name}", measured)
        bench.found[f"whole process {name}"] = seconds
        rows.append([name, _seconds(seconds, 1), FAILED if seconds is None else f"{scale.images / seconds:,.0f}"])
        yield Table("The whole process, `cutonce extract`, from an empty cache", ["network", "s", "images/s"], rows)


def run(bench: Bench) -> Iterator[Table]:
    """Time a whole run of heads."""
    count = bench.scale.some(FLOWERS)

    def measured() -> float:
        flags = ["--skip-finetune", "--device", bench.device, "--backbone", LITE0, "--out", "out"]
        return bench.command("run", "--data", bench.images("small", count), *flags)[0]

    seconds = bench.found["run"] = bench.attempt("run", measured)
    yield Table(
        "`cutonce run`, heads only",
        ["images", "s"],
        [[f"{count:,}", _seconds(seconds, 1)]],
        ["The whole process, from a folder to the page, Lite0, two classes."],
    )


def heads(bench: Bench) -> Iterator[Table]:
    """Run the benchmark of stage 2 on a device, a script of its own."""
    for part in ("settings", "large"):
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu_heads.py"), "--device", bench.device, "--only", part]
        command += ["--quick"] if bench.scale.quick else []

        def measured(command: Sequence[str] = command) -> str:
            seconds = max(bench.seconds_left, 0.0) + _GRACE
            try:
                completed = measurement.run_to_end(command, env=measurement.environment(), seconds=seconds)
            except subprocess.TimeoutExpired as error:  # each row is told as it comes
                return f"{error.stderr or ''}\nended when the time was up"
            _require_success(completed)
            return completed.stdout

        told = bench.found[f"heads {part}"] = bench.attempt(f"gpu_heads.py, {part}", measured)
        yield Table(f"Stage 2: {part}", notes=[FAILED if told is None else f"```text\n{told.strip()}\n```"])


def stage3(bench: Bench) -> Iterator[Table]:
    """Time epochs of the top three blocks, from images and from the cache."""
    rows = []
    for name, from_cache in (("from images", False), ("from the cache", True)):

        def measured(from_cache: bool = from_cache) -> Any:
            return bench.call(
                "finetune.side",
                images=bench.images("small", bench.scale.some(FLOWERS)),
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

        took = bench.found[f"stage3 {name}"] = bench.attempt(f"stage 3, {name}", measured)
        if took is None:
            rows.append([name, FAILED, FAILED, FAILED])
        else:
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
    for kind, count, different in (("mixed", 8192, None), ("huge", 512, 8)):
        count = min(count, bench.scale.images)

        def photographs(kind: str = kind, count: int = count, different: int | None = different) -> str:
            return bench.images(kind, count, different)

        images = bench.attempt(f"photographs, {kind}", photographs)
        if images is None:
            continue

        def decoding(images: str = images, count: int = count) -> float:
            limits = bench.call("ours.limits", images=images, networks=[], count=count, device=bench.device)
            return float(limits["decode"])

        def extraction(images: str = images) -> Measurement:
            return bench.extraction(images, LITE0)

        limit = bench.attempt(f"limits, {kind}", decoding)
        ours = bench.attempt(f"ours, {kind}", extraction)
        rate = None if ours is None else ours.rate
        bench.found[f"sizes {kind}"] = {
            "decode": limit,
            "ours": rate,
            "details": None if ours is None else ours.details,
        }
        share = FAILED if limit is None or rate is None else f"{rate / limit:.2f}"
        rows.append([kind, f"{count:,}", _rate([limit]), _rate([rate]), share])
        yield Table(
            "Photographs of mixed sizes (320 to 800 pixels a side) and of 12 megapixels, EfficientNet-Lite0",
            ["photographs", "images", "decode", "ours", "share"],
            rows,
            ["Images per second; once each."],
        )


def cores(bench: Bench) -> Iterator[Table]:
    """Compare what all cores extract without the GPU with what one does, times their number."""
    number = len(os.sched_getaffinity(0))
    ways: dict[str, tuple[int, Sequence[str], Sequence[str]]] = {"all cores": (number, [], []), "one core": (1, [], [])}
    if find_spec("openvino"):
        ways["all cores, `--engine openvino`"] = (number, [], ["--engine", "openvino"])
    if number >= 2 * _THREADS_OF_A_PROCESS:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(number // _THREADS_OF_A_PROCESS)]
        flags = ["--decode-threads", str(_THREADS_OF_A_PROCESS)]
        ways[f"all cores, {number // _THREADS_OF_A_PROCESS} processes by torchrun"] = (number, launcher, flags)
    rates: dict[str, float | None] = {}
    bench.found["cores"] = {"number": number}
    for way, (used, launcher, flags) in ways.items():

        def measured(used: int = used, launcher: Sequence[str] = launcher, flags: Sequence[str] = flags) -> float:
            count = bench.scale.some(512 * used)
            arguments = ["--data", bench.images("small", count), "--backbone", LITE0, "--device", "cpu", "--out", "out"]
            arguments += ["--precision", "auto", *flags]
            _, folder = bench.command("extract", *arguments, cores=used, launcher=launcher)
            (account,) = (folder / "out").rglob("extraction.json")
            return float(count / json.loads(account.read_text(encoding="utf-8"))["seconds"])

        rates[way] = bench.found["cores"][way] = bench.attempt(f"cores: {way}", measured)
        single = rates.get("one core")
        rows = [
            [
                name,
                _rate([rate]),
                FAILED if rate is None or single is None else f"{rate / (single * ways[name][0]):.2f}",
            ]
            for name, rate in rates.items()
        ]
        yield Table(
            f"Without the GPU, EfficientNet-Lite0, {number} cores",
            ["", "images/s", "of as many single ones"],
            rows,
            ["`--precision auto`: the quickest arithmetic of the processor."],
        )


PARTS: dict[str, Callable[[Bench], Iterator[Table]]] = {
    "stage1": stage1,
    "run": run,
    "stage3": stage3,
    "sizes": sizes,
    "cores": cores,
    "heads": heads,
    "whole": whole,
    "repetitions": repetitions,
}
"""In the order in which they are left out from the end when the time is up."""


# -- numbers and words -------------------------------------------------------------------------------------------------


def _torch(device: str) -> str:
    return "cuda" if device == "auto" else device


FAILED = "-"
"""Stands where there is no figure."""


def _rate(rates: Sequence[float | None]) -> str:
    known = [rate for rate in rates if rate is not None]
    return f"{statistics.median(known):,.0f}" if known else FAILED


def _seconds(seconds: float | None, digits: int) -> str:
    return FAILED if seconds is None else f"{seconds:.{digits}f}"


def _ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> str:
    pairs = zip(ours, theirs, strict=True)
    ratios = [own / other for own, other in pairs if own is not None and other is not None]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else FAILED


def heading(machine: Mapping[str, str]) -> str:
    """Return what the figures were measured on, and when."""
    where = f"{machine['accelerators']}, {machine['cpus']} cores of {machine['processor']}"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("cutonce", "torch", "torchvision") if name in machine)
    return f"# {where}\n\n{versions}, Python {machine['python']}; {time.strftime('%Y-%m-%d')}.\n"


def report(machine: Mapping[str, str], tables: Mapping[str, Table], bench: Bench, end: str) -> str:
    """Return all that is written: the tables, what failed, and how it ended."""
    failures = [f"**Failed: {what}**\n\n```text\n{told.strip()}\n```\n" for what, told in bench.failed.items()]
    return "\n".join([heading(machine), *map(str, tables.values()), *failures, f"{end}\n"])


def main() -> int:
    """Measure, print the tables and write them; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="parts, in their own order; stage1 with repetitions",
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=16384, help="photographs of stage 1, and most of any part")
    parser.add_argument("--repetitions", type=int, default=3, help="of stage 1, at most")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu, to see that it works")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=450,
        help=f"seconds after which nothing is begun, and {_GRACE:.0f} later ended",
    )
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
        tables: dict[str, Table] = {}
        left_out: list[str] = []

        def write() -> str:
            took = f"All of it took {time.monotonic() - started:.0f} s."
            if left_out:
                took += f" When {options.time_limit:.0f} s were over, these were left out: {', '.join(left_out)}."
            if options.out:
                options.out.write_text(report(machine, tables, bench, took), encoding="utf-8")
            if options.json:
                found = {"machine": machine, **bench.found, "failed": bench.failed}
                options.json.write_text(json.dumps(found), encoding="utf-8")
            return took

        for part, measured in PARTS.items():
            if part not in options.only and not (part == "repetitions" and "stage1" in options.only):
                continue
            try:
                for table in measured(bench):
                    tables[table.title] = table  # in the place of what was there before
                    echo(str(table))
                    write()
            except TimeIsUpError as error:
                left_out.append(f"{part} (from {error} on)")
        took = write()
        echo(*(f"Failed: {what}" for what in bench.failed), took)
    return 1 if bench.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
