import json
import sys
from io import BytesIO
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import gpu, photographs
from tests import ready_processes


@pytest.fixture
def commands_in_ready_processes(monkeypatch, in_ready_processes):
    def run(command, cwd=None, env=None, **_):
        return ready_processes.run(*command[1:], cwd=cwd or gpu.ROOT, env=env)

    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=run, TimeoutExpired=TimeoutError))


def main(monkeypatch, *arguments, device="cpu"):
    command = ["gpu.py", "--device", device, "--quick", "--networks", "efficientnet_lite0", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", command)
    return gpu.main()


@pytest.mark.usefixtures("commands_in_ready_processes")
def test_a_quick_run_on_the_cpu_measures_every_side_and_writes_its_tables(tmp_path, monkeypatch):
    asked = ("--only", "stage1", "stage3", "cores", "--out", tmp_path / "out.md", "--json", tmp_path / "found.json")
    assert main(monkeypatch, *asked, "--images", 16, "--time-limit", 3600) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    written = (tmp_path / "out.md").read_text(encoding="utf-8")
    ((limits,), (loops,), (ours,)) = (found["stage1"][side] for side in ("limits", "loops", "ours"))
    assert {*loops} == {"efficientnet_lite0 tutorial", "efficientnet_lite0 good"}
    assert all(rate > 0 for side in (limits, loops, ours) for rate in side.values())
    share = ours["efficientnet_lite0"] / min(limits["decode"], limits["efficientnet_lite0"])
    assert f"| {share:.2f} ({share:.2f} to {share:.2f}) |" in written
    assert found["cores"]["one core"] > 0
    assert found["stage3 from the cache"]["images"] == found["stage3 from images"]["images"] > 0
    assert written.count("\n## ") == 4
    assert f"torch {found['machine']['torch']}" in written.splitlines()[2]


@pytest.mark.gpu
@pytest.mark.usefixtures("commands_in_ready_processes")
def test_a_quick_run_on_a_gpu_goes_through_all_parts(tmp_path, monkeypatch, capsys):
    assert main(monkeypatch, "--json", tmp_path / "found.json", "--time-limit", 3600, device="cuda") == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {"stage1", "run", "stage3 from images", "sizes huge", "cores", "heads large"} <= {*found}
    assert found["machine"]["cuda"] == "yes"
    assert "left out" not in capsys.readouterr().out


@pytest.mark.usefixtures("commands_in_ready_processes")
def test_when_the_time_is_up_what_is_left_out_is_named(tmp_path, monkeypatch, capsys):
    assert main(monkeypatch, "--out", tmp_path / "out.md", "--time-limit", 0) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out.md").read_text(encoding="utf-8").rstrip().endswith(said.splitlines()[-1])
    assert all(part in said for part in gpu.PARTS)


def test_without_a_gpu_it_says_so_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(gpu, "in_fresh_process", lambda *_: {"cuda": "no"})
    with pytest.raises(SystemExit, match="there is no GPU here"):
        gpu.main()


def test_repetitions_that_would_leave_the_rest_no_time_are_not_begun(monkeypatch, tmp_path):
    scale = gpu.Scale(8, 8, 5, ["resnet50"], quick=False)
    bench = gpu.Bench(scale, "cpu", tmp_path, deadline=100)
    now = iter(range(0, 10**6, 20))
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(now))  # each look at the clock takes twenty seconds
    monkeypatch.setattr(gpu.Bench, "images", lambda *_: "images")
    monkeypatch.setattr(gpu.Bench, "call", lambda self, function, **_: ANSWERS[function])
    monkeypatch.setattr(gpu.Bench, "extraction", lambda *_: 30.0)
    table = next(gpu.stage1(bench))
    assert "3 of 5 repetitions: one more would have left the rest no time" in " ".join(table.notes)
    assert table.rows == [["resnet50", "40", "50", "5", "10", "30", *("6.00 (6.00 to 6.00)",), *LAST]]


ANSWERS = {
    "ours.limits": {"decode": 40.0, "resnet50": 50.0},
    "baselines.loops": {"resnet50 tutorial": 5.0, "resnet50 good": 10.0},
}
LAST = ["3.00 (3.00 to 3.00)", "0.75 (0.75 to 0.75)"]


def test_many_photographs_are_different_files_of_which_some_have_the_same_pixels(tmp_path):
    photographs.make_many("mixed", 6, str(tmp_path / "many"), different=4)
    photographs.make_others(str(tmp_path / "many"), 3, str(tmp_path / "others"))
    many, others = (sorted((tmp_path / name).rglob("*.jpg"), key=lambda file: file.name) for name in ("many", "others"))
    contents = [file.read_bytes() for file in (*many, *others)]
    assert len(contents) == len({*contents}) == 6 + 3
    pixels = [Image.open(BytesIO(content)).tobytes() for content in contents]
    assert len({*pixels}) == 4
    assert pixels[4:6] == pixels[:2]
    assert len({Image.open(file).size for file in many}) == 4
