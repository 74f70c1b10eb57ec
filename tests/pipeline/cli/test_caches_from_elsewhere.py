"""A cache that another machine filled serves here: what is trained on it, said of it, and found again."""

import json

import pytest

from cache import FeatureCache, Spec
from cache.inventory import find_caches, open_cache
from stages.network.graph.trunk import FrozenTrunk
from tests.page_figures import drawing
from tests.photographs import make_folder
from tests.pipeline.cli.test_commands import QUICK_FITS, SMALL, call

SAID = "precision bf16-folded, here fp32; decoder pixels+nvjpeg/2, here pixels/2"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images") / "images", per_class=10)


@pytest.fixture
def from_server(images, tmp_path, capsys):
    """Arguments of a laptop's commands, whose folder of caches has what a server left, and nothing of its own."""
    arguments = ["--data", images, *SMALL, "--device", "cpu", "--cache", tmp_path / "cache"]
    assert call(capsys, "extract", *arguments, "--precision", "bf16")[0] == 0
    [path] = find_caches(tmp_path / "cache")
    as_called_by_a_gpu(open_cache(path))
    return arguments


def as_called_by_a_gpu(cache):
    """Put the rows of a cache under the name that a GPU's decoder gives it."""
    spec = Spec.from_json({**cache.spec.to_json(), "decoder": "pixels+nvjpeg/2"})
    keys = cache.keys()
    with FeatureCache(cache.root, spec).writer() as writer:
        writer.append(keys, cache.read(keys), seconds=1.0)
    for file in sorted(cache.path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    cache.path.rmdir()


def fingerprints(root):
    return {path.name for path in find_caches(root)}


HEADS = ["--head", "logistic", "ridge", *QUICK_FITS]


def test_a_run_reads_what_the_server_computed_says_so_and_is_found_as_done(from_server, tmp_path, capsys):
    run, before = tmp_path / "run", fingerprints(tmp_path / "cache")
    with drawing(""):
        code, out, err = call(capsys, "train", *from_server, *HEADS, "--out", run)
    assert code == 0, err
    assert out.count(SAID) == 1
    with drawing(""):
        code, out, err = call(capsys, "run", *from_server, *HEADS, "--skip-finetune", "--out", run)
    assert code == 0, err
    assert "already trained" in out
    assert out.count(SAID) == 1
    assert fingerprints(tmp_path / "cache") == before, "nothing was computed"
    result = json.loads((run / "seed-0/linear-logistic/result.json").read_text())
    assert SAID in result["provenance"]["features_read"]
    assert any(SAID in note for note in json.loads((run / "seed-0/extraction.json").read_text())["notes"])
    assert (run / "report.html").read_text().count(SAID) == 1
    card = json.loads((run / "seed-0/linear-logistic/model.json").read_text())
    assert {card["features_fingerprint"]} == before
    assert card["features"]["precision"] == "bf16", "in which predict computes too"
    assert [measured["computed"] for measured in card["deviations"]] == [
        ["bf16-folded", "pixels/2"],
        ["fp32", "pixels/2"],
    ]
    images = from_server[1] / "sea"
    for precision, computed in (((), "bf16-folded"), (("--precision", "fp32"), "fp32")):
        code, out, err = call(capsys, "predict", run, images, "--device", "cpu", "--no-use-cache", *precision)
        assert code == 0, err
        [note] = [line for line in out.splitlines() if line.startswith("note: ")]
        assert note.startswith(
            "note: trained on bf16-folded (pixels+nvjpeg/2) features; of 18 training images, computed in "
            f"{computed} (pixels/2) where it was trained, logits"
        )


def test_a_run_goes_on_with_what_it_began_with_once_the_laptop_has_rows_of_its_own(from_server, tmp_path, capsys):
    run = tmp_path / "run"
    assert call(capsys, "train", *from_server, *HEADS, "--out", run)[0] == 0
    assert call(capsys, "extract", *from_server)[0] == 0
    code, out, err = call(capsys, "train", *from_server, "--head", "logistic", "ncm", *QUICK_FITS, "--out", run)
    assert code == 0, err
    assert "linear-logistic: already trained" in out
    assert SAID in out
    code, out, _ = call(capsys, "train", *from_server, "--head", "ridge", *QUICK_FITS, "--out", tmp_path / "another")
    assert code == 0
    assert SAID not in out


def test_exact_spec_computes(from_server, tmp_path, capsys):
    code, out, err = call(
        capsys, "run", *from_server, *HEADS, "--skip-finetune", "--exact-spec", "--out", tmp_path / "run"
    )
    assert code == 0, err
    assert SAID not in out
    assert "extracted 30 images" in out
    assert len(fingerprints(tmp_path / "cache")) == 2


def test_what_looks_at_features_takes_them_too(from_server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FrozenTrunk, "forward", lambda *_: pytest.fail("a backbone ran"))
    for command in (("learning-curve", "--draws", "2"), ("inspect",)):
        code, out, err = call(capsys, *command, *from_server, "--out", tmp_path / command[0])
        assert code == 0, err
        assert out.count(SAID) == 1


def test_a_search_takes_them(from_server, images, tmp_path, capsys):
    cache = tmp_path / "cache"
    taps = ["--taps", "last", "--pool", "avg"]
    assert call(capsys, "extract", *from_server, *taps, "--precision", "bf16")[0] == 0
    with drawing(""):
        code, out, err = call(capsys, "best", *from_server, *taps, "--trials", "2", "--out", tmp_path / "best")
    assert code == 0, err
    assert "features are read from the cache" in out
    assert len(fingerprints(cache)) == 2


def test_an_evaluation_takes_them(from_server, tmp_path, capsys, monkeypatch):
    run, new = tmp_path / "run", make_folder(tmp_path / "new", per_class=3, classes=("leaf", "sea", "fire"))
    for number, path in enumerate(sorted(new.rglob("*.jpg"))):  # others than those of the run
        path.write_bytes(path.read_bytes() + bytes([number]))
    with drawing(""):
        assert call(capsys, "run", *from_server, *HEADS, "--skip-finetune", "--out", run)[0] == 0
    server_cache = tmp_path / "of-new"
    assert (
        call(
            capsys, "extract", "--data", new, *SMALL, "--device", "cpu", "--cache", server_cache, "--precision", "bf16"
        )[0]
        == 0
    )
    [path] = find_caches(server_cache)
    as_called_by_a_gpu(open_cache(path))
    monkeypatch.setattr(FrozenTrunk, "forward", lambda *_: pytest.fail("a backbone ran"))
    with drawing(""):
        code, out, err = call(
            capsys,
            "evaluate",
            run,
            "--data",
            new,
            "--device",
            "cpu",
            "--cache",
            server_cache,
            "--method",
            "linear-logistic",
        )
    assert code == 0, err
    assert "decoder pixels+nvjpeg/2, here pixels/2" in out
    [page] = run.glob("evaluations/*/report.html")
    assert "decoder pixels+nvjpeg/2, here pixels/2" in page.read_text()


def test_fine_tuning_from_the_cache_takes_maps_of_the_server(from_server, tmp_path, capsys):
    tune = [
        *("--unfreeze", "blocks.5", "--from-cache", "--epochs", "1", "--init-head", "ridge", "--num-workers", "0"),
        *QUICK_FITS,
    ]
    server = [*from_server, "--precision", "bf16"]
    assert call(capsys, "extract", *server)[0] == 0
    assert call(capsys, "finetune", *server, *tune, "--out", tmp_path / "server")[0] == 0
    assert call(capsys, "extract", *from_server, "--precision", "fp16", "--cut", "blocks.4", "--pool", "none")[0] == 0
    before = fingerprints(tmp_path / "cache")
    code, out, err = call(capsys, "finetune", *from_server, *tune, "--out", tmp_path / "laptop")
    assert code == 0, err
    assert fingerprints(tmp_path / "cache") == before
    result = json.loads(next(tmp_path.glob("laptop/seed-0/finetune-*/result.json")).read_text())
    assert "precision bf16-folded, here fp32" in result["provenance"]["views_read"]
    assert "precision bf16-folded, here fp32" in result["provenance"]["features_read"]
    assert out.count(result["provenance"]["views_read"].split(" (")[0]) == 1
    card = json.loads(next(tmp_path.glob("laptop/seed-0/finetune-*/model.json")).read_text())
    assert card["features"]["precision"] == "fp32", "of the frozen part that it predicts with"
