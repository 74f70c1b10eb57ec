import os

import pytest

from cache.errors import DataError, UsageError
from stages.config.data import DataConfig
from stages.data.sources.csv_file import list_csv, read_image_table


def listed(path):
    return list_csv(DataConfig(str(path)))


def write(tmp_path, text, encoding="utf-8"):
    table = tmp_path / "table.csv"
    table.write_bytes(text.encode(encoding, "surrogateescape"))
    return table


def test_columns_are_found_by_name(tmp_path):
    table = write(
        tmp_path, "label,comment,PATH ,split,stratum\ncat,nice,a.jpg,train,mono\ndog,,b/c.jpg,Validation,poly\n"
    )
    listing = listed(table)
    assert listing.locations == [str(tmp_path / "a.jpg"), str(tmp_path / "b" / "c.jpg")]
    assert listing.targets == ["cat", "dog"]
    assert listing.splits == ["train", "val"]
    assert listing.strata == ["mono", "poly"]
    assert listing.class_names == ("cat", "dog")


def test_the_group_is_read_where_there_is_one(tmp_path):
    listing = listed(write(tmp_path, "path,label,Group\na.jpg,cat, 007 \nb.jpg,dog,\nc.jpg,dog,7\n"))
    assert listing.groups == ["007", "", "7"]
    assert listed(write(tmp_path, "path,label,group\na.jpg,cat,\nb.jpg,dog,\n")).groups == []
    assert listed(write(tmp_path, "path,label\na.jpg,cat\nb.jpg,dog\n")).groups == []


def test_columns_of_other_names_are_kept_as_they_are_written(tmp_path):
    table = write(tmp_path, 'path,Age, site ,LABEL,Note\na.jpg, 7,x,cat,"two\nlines, quoted"\nb.jpg,8,y,dog\n')
    assert listed(table).extra == {"Age": [" 7", "8"], "site": ["x", "y"], "Note": ["two\nlines, quoted", ""]}
    assert listed(table).select([1]).extra == {"Age": ["8"], "site": ["y"], "Note": [""]}


def test_columns_that_are_read_and_those_without_a_name_are_no_extra_ones(tmp_path):
    text = ",path,label,Split,stratum,group,KEY\n0,a.jpg,cat,train,x,g,00\n1,b.jpg,dog,test,y,h,11\n"
    assert listed(write(tmp_path, text)).extra == {}


def test_a_table_of_images_needs_no_labels_and_gives_all_it_says(tmp_path):
    table = write(tmp_path, "\ufeff,PATH,Label,Age\n0,a.jpg, cat ,7\n1,/data/b.jpg\n")
    images = [
        (str(tmp_path / "a.jpg"), {"label": " cat ", "Age": "7"}),
        ("/data/b.jpg", {"label": "", "Age": ""}),
    ]
    assert read_image_table(table) == (images, [])


def test_a_table_of_images_is_read_as_a_table_of_samples_is(tmp_path):
    (tmp_path / "a.jpg").touch()
    table = write(tmp_path, "path;age\n.\\a.jpg;7\n", "utf-16")
    images, notes = read_image_table(table)
    assert images == [(str(tmp_path / "a.jpg"), {"age": "7"})]
    assert notes == [
        "table.csv was read as UTF-16 with columns separated by semicolons",
        "back-slashes, as on Windows, were read as slashes in 1 of the paths",
    ]


def test_what_is_wrong_with_a_table_of_images_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no column path .* the first line must name the column path"):
        read_image_table(write(tmp_path, "file\na.jpg\n"))
    with pytest.raises(DataError, match="line 3: no path"):
        read_image_table(write(tmp_path, "path,age\na.jpg,1\n,2\n"))


def test_relative_paths_start_at_the_table_and_absolute_ones_stay(tmp_path):
    listing = listed(write(tmp_path, "path,label\n/data/a.jpg,cat\nb.jpg,dog\n"))
    assert listing.locations == ["/data/a.jpg", str(tmp_path / "b.jpg")]
    assert listing.splits == ["", ""]


@pytest.mark.parametrize("name", ['a,b "c".jpg', "new\nline.jpg", "\N{TULIP}.jpg", os.fsdecode(b"\xff.jpg"), " b.jpg"])
def test_any_file_name_works(tmp_path, name):
    quoted = name.replace('"', '""')
    listing = listed(write(tmp_path, f'path,label\n"{quoted}",cat\nz.jpg,dog\n'))
    assert listing.locations[0] == str(tmp_path / name)


def test_what_excel_writes_is_read(tmp_path):
    listing = listed(write(tmp_path, "\ufeffpath,label\r\na.jpg,cat\r\nb.jpg,dog\r\n"))
    assert listing.targets == ["cat", "dog"]


def test_what_was_found_out_about_a_table_is_said(tmp_path):
    (tmp_path / "a.jpg").touch()
    listing = listed(write(tmp_path, "sep=;\nlabel;path\nsea, calm;photos\\a.jpg\nland;.\\a.jpg\n", "utf-16"))
    assert listing.targets == ["sea, calm", "land"]
    assert listing.locations == [str(tmp_path / "photos\\a.jpg"), str(tmp_path / "a.jpg")]
    assert len(listing.notes) == 2
    assert listed(write(tmp_path, "path,label\na.jpg,cat\nb.jpg,dog\n")).notes == []


