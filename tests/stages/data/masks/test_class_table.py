import pytest

from cache.errors import DataError
from stages.data.masks.class_table import color_of, find_class_table, read_class_table
from stages.data.masks.stored import packed

ROAD, CAR = packed(128, 64, 128), packed(64, 0, 128)


@pytest.mark.parametrize(
    ("name", "text", "values", "colors"),
    [
        ("classes.csv", "name,r,g,b\nroad,128,64,128\ncar,64,0,128\n", (), (ROAD, CAR)),
        ("class_dict.csv", "name, r, g, b\nroad,128,64,128\ncar, 64,0,128\n", (), (ROAD, CAR)),
        ("colors.csv", "class;color\nroad;#804080\ncar;64 0 128\n", (), (ROAD, CAR)),
        ("classes.csv", "\ufeffid,name\n7,road\n26,car\n", (7, 26), ()),
        ("classes.txt", "road\n\ncar\n", (), ()),
        ("labels.txt", "7: road\n26: car\n", (7, 26), ()),
        ("label_colors.txt", "128 64 128\troad\n64 0 128\t\tcar\n", (), (ROAD, CAR)),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:64,0,128::\n", (), (ROAD, CAR)),
    ],
)
def test_classes_are_read_as_programs_write_them(tmp_path, name, text, values, colors):
    (tmp_path / name).write_text(text, encoding="utf-8")
    table = find_class_table([tmp_path / "nowhere", tmp_path])
    assert (table.names, table.values, table.colors, table.origin) == (("road", "car"), values, colors, name)


def test_a_table_of_images_that_is_called_as_a_file_of_classes_is_none(tmp_path):
    (tmp_path / "labels.csv").write_text('"label","path"\ncat,1.png\ncat,2.png\n')
    assert find_class_table([tmp_path]) is None
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    table = find_class_table([tmp_path])
    assert table is not None
    assert (table.origin, table.names) == ("classes.txt", ("sky", "road"))


def test_names_that_stand_for_no_class_are_known_however_they_are_written(tmp_path):
    (tmp_path / "classes.txt").write_text("road\nVoid\nbackground\nunlabelled\n")
    assert read_class_table(tmp_path / "classes.txt").void == (1, 3)  # a background is a class


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.csv", "r,g,b\n1,2,3\n", "has no column name or class"),
        ("classes.csv", "name,color\nroad,purple\n", "line 2: 'purple' is no color"),
        ("classes.csv", "name,r,g,b\nroad,1,2,300\n", "line 2: '1,2,300' is no color"),
        ("classes.csv", "name,id\nroad,seven\n", "line 2: 'seven' is no number of a class"),
        ("classes.csv", "name,id\nroad,1\ncar,1\n", "has the value 1 more than once"),
        ("classes.txt", "road\nroad\n", "has the name road more than once"),
        ("classes.txt", "\n", "names no classes"),
    ],
)
def test_a_file_that_does_not_say_what_classes_are_is_named_with_the_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_table(tmp_path / name)


def test_colors_are_read_as_people_write_them():
    assert {color_of(text) for text in ("#804080", "804080", "128,64,128", "(128 64 128)")} == {ROAD}
    assert color_of("128,64") is color_of("256,0,0") is color_of("red") is None
