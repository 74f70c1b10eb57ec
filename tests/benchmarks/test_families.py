from benchmarks.families import families, markdown, rows_of, smallest, sweep
from benchmarks.photographs import make_photographs


def test_every_family_has_its_smallest_network_swept_and_one_that_fails_ends_nothing(tmp_path):
    found = families()
    assert found["torchvision:squeezenet"] == ["squeezenet1_0", "squeezenet1_1"]
    assert smallest(found["torchvision:squeezenet"]) == "squeezenet1_1"
    assert smallest(["timm:test_vit2", "timm:none", "timm:test_vit"]) == "timm:test_vit"
    make_photographs(6, 64, 64, tmp_path / "photographs")
    networks = [("toys", "timm:test_byobnet"), ("none", "timm:no_such_network"), ("toys", "timm:test_resnet")]
    rows = list(sweep(networks, tmp_path / "photographs"))
    assert [row.outcome.partition(":")[0] for row in rows] == ["works", "UsageError", "works"]
    assert (rows[0].pixels, rows[0].row, rows[0].cuts > 5) == (160, (256,), True)
    page = markdown(rows)
    (tmp_path / "page.md").write_text(page, encoding="utf-8")
    assert rows_of(tmp_path / "page.md") == rows  # which the same command does not sweep again
    assert "Not looked at yet: torchvision:alexnet, " in page
    assert "2 of 3 families work (torch " in page
    assert f"| toys | `timm:test_byobnet` | 160 | {rows[0].cuts} | 256 | works |" in page
