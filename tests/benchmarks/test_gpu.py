import json
import subprocess
import sys
from io import BytesIO

import pytest
from PIL import Image

from benchmarks import gpu, measurement, photographs
from benchmarks.measurement import Measurement


def main(monkeypatch, *arguments, device="cpu"):
    command = ["gpu.py", "--device", device, "--quick", "--networks", "efficientnet_lite0", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", command)
    return gpu.main()


@pytest.mark.usefixtures("in_ready_processes")
def test_a_quick_run_on_the_cpu_measures_every_side_and_writes_its_tables(tmp_path, monkeypatch):
    asked = ("--only", "stage1", "stage3", "cores", "--out", tmp_path / "out.md", "--json", tmp_path / "found.json")
    assert main(monkeypatch, *asked, "--images", 16, "--time-limit", 3600) == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    written = (tmp_path / "out.md").read_text(encoding="utf-8")
    ((limits, loops, ours),) = (
        [repetition[side] for side in ("limits", "loops", "ours")] for repetition in found["stage1"]
    )
    assert {*loops} == {"efficientnet_lite0 tutorial", "efficientnet_lite0 good"}
    assert all(rate > 0 for side in (limits, loops) for rate in side.values())
    share = ours["efficientnet_lite0"]["rate"] / min(limits["decode"], limits["efficientnet_lite0"])
    assert f"| {share:.2f} ({share:.2f} to {share:.2f}) |" in written
    assert f"efficientnet_lite0: manifest {ours['efficientnet_lite0']['manifest']:.0%}, decode " in written
    assert found["cores"]["one core"] > 0
    assert found["stage3 from the cache"]["images"] == found["stage3 from images"]["images"] > 0
    assert found["failed"] == {}
    assert written.count("\n## ") == 3
    assert f"torch {found['machine']['torch']}" in written.splitlines()[2]


@pytest.mark.gpu
@pytest.mark.usefixtures("in_ready_processes")
def test_a_quick_run_on_a_gpu_goes_through_all_parts(tmp_path, monkeypatch, capsys):
    assert main(monkeypatch, "--json", tmp_path / "found.json", "--time-limit", 3600, device="cuda") == 0
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    parts = {
        "stage1",
        "run",
        "stage3 from images",
        "sizes huge",
        "cores",
        "heads large",
        "whole process efficientnet_lite0",
    }
    assert parts <= {*found}
    assert found["failed"] == {}
    assert found["machine"]["cuda"] == "yes"
    assert "left out" not in capsys.readouterr().out


@pytest.mark.usefixtures("in_ready_processes")
def test_when_the_time_is_up_what_is_left_out_is_named(tmp_path, monkeypatch, capsys):
    assert main(monkeypatch, "--out", tmp_path / "out.md", "--time-limit", 0) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "out.md").read_text(encoding="utf-8").rstrip().endswith(said.splitlines()[-1])
    assert all(part in said for part in gpu.PARTS if part != "repetitions")


def test_without_a_gpu_it_says_so_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(gpu, "in_fresh_process", lambda *_: {"cuda": "no"})
    with pytest.raises(SystemExit, match="there is no GPU here"):
        gpu.main()


ANSWERS = {
    "ours.limits": {"decode": 40.0, "resnet50": 50.0},
    "baselines.loops": {"resnet50 tutorial": 5.0, "resnet50 good": 10.0},
}
MACHINE = {"cuda": "yes", "accelerators": "a GPU", "cpus": "2", "processor": "one", "python": "3"}
OURS = Measurement(30, 1.0, details={"manifest": 0.25, "decode": 0.5})


@pytest.fixture
def measured(monkeypatch):
    """What is called and what that answers after twenty seconds, in place of processes; what is an error is raised."""
    answers, called = {**ANSWERS, "extraction": OURS}, []

    def answer(function, *_, **__):
        called.append(function)
        if isinstance(answers[function], BaseException):
            raise answers[function]
        return answers[function]

    monkeypatch.setattr(gpu.time, "monotonic", lambda: 20 * len(called))
    monkeypatch.setattr(gpu.Bench, "images", lambda *_: "images")
    monkeypatch.setattr(gpu.Bench, "call", lambda self, function, **_: answer(function))
    monkeypatch.setattr(gpu.Bench, "extraction", lambda *_: answer("extraction"))
    return answers, called


