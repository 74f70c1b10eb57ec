"""Trunks by OpenVINO, against torch's."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.data.images.preprocessing import Preprocessing
from stages.data.manifest import load_manifest
from stages.extraction.extract import extract
from stages.extraction.extractor import build_extractor
from stages.extraction.read_features import read_features
from stages.network.graph.openvino_trunk import OpenVINOTrunk
from tests.photographs import make_folder

ROOT = Path(__file__).parents[4]

SMALL = {"weights": "none", "image_size": 64, "device": "cpu"}


def extractor(cache, **options):
    return build_extractor(FeatureConfig(cache=cache, **{**SMALL, "engine": "openvino", **options}))


def pictures(count, side=64):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    return images.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", "timm:convnext_atto", "timm:vit_tiny_patch16_224"])
def test_rows_are_those_of_torch_to_within_rounding(name, tmp_path):
    ours = extractor(tmp_path, backbone=name, image_size=None, storage_dtype="float32")
    side = ours.backbone.preprocessing.shape[0]
    theirs = extractor(tmp_path, backbone=name, image_size=None, storage_dtype="float32", engine="cores")
    images = pictures(3, side)
    for rows, expected in zip(ours.forward_rows(images), theirs.forward_rows(images), strict=True):
        assert rows.shape == expected.shape
        scale = expected.abs().max()
        torch.testing.assert_close(rows / scale, expected / scale, atol=2e-5, rtol=0)
    assert ours.fingerprint == theirs.fingerprint  # as those of any other device in float32


@pytest.mark.parametrize(
    "options",
    [
        {"taps": "stages", "pool": "avg,max"},
        {"cut": "blocks.2,auto", "pool": "avg"},
        {"cut": "blocks.3", "pool": "none"},
    ],
)
def test_taps_several_cuts_and_maps_come_in_their_shapes(tmp_path, options):
    ours, theirs = extractor(tmp_path, **options), extractor(tmp_path, engine="cores", **options)
    for rows, expected in zip(ours.forward_rows(pictures(5)), theirs.forward_rows(pictures(5)), strict=True):
        assert rows.shape == expected.shape
        torch.testing.assert_close(rows.float(), expected.float(), atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_bf16_is_as_far_from_float32_as_torch_s_and_another_arithmetic(tmp_path):
    exact, ours, theirs = (
        extractor(tmp_path, engine=engine, precision=precision)
        for engine, precision in (("cores", "fp32"), ("openvino", "bf16"), ("cores", "bf16"))
    )
    images = pictures(8)
    expected = exact.forward_rows(images)[0].float()
    errors = [float((of.forward_rows(images)[0].float() - expected).norm() / expected.norm()) for of in (ours, theirs)]
    assert errors[0] < 2 * errors[1] + 1e-3
    assert ours.arithmetic == "bf16-folded-openvino"
    assert len({exact.fingerprint, ours.fingerprint, theirs.fingerprint}) == 3


def test_threads_call_it_at_once_and_a_row_depends_on_its_image_alone(tmp_path):
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)).eval()
    preprocessing = Preprocessing(24, 24)
    compiled = OpenVINOTrunk(_Tuple(trunk), preprocessing, "fp32", 3)
    images = pictures(31, 24)
    with torch.inference_mode():
        expected = trunk(preprocessing.normalize(images))
    together = compiled(images)[0]
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    with ThreadPoolExecutor(3) as pool:
        alone = torch.cat([rows[0] for rows in pool.map(compiled, images.split(1))])
    assert torch.equal(alone, together)


class _Tuple(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return (self.module(images),)


def test_an_extraction_goes_through_it(tmp_path):
    folder = make_folder(tmp_path / "images", per_class=4)
    manifest = load_manifest(DataConfig(str(folder)))
    options = FeatureConfig(cache=tmp_path / "cache", engine="openvino", **SMALL)
    ours = build_extractor(options)
    assert extract(ours, manifest).extracted == 12
    theirs = build_extractor(replace(options, engine="cores", cache=tmp_path / "other"))
    extract(theirs, manifest)
    rows, expected = read_features(ours, manifest), read_features(theirs, manifest)
    np.testing.assert_allclose(rows.astype(float), expected.astype(float), atol=2e-3)


def test_what_it_cannot_do_is_said_with_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="`engine` openvino computes in fp32 and bf16, and `precision` is fp16"):
        extractor(tmp_path, precision="fp16")
    with pytest.raises(UsageError, match=r"OpenVINO cannot compute this network .*: use `engine` cores"):
        OpenVINOTrunk(_Unknown(), Preprocessing(24, 24), "fp32", 1)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"needs OpenVINO, which does not load .*pip install 'openvino>=2025.0'"):
        extractor(tmp_path)


class _Unknown(torch.nn.Module):
    def forward(self, images):
        return (torch.linalg.eigh(images[:, :, :3, :3])[1],)


def test_a_child_process_may_end_after_a_trunk_has_gone_in_another_thread(tmp_path):
    script = """
import faulthandler, gc, signal, subprocess, sys, threading
from pathlib import Path
import torch
from stages.config.features import FeatureConfig
from stages.extraction.extractor import build_extractor
faulthandler.enable()  # which gives the thread a stack for signals, as tests have one
options = {"weights": "none", "image_size": 64, "device": "cpu", "engine": "openvino", "backbone": "resnet18"}
extractors = [build_extractor(FeatureConfig(cache=Path(sys.argv[1]), **options))]
extractors[0].forward_rows(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
thread = threading.Thread(target=lambda: (extractors.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *given: print("told"))
subprocess.run(["true"], check=True)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout == b"told\n"


def test_nothing_is_told_to_its_makers():
    script = (
        "import sys, multiprocessing.process as process\n"
        "process.BaseProcess.start = lambda self: sys.exit('a process is started that reports')\n"
        "from stages.network.graph.openvino_trunk import require_openvino\n"
        "require_openvino().Core()\n"
        "import openvino.tools.ovc as ovc\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
        "import openvino_telemetry  # who wants it has it\n"
        "print(type(ovc.telemetry).__module__)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert told.stdout == "openvino.tools.ovc.telemetry_stub\n"
