from benchmarks import segmentation_memory


def test_the_table_has_a_line_for_each_size_against_the_first(capsys, in_ready_processes):
    segmentation_memory.main(["--images", "15", "30"])
    first, second = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert (first[0], second[0]) == ("15", "30")
    assert (first[1], second[1]) == ("2", "4")  # megabytes: 61,440 + 43,008 + 30,720 bytes an image
    assert first[3] == "1.000"
    assert float(second[3]) < 1.2
