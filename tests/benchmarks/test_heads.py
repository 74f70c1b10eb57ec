from benchmarks.heads import main


def test_heads_on_vectors_and_on_maps_stand_in_one_table(photographs, tmp_path, capsys):
    path_options = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    main([str(photographs), "--image-size", "64", "--seeds", "0", "--quick", *path_options])
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines if line.startswith(("logistic", "ncm", "concat"))]
    assert [line[0] for line in table] == ["logistic", "ncm"] * 2 + ["concat"]
    accuracies = [float(cell.rstrip("%")) for line in table for cell in line if cell.endswith("%")]
    assert len(accuracies) == 2 * len(table)  # test and validation
    assert min(accuracies) > 60  # of three classes that differ in colour
