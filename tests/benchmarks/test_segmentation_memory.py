import pytest

from benchmarks import segmentation_memory


def test_the_table_has_the_peak_of_each_size_in_its_own_process_against_the_first(
    capsys, in_ready_processes, monkeypatch
):
    measured, ask = [], segmentation_memory.in_fresh_process

    def asking(*arguments, **options):
        measured.append(ask(*arguments, **options))
        return measured[-1]

    monkeypatch.setattr(segmentation_memory, "in_fresh_process", asking)
    segmentation_memory.main(["--images", "15", "30"])
    lines = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [line[:2] for line in lines] == [["15", "2"], ["30", "4"]]  # 61,440 + 43,008 + 30,720 bytes an image
    peaks = [answer["peak"] for answer in measured]
    assert min(peaks) > 100e6  # bytes: torch alone is more, so it is not kilobytes and not of the process that asks
    assert [float(line[2]) for line in lines] == pytest.approx([peak / 1e6 for peak in peaks], abs=0.5)
    assert [line[3] for line in lines] == ["1.000", f"{peaks[1] / peaks[0]:.3f}"]