def bench_until(folder, deadline, repetitions):
    return gpu.Bench(gpu.Scale(8, 8, repetitions, ["resnet50"], quick=False), "cpu", folder, deadline)


def test_stage_1_is_measured_again_backwards_while_there_is_time(measured, tmp_path):
    bench = bench_until(tmp_path, 150, repetitions=5)
    (first,) = gpu.stage1(bench)
    figures = ["resnet50", "40", "50", "5", "10", "30", "6.00 (6.00 to 6.00)", "3.00 (3.00 to 3.00)"]
    assert first.rows == [[*figures, "0.75 (0.75 to 0.75)"]]
    assert first.notes == ["Images per second. Once.", "How busy each stage was: resnet50: manifest 25%, decode 50%."]
    answers, called = measured
    answers["extraction"] = Measurement(60, 1.0)
    tables = gpu.repetitions(bench)
    second = next(tables)
    assert second.title == first.title
    assert second.rows[0][-1] == "1.12 (0.75 to 1.50)"
    assert second.notes[0] == "Images per second. Medians of 2 repetitions."
    with pytest.raises(gpu.TimeIsUpError, match="repetition 3 of 5"):
        next(tables)
    assert called == ["ours.limits", "baselines.loops", "extraction", "extraction", "baselines.loops", "ours.limits"]


def test_what_is_measured_when_the_time_is_up_is_told(measured, tmp_path):
    tables = gpu.stage1(bench_until(tmp_path, 30, repetitions=1))
    assert next(tables).rows[0][:6] == ["resnet50", "40", "50", "5", "10", "-"]
    with pytest.raises(gpu.TimeIsUpError, match="ours, resnet50"):
        next(tables)


def test_what_fails_costs_its_own_figures_alone(measured, tmp_path):
    answers, _ = measured
    answers["baselines.loops"] = SystemExit("a loader's process was killed")
    answers["ours.limits"] = subprocess.TimeoutExpired("ours.limits", 150, stderr="at the second network")
    bench = bench_until(tmp_path, 1000, repetitions=1)
    (table,) = gpu.stage1(bench)
    assert table.rows == [["resnet50", "-", "-", "-", "-", "30", "-", "-", "-"]]
    assert bench.failed == {
        "loops": "a loader's process was killed",
        "limits": "it did not end in 150 s\nat the second network",
    }
    written = gpu.report(MACHINE, {table.title: table}, bench, "End.")
    assert "| 30 |" in written
    assert "**Failed: loops**\n\n```text\na loader's process was killed\n```" in written
    assert written.endswith("End.\n")


def test_a_part_that_fails_leaves_the_others_and_an_exit_status(monkeypatch, tmp_path, capsys):
    def fails(self, *_, **__):
        raise SystemExit("the driver is gone")

    monkeypatch.setattr(gpu, "in_fresh_process", lambda *_: MACHINE)
    for name in ("call", "command", "extraction", "images"):
        monkeypatch.setattr(gpu.Bench, name, fails)
    assert main(monkeypatch, "--only", "run", "stage3", "whole", "--out", tmp_path / "out.md", device="cuda") == 1
    written = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert written.count("**Failed: ") == written.count("the driver is gone") == 4
    assert written.count("\n## ") == 3
    assert "Failed: stage 3, from the cache" in capsys.readouterr().out


def test_a_process_that_does_not_end_is_ended_with_all_that_it_has_started(tmp_path):
    code = (
        "import subprocess, sys; print('begun', flush=True); "
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    with pytest.raises(subprocess.TimeoutExpired) as ended:
        measurement.run_to_end([sys.executable, "-c", code], seconds=3)
    assert ended.value.output == "begun\n"


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
