"""Whether exported files answer as the runs they come from: families of networks x kinds of heads, unlike images.

::

    python benchmarks/export.py --data photos/ elpv            # the table of docs/export.md
    python benchmarks/export.py --families resnet18 --kinds linear knn --images 4       # a part of it
    python benchmarks/export.py --speed --images 64            # images/s of the ONNX file, and of our own predict
    python benchmarks/export.py --cached --data elpv           # seconds of `predict` where all features are cached

Networks have random weights, and heads random numbers, or rows of real features where they hold such: what is compared
is arithmetic, and nothing is downloaded. Images are those of `--data`, as many of each, cut to unlike sizes where the
data have them all of one; without it they are drawn, waves and noise. Each cell is the largest difference between the
answers of the file and those of the run, over all images; probabilities, or numbers in standard deviations of the
target.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose cache.py is not the package

from tests.saved_methods import FAMILIES, IMAGE_SIZE, KINDS, make_images, saved_method


def real_images(folder, sources, count):
    """Copy images of data sets, each cut to a size of its own; return where they are."""
    import numpy as np
    from PIL import Image

    from stages.config.data import DataConfig
    from stages.data.manifest import load_manifest
    from stages.data.sources.open_image import read_image

    numbers, paths = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    locations = [load_manifest(DataConfig(source)).locations for source in sources]
    for number in range(count):
        of_source = locations[number % len(locations)]
        pixels = read_image(of_source[numbers.integers(len(of_source))]).permute(1, 2, 0).numpy()
        height, width = (int(numbers.integers(side // 3, side + 1)) for side in pixels.shape[:2])
        top, left = (
            int(numbers.integers(whole - side + 1))
            for whole, side in zip(pixels.shape[:2], (height, width), strict=True)
        )
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(pixels[top : top + height, left : left + width]).save(paths[-1])
    return paths


def compare(folder, backbone, kind, paths, formats, image_size):
    """Return, by formats, the largest difference of a kind of head on a network; a text where there is no file."""
    from cache.errors import CutonceError
    from pipeline.export.equality import asked_sample, compare_with_run
    from pipeline.library.export_model import export_model
    from pipeline.run_layout import MANIFEST
    from stages.data.manifest import Manifest

    try:
        directory = saved_method(folder, backbone, kind, paths, image_size)
    except CutonceError as error:
        return dict.fromkeys(formats, f"none ({str(error)[:60]})")
    manifest, found = Manifest.load(directory.parent / MANIFEST), {}
    samples = [asked_sample(manifest, index) for index in range(len(manifest))]
    for ending in formats:

        def check(model, run_file, ending=ending):
            found[ending] = f"{compare_with_run(model, run_file, samples).difference:.1e}"

        try:
            export_model(directory, folder / f"model{ending}", "cpu", check=check)
        except CutonceError as error:
            found[ending] = f"refused ({str(error)[:90]})"
    return found


def speed(folder, backbone, paths, image_size):
    """Return images/s of the ONNX file and of our own predict, open already; both decode, an image a core."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import onnxruntime
    from PIL import Image

    import pipeline
    from pipeline.library.export_model import export_model

    directory = saved_method(folder, backbone, "linear", paths, image_size)
    export_model(directory, folder / "model.onnx", "cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # images side by side, not parts of one image
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    run = pipeline.load(folder, directory.name, device="cpu")

    def answer(path):
        image = np.array(Image.open(path).convert("RGB")).transpose(2, 0, 1)[None]
        return session.run(None, {"images": image})

    def by_file():
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(answer, paths))

    seconds = {"onnx": [], "predict": []}
    ways = {"onnx": by_file, "predict": lambda: run.predict(paths, use_cache=False)}
    for repeat in range(4):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
            if not repeat:  # in which memory is taken, and networks are opened
                seconds[name].clear()
    return {name: len(paths) / min(values) for name, values in seconds.items()}


def cached(folder, source):
    """Return images, and seconds of three calls of `predict` on a data set of which the cache has all features."""
    import os
    import resource
    import subprocess

    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}

    def command(*words):
        subprocess.run([sys.executable, "-m", "pipeline", *words], check=True, capture_output=True, env=environment)

    run, listing = folder / "run", folder / "images.txt"
    options = ["--backbone", "resnet18", "--weights", "none", "--image-size", "32", "--cache", str(folder / "cache")]
    command("run", "--data", source, "--out", str(run), "--skip-finetune", "--head", "logistic", *options)
    with (run / "seed-0" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    listing.write_text("\n".join(str(Path(row["path"]).resolve()) for row in rows))
    seconds, busy = [], []
    for _ in range(3):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command("predict", str(run), str(listing), "--out", str(folder / "predictions.csv"))
        seconds.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return len(rows), seconds, busy


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--formats", nargs="+", default=[".onnx", ".pt2"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--data", nargs="+", default=[], help="as of the commands: folders, or elpv; drawn without")
    parser.add_argument(
        "--cached", action="store_true", help="seconds of predict from the cache in place of differences"
    )
    parser.add_argument("--speed", action="store_true", help="images/s in place of differences")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.cached:
            count, seconds, busy = cached(folder, *options.data)
            print("| cached images | predict, whole process, seconds | of a processor, seconds |\n|---|---|---|")
            print(f"| {count:,} | {min(seconds):.1f} to {max(seconds):.1f} | {min(busy):.1f} to {max(busy):.1f} |")
            return
        places = folder / "images"
        paths = (
            real_images(places, options.data, options.images) if options.data else make_images(places, options.images)
        )
        if options.speed:
            print("| network | ONNX, images/s | predict, images/s | ratio |\n|---|---|---|---|")
            for family in options.families:
                rates = speed(folder / family, family, paths, 224)
                onnx, own = rates["onnx"], rates["predict"]
                print(f"| {family} | {onnx:.1f} | {own:.1f} | {onnx / own:.2f} |", flush=True)
            return
        heading = [f"{family} {ending}" for family in options.families for ending in options.formats]
        print(f"| head | {' | '.join(heading)} |\n|{'---|' * (len(heading) + 1)}")
        for kind in options.kinds:
            cells = []
            for family in options.families:
                size = IMAGE_SIZE.get(family, 64)
                found = compare(folder / f"{family}-{kind}", family, kind, paths, options.formats, size)
                cells += [found[ending] for ending in options.formats]
            print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
