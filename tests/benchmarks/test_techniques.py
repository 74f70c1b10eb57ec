from benchmarks.techniques import main


def test_techniques_and_numbers_of_views_are_compared(photographs, tmp_path, capsys):
    common = ["--data", str(photographs), "--image-size", "64", "--quick", "--cache", str(tmp_path / "cache")]
    main([*common, "--only", "cache", "images", "--out", str(tmp_path / "run")])
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0] for line in lines if line.count("%") >= 2}
    assert {"fine-tuning", "mixup", "from-cached-views", "discriminative-rates"} <= table
    main([*common, "--only", "views", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "views.png").stat().st_size > 10_000
