"""The ``cache`` sub-commands as a person gives them: real caches, exit codes, and what is printed."""

import os
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cache import FeatureCache, Spec, key_of_file
from pipeline.cli.app import main
from pipeline.cli.reference import reference
from tests.cache.conftest import SPEC, features_of, make_keys, shard_paths
from tests.pipeline.caches import KEYS, make_cache, make_manifest, make_run

SHORT = SPEC.fingerprint[:12]
COMMANDS = ("list", "show", "verify", "prune", "export")


@pytest.fixture
def caches(tmp_path):
    """The folder of the caches."""
    (tmp_path / "caches").mkdir()
    return tmp_path / "caches"


@pytest.fixture
def call(capsys, caches):
    """A function that gives a sub-command and returns exit code, standard output and standard error."""

    def run(*arguments):
        try:
            code = main(["cache", *map(str, arguments), "--cache", str(caches)])
        except SystemExit as stopped:  # how the command line library ends on wrong usage
            code = stopped.code
        captured = capsys.readouterr()
        return code or 0, captured.out, " ".join(captured.err.split())

    return run


def damage(cache: FeatureCache, row: int) -> None:
    """Flip a bit of a row of the only shard."""
    [path] = shard_paths(cache)
    content = bytearray(path.read_bytes())
    content[content.index(cache.read(KEYS[row : row + 1]).tobytes())] ^= 1
    path.write_bytes(content)


def dead_writers_file(cache: FeatureCache):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    path = cache.path / "shards" / f"{socket.gethostname()}-{process.pid}-0123456789abcdef.tmp"
    path.write_bytes(bytes(5000))
    os.utime(path, (time.time() - 600,) * 2)
    return path


def test_list_tells_what_each_cache_is_made_of_how_big_and_how_old(call, caches):
    make_cache(caches, views=(0, 1))
    os.utime(caches / SPEC.fingerprint / "shards", (time.time() - 3 * 86400,) * 2)
    other = make_cache(caches, KEYS[:7], spec=Spec.from_json({**SPEC.to_json(), "cut": "layer3", "dtype": "float16"}))
    broken = make_cache(caches, spec=Spec.from_json({**SPEC.to_json(), "cut": "layer2"}))
    (broken.path / "spec.json").write_text("{")
    os.utime(broken.path / "shards", (time.time() - 5 * 86400,) * 2)
    code, out, _ = call("list")
    assert code == 0
    header, _, first, second, third, note = out.splitlines()
    assert header.split() == [
        "fingerprint",
        "backbone",
        "cut",
        "pool",
        "precision",
        "dtype",
        "pixels",
        "rows",
        "views",
        "size",
        "age",
    ]
    assert re.fullmatch(
        rf"{other.path.name[:12]} +resnet18 +layer3 +avg +fp32 +float16 +224 +7 +1 +[\d.]+ KiB +\d s", first
    )
    assert re.fullmatch(rf"{SHORT} +resnet18 +layer4 +avg +fp32 +float32 +224 +80 +2 +[\d.]+ KiB +3 days", second)
    assert third.split()[:2] == [broken.path.name[:12], "?"]
    assert re.fullmatch(rf"note: {broken.path.name[:12]}: .*spec\.json is damaged: .*", note)


def test_list_of_an_empty_folder_and_of_none(call, caches, tmp_path, capsys):
    assert call("list")[:2] == (0, f"{caches} holds no cache\n")
    assert main(["cache", "list", "--cache", str(tmp_path / "none")]) == 1
    assert "check --cache" in capsys.readouterr().err


