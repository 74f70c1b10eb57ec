from benchmarks import segmentation


def test_the_table_has_each_way_and_the_cache_is_what_others_are_measured_against(capsys, in_ready_processes):
    segmentation.main(["--quick", "--epochs", "2"])
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith(tuple(segmentation.WAYS.values()))]
    assert len(lines) == 3
    assert lines[-1].split()[-2:] == ["1.0", "(1.0-1.0)"]
    assert "32 images extracted once" in printed
