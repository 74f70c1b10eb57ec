"""``train`` alone: what it refuses, it refuses before a head is trained."""

import pytest

from pipeline.cli.app import main


@pytest.fixture(scope="module")
def extracted(photographs, tmp_path_factory):
    """Options by which features of the photographs are found."""
    cache = tmp_path_factory.mktemp("train") / "cache"
    options = ["--data", str(photographs), "--image-size", "32", "--cache", str(cache)]
    assert main(["extract", *options]) == 0
    return options


def test_a_head_that_takes_other_samples_is_refused_before_those_named_before_it_are_trained(
    extracted, tmp_path, capsys
):
    assert main(["train", *extracted, "--head", "ridge", "gru", "--out", str(tmp_path / "run")]) == 2
    assert "--head gru takes samples of several images" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*/*ridge*"))
    assert main(["train", *extracted, "--head", "ridge", "--c-values", "0.1", "--out", str(tmp_path / "run")]) == 0
    assert list(tmp_path.glob("run/*/linear-ridge/result.json"))


def test_targets_that_cannot_be_smoothed_are_refused_before_images_are_extracted(photographs, tmp_path, capsys):
    table = tmp_path / "numbers.csv"
    images = sorted(photographs.glob("*/*.jpg"))
    table.write_text("path,price\n" + "".join(f"{path},{number}.5\n" for number, path in enumerate(images)))
    options = ["--data", str(table), "--target", "price", "--image-size", "32", "--cache", str(tmp_path / "cache")]
    options += ["--skip-finetune", "--head", "ridge", "mlp", "--fit-label-smoothing", "0.1"]
    assert main(["run", *options, "--out", str(tmp_path / "run")]) == 2
    assert "error: --fit-label-smoothing 0.1: numbers have no classes" in capsys.readouterr().err
    assert not list(tmp_path.glob("cache/*/shards/*"))


def test_depths_that_are_larger_than_memory_may_hold_are_streamed_with_the_sets_that_would_not_be(
    photographs, tmp_path, capsys
):
    options = ["--data", str(photographs), "--image-size", "32", "--cache", str(tmp_path / "cache")]
    options += ["--taps", "all", "--pool", "avg,max,std"]
    assert main(["extract", *options]) == 0
    train = ["train", *options, "--head", "ridge", "--c-values", "1e-2"]
    capsys.readouterr()
    assert main([*train, "--max-memory-gb", "0.0025", "--out", str(tmp_path / "run")]) == 1 + 1
    told = capsys.readouterr()
    assert "and --max-memory-gb allows 2.38 MiB: they are streamed; of --taps, last (540 KiB), " in told.out
    assert "stages (884 KiB), blocks (1.29 MiB) would be in memory" in told.out
    # 54 images to learn from, fewer than landmarks should be: all of them, twice, and what each is beside them
    needed = 54 * 4 * (2 * 27_280 + 6 * 54) / 1e9
    assert f"allow {needed:.2g}, or name fewer of the --taps (blocks would do), or take a head" in told.err
    assert main([*train, "--max-memory-gb", "0.0001", "--out", str(tmp_path / "run")]) == 2
    assert "no set of --taps would be in memory" in capsys.readouterr().out


def test_features_larger_than_memory_may_hold_are_streamed_to_the_heads_that_can(extracted, tmp_path, capsys):
    train = ["train", *extracted, "--fit-epochs", "2", "--fit-batch-size", "8", "--max-memory-gb"]
    assert main([*train, "0.0001", "--head", "rbf", "--out", str(tmp_path / "run")]) == 2
    assert "--head rbf needs all features in memory" in capsys.readouterr().err
    assert main([*train, "0.0001", "--head", "logistic", "svm", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main([*train, "0.0001", "--out", str(tmp_path / "run")]) == 2  # so little that mlp cannot mix its rows
    assert "--max-memory-gb allows, and they need all of them in memory: rbf\n" in capsys.readouterr().out