def test_show_tells_everything_about_the_cache_that_a_few_digits_name(call, caches):
    cache = make_cache(caches, shape=(2, 3), views=(0, 1))
    cache.mark_unreadable({KEYS[0]: "truncated\nJPEG"})
    (cache.path / "shards" / "torn.h5").write_bytes(b"half")
    dead_writers_file(cache)
    code, out, _ = call("show", SHORT[:4].upper())
    assert code == 0
    lines_by_name = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines() if "  " in line)
    day = time.strftime("%Y-%m-%d")
    assert lines_by_name.pop("oldest shard").startswith(day)
    assert lines_by_name.pop("newest shard").startswith(day)
    assert lines_by_name.pop("on disk").endswith("KiB")
    assert lines_by_name == {
        "fingerprint": SPEC.fingerprint,
        "folder": str(cache.path),
        "backbone": "resnet18",
        "weights": "5c106cde",
        "cut": "layer4",
        "pooling": "avg",
        "preprocessing.image_size": "224",
        "preprocessing.mean": "[0.485, 0.456, 0.406]",
        "views": "none",
        "precision": "fp32",
        "dtype": "float32",
        "decoder": "torchvision",
        "rows": "40 of view 0, 40 of view 1",
        "shape of a row": "[2, 3]",
        "shards": "2",
        "computed in": "80 s",
        "rejected images": "1",
        "files set aside": "1 (4 B)",
        "leftovers": "1 (4.88 KiB)",
    }
    assert f"rejected: {KEYS[0]}: 'truncated\\nJPEG'" in out
    assert f"set aside: {cache.path / 'damaged' / 'torn.h5'}" in out
    assert re.search(r"note: .*torn\.h5 is damaged or not a shard", out)


def test_show_of_what_is_not_there_lists_what_is(call, caches):
    make_cache(caches)
    wrong = "f" if SPEC.fingerprint[0] != "f" else "e"
    code, _, err = call("show", wrong)
    assert (code, f"begins with '{wrong}'; there are {SPEC.fingerprint}" in err) == (2, True)


def test_verify_names_damage_by_shard_row_and_key_and_repair_drops_it(call, caches):
    cache = make_cache(caches)
    assert call("verify") == (0, f"{SHORT} (resnet18, layer4, avg): 40 rows, all sound\n", "")
    damage(cache, row=7)
    [path] = shard_paths(cache)
    for command in (["verify"], ["verify", SHORT[:5]]):
        code, out, err = call(*command)
        assert (code, "cache verify --repair" in err) == (1, True)
        assert "40 rows, 1 damaged" in out
        assert re.search(rf"(?m)^{re.escape(path.name)} +7 +{KEYS[7]} +0$", out)
    code, out, _ = call("verify", "--repair")
    assert (code, "`extract` with the same options computes it again" in out) == (0, True)
    assert cache.missing(KEYS) == [KEYS[7]]
    np.testing.assert_array_equal(cache.read(KEYS[8:]), features_of(KEYS[8:]))
    assert call("verify")[0] == 0


def test_verify_counts_shards_and_caches_that_are_broken_as_a_whole(call, caches):
    cache = make_cache(caches)
    (cache.path / "shards" / "torn.h5").write_bytes(b"half")
    code, out, _ = call("verify")
    assert (code, "torn.h5 is damaged" in out) == (1, True)
    assert call("verify")[0] == 0  # it is out of the way
    (caches / ("0" * 32)).mkdir()
    code, out, err = call("verify", "--repair")
    assert (code, "1 of the caches could not be opened" in err) == (1, True)
    assert "40 rows, all sound" in out


def test_prune_says_what_would_go_and_does_it_when_told(call, caches, tmp_path):
    cache = make_cache(caches, views=(0, 1))
    run = make_run(tmp_path / "run", KEYS[:10], KEYS[5:15])
    make_manifest([*KEYS[30:32], *make_keys(1, start=99)]).save(tmp_path / "manifest.csv")
    leftover = dead_writers_file(cache)
    cache.path.joinpath("shards", "torn.h5").write_bytes(b"half")
    command = ["prune", "--keep", run, tmp_path / "manifest.csv"]

    before = {path: path.stat().st_mtime_ns for path in shard_paths(cache) if path.name != "torn.h5"}
    code, out, _ = call(*command)
    assert code == 0
    assert f"keep {run}: 15 different images" in out
    assert re.search(rf"(?m)^{SHORT} +resnet18 +layer4 +80 +46 +1 +[\d.]+ KiB$", out)
    assert re.search(r"would remove 46 rows and 1 files, about [\d.]+ KiB; nothing was changed: --yes does it", out)
    assert {path: path.stat().st_mtime_ns for path in shard_paths(cache)} == before
    assert leftover.exists()

    code, out, _ = call(*command, "--yes")
    assert (code, "removed 46 rows and 1 files" in out) == (0, True)
    needed = [*KEYS[:15], *KEYS[30:32]]
    for view in (0, 1):
        assert sorted(cache.keys(view)) == sorted(needed)
        np.testing.assert_array_equal(cache.read(needed, view), features_of(needed, view=view))
    assert not leftover.exists()
    assert [path.name for path in cache.damaged] == ["torn.h5"]

    assert "0 rows and 1 files" in call(*command, "--damaged", "--yes")[1]
    assert cache.damaged == []


