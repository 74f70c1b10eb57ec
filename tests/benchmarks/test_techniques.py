import pytest

from benchmarks.techniques import main
from tests.photographs import make_folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of photographs, and what all runs on it have in common, the cache as well."""
    root = tmp_path_factory.mktemp("techniques")
    folder = make_folder(root / "own", per_class=9)
    return ["--data", str(folder), "--image-size", "64", "--quick", "--cache", str(root / "cache")]


def test_numbers_of_cached_views_are_compared_with_images_in_a_table_and_a_plot(few, tmp_path, capsys):
    main([*few, "--only", "views", "--out", str(tmp_path / "run")])
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.count("%") >= 2}
    assert {"fine-tuning", "views-1", "views-2"} <= {*table}
    assert "points" not in table["fine-tuning"]
    assert all("fine-tuning" in table[name] and " to " in table[name] for name in ("views-1", "views-2"))
    assert (tmp_path / "run" / "views.png").stat().st_size > 10_000


def test_baselines_are_compared_with_fine_tuning_in_a_table_and_by_epoch(few, tmp_path, capsys):
    main([*few, "--only", "baselines", "--out", str(tmp_path / "run")])
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.count("%") >= 2}
    assert {"fine-tuning", "scratch", "uncached"} <= {*table}
    assert all("fine-tuning" in table[name] and " to " in table[name] for name in ("scratch", "uncached"))
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
