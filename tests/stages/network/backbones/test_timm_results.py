"""timm's table: fetched from a server or a file, kept with its date, and errors that say what to do without a network."""

import threading
from datetime import datetime, timezone
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from cache.errors import CutonceError, DataError
from stages.network.backbones.timm_results import TimmResult, read_results, update_results

# as timm writes it: thousands of parameters in quotes
TABLE = """model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation
eva_giant_patch14_560.m30m_ft_in22k_in1k,89.786,10.214,98.992,1.008,"1,014.45",560,1.000,bicubic
resnet18.a1_in1k,71.490,28.510,90.076,9.924,11.69,288,1.000,bicubic
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # whatever stands between this machine and the network
    (tmp_path / "results.csv").write_text(TABLE)
    return tmp_path


@pytest.fixture
def server(home):
    server = HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(home)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_is_fetched_and_kept_with_its_date_and_source(server, home):
    assert read_results() is None
    source = f"{server}/results.csv"
    fetched = update_results(source)
    assert fetched.results["resnet18.a1_in1k"] == TimmResult(pytest.approx(0.7149), 288)
    assert (len(fetched.results), fetched.source) == (2, source)
    assert fetched.date == datetime.now(timezone.utc).date().isoformat()
    (home / "results.csv").unlink()
    assert read_results() == fetched


def test_a_file_that_was_fetched_elsewhere_will_do(home):
    assert update_results(str(home / "results.csv")).results.keys() == read_results().results.keys()


def test_what_cannot_be_had_says_where_it_is_and_keeps_what_there_was(home, server):
    kept = update_results(str(home / "results.csv"))
    for source in (f"{server}/other.csv", "http://127.0.0.1:9/results.csv", str(home / "missing.csv"), "nowhere://x"):
        with pytest.raises(CutonceError, match=r"could not be had from .* Fetch that table elsewhere .*`results` FILE"):
            update_results(source)
    assert read_results() == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "no table of timm's results: it has no column model"),
        ("model,top1,img_size\nresnet,high,224\n", "line 2: could not convert"),
    ],
)
def test_another_table_is_none(home, text, message):
    (home / "results.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        update_results(str(home / "results.csv"))
    assert read_results() is None