def test_prune_keeps_what_data_need_and_leaves_caches_alone_that_are_not_named(call, caches, tmp_path, photographs):
    keys = sorted({key_of_file(path) for path in photographs.rglob("*.jpg")})
    other = Spec.from_json({**SPEC.to_json(), "cut": "layer3"})
    first, second = (make_cache(caches, [*KEYS, *keys], spec=spec) for spec in (SPEC, other))
    code, _, _ = call("prune", SHORT, "--keep", photographs, "--yes")
    assert code == 0
    assert sorted(first.keys()) == keys
    assert len(second) == len(KEYS) + len(keys)
    code, _, err = call("prune", "--keep", tmp_path / "none", "--yes")
    assert (code, f"--keep {tmp_path / 'none'}: there is no such folder" in err) == (2, True)


def test_prune_of_which_nothing_is_to_be_kept_drops_nothing(call, caches):
    cache = make_cache(caches)
    code, _, err = call("prune", "--yes", "--keep")
    assert (code, "--keep names nothing, and all would go" in err) == (2, True)
    assert len(cache) == len(KEYS)


def test_prune_keeps_what_data_need_that_extract_took_with_columns_of_images(call, caches, tmp_path, photographs):
    images = sorted(photographs.rglob("*.jpg"))[:4]
    keys = [key_of_file(path) for path in images]
    cache = make_cache(caches, [*KEYS, *keys])
    (tmp_path / "table.csv").write_text("front,back\n{},{}\n{},{}\n".format(*images))
    code, _, err = call("prune", "--keep", tmp_path / "table.csv", "--yes")
    assert (code, "are taken with --images" in err) == (1, True)
    assert call("prune", "--keep", tmp_path / "table.csv", "--images", "front", "back", "--yes")[0] == 0
    assert sorted(cache.keys()) == sorted(keys)


def test_export_writes_the_file_and_says_what_is_in_it(call, caches, tmp_path):
    cache = make_cache(caches, KEYS[1:])
    cache.mark_unreadable({KEYS[0]: "truncated JPEG"})
    run = make_run(tmp_path / "run", KEYS[4::-1])
    code, out, _ = call("export", SHORT[:6], tmp_path / "photos.npz", "--manifest", run)
    assert code == 0
    assert f"{SHORT} (resnet18, layer4, avg): 4 rows of [6], view 0, float32" in out
    assert "note: 1 images of the manifest that could not be read are left out" in out
    with np.load(tmp_path / "photos.npz") as file:
        np.testing.assert_array_equal(file["features"], features_of(KEYS[4:0:-1]))
    code, _, err = call("export", SHORT, tmp_path / "photos.csv")
    assert (code, "has to end with one of .npz" in err) == (2, True)
    code, _, err = call("export", SHORT, tmp_path / "photos.npz", "--view", "3")
    assert (code, "no rows of view 3; it has the views 0" in err) == (2, True)


def test_every_sub_command_is_in_the_reference_under_the_name_it_is_called_by():
    lines_by_name = {section.split("\n")[0]: section for section in reference().split("\n## ")}
    assert [name for name in lines_by_name if name.startswith("cache ")] == [f"cache {command}" for command in COMMANDS]
    assert "| `--keep` | required | Run directories" in lines_by_name["cache prune"]
    assert "| `FINGERPRINTS` |  | The caches" in lines_by_name["cache verify"]
    assert "| `--view` | `0` | Which rendering" in lines_by_name["cache export"]


def test_help_teaches_with_an_example_and_does_not_wait_for_torch_or_h5py():
    script = f"""if True:
        import sys
        from pipeline.cli.app import main
        for command in {COMMANDS}:
            try: main(["cache", command, "--help"])
            except SystemExit: pass
        print("HEAVY", sorted({{"torch", "h5py", "pyarrow", "safetensors"}} & sys.modules.keys()))
    """
    completed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "HEAVY []" in completed.stdout
    for command in COMMANDS:
        assert re.search(rf"(?m)^ cutonce cache {command}", completed.stdout)