def test_rows_that_say_the_same_of_an_image_count_once_and_that_is_said(tmp_path):
    rows = ["a.jpg,cat,1,x", "b.jpg,dog,1,x", "a.jpg, cat,2,x", "a.jpg,cat,1,x"]
    listing = listed(write(tmp_path, "\n".join(["path,label,reader,site", *rows])))
    assert listing.locations == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert listing.targets == ["cat", "dog"]
    assert listing.extra == {"reader": ["1", "1"], "site": ["x", "x"]}
    (note,) = listing.notes
    assert note == (
        "table.csv says again what it said of an image in 2 of its rows: each image counts once, with what its first "
        "row says in the columns reader, site"
    )


@pytest.mark.parametrize("column", ["label", "split", "stratum", "group"])
def test_rows_that_say_something_else_of_an_image_all_count(tmp_path, column):
    """Two groups of one image keep all images of both together; two labels or splits are told, or refused, later."""
    fixed = {"label": "cat", "split": "train", "stratum": "s", "group": "g"}
    other = {"label": "dog", "split": "test", "stratum": "t", "group": "h"}
    rows = [fixed, {**fixed, column: other[column]}, fixed]
    text = "\n".join(["path," + ",".join(fixed), *("a.jpg," + ",".join(row.values()) for row in rows)])
    assert len(listed(write(tmp_path, text)).locations) == 2


def test_rows_of_an_image_in_two_groups_all_count_where_a_column_names_the_groups(tmp_path):
    table = write(tmp_path, "path,label,patient\na.jpg,cat,1\na.jpg,cat,2\na.jpg,cat,1\n")
    listing = list_csv(DataConfig(str(table), group_column="patient"))
    assert listing.extra == {"patient": ["1", "2"]}
    assert listed(table).extra == {"patient": ["1"]}


def test_labels_that_are_numbers_are_in_order_of_value(tmp_path):
    assert listed(write(tmp_path, "path,label\na.jpg,10\nb.jpg,9\n")).class_names == ("9", "10")


def test_without_a_column_label_the_images_are_known_and_nothing_else(tmp_path):
    records = listed(write(tmp_path, "path,class\na.jpg,cat\nb.jpg,dog\na.jpg,cat\n"))
    assert records.locations == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert set(records.targets) == {""}
    assert "table.csv has no column label (its first line is 'path,class')" in records.unlabeled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.jpg,cat\n", "has no column label and no column path .* `images` .of paths. and `target` .of l"),
        ("", "has no column"),
        ("path,label\n", "has no rows"),
        ("path,label,Label\na.jpg,cat,dog\n", "has several columns called label: leave one"),
        ("path,label\na.jpg,cat\nhttps://example.org/b.jpg,dog\n", "line 3: https://.* is a URL: download"),
        ("path,label\na.jpg,cat\n,dog\n", "line 3: no path"),
        ("path,label\na.jpg,cat,dog\n", "line 2: more fields than columns"),
        ("path,label,split\na.jpg,cat,train\nb.jpg,dog,holdout\n", "line 3: 'holdout' is not a split"),
        ("path,label,split\na.jpg,cat,train\nb.jpg,dog,\n", "line 3: some rows have a split and some have none"),
        ('path,label\n"a.jpg"x,cat\n', "line 2: "),
        ('path,label\na.jpg,"cat\n', "line 2: unexpected end"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        listed(write(tmp_path, text))
    assert "table.csv" in str(caught.value)


@pytest.mark.parametrize("name", ["labels", "target"])
def test_columns_of_other_names_are_targets_where_there_is_no_label(tmp_path, name):
    listing = listed(write(tmp_path, f"path,age,{name}\na.jpg,7, 3 \nb.jpg,8,4\n"))
    assert listing.target_columns == {name: ["3", "4"]}
    assert (listing.extra, listing.lines) == ({"age": ["7", "8"]}, [2, 3])
    both = listed(write(tmp_path, f"path,{name},label\na.jpg,3,cat\nb.jpg,4,dog\n"))
    assert (both.target_columns, both.extra) == ({"label": ["cat", "dog"]}, {name: ["3", "4"]})


def test_rows_that_differ_in_a_target_all_count(tmp_path):
    table = write(tmp_path, "path,a,b\na.jpg,1,0\na.jpg,1,1\na.jpg,1,0\n")
    listing = list_csv(DataConfig(str(table), target="a,b"))
    assert listing.target_columns == {"a": ["1", "1"], "b": ["0", "1"]}


def test_a_target_is_no_column_of_paths_or_splits(tmp_path):
    table = write(tmp_path, "path,front,split,price\na.jpg,b.jpg,train,1\n")
    for name in ("path", "split", "front"):
        with pytest.raises(UsageError, match=rf"`target` {name}: .*table.csv has no such column; there are price\."):
            list_csv(DataConfig(str(table), target=name, images="path,front"))
