"""What is kept in one split: folders inside classes, columns, what a pattern finds, and what only may be groups."""

import pytest

from cache.errors import UsageError
from stages.config.data import DataConfig
from stages.data.sources.groups import with_groups
from stages.data.sources.records import SourceRecords

MANY = [f"p{number}" for number in range(6)]


def records(samples, names=None, splits=None, **columns):
    """Samples as (class, folders inside it); file names count up unless given."""
    targets = [target for target, _ in samples]
    names = names or [f"{index:04}.png" for index in range(len(samples))]
    subfolders = [inner for _, inner in samples]
    return SourceRecords(
        [f"/data/{target}/{inner}/{name}" for (target, inner), name in zip(samples, names, strict=True)],
        targets,
        tuple(sorted(set(targets))),
        splits or [""] * len(samples),
        [""] * len(samples),
        subfolders=subfolders if any(subfolders) else [],
        **columns,
    )


def inside(**folders):
    """Two images in each of the folders of each class."""
    return [(target, inner) for target, names in folders.items() for inner in names for _ in range(2)]


def grouped(listing, data="table.csv", **options):
    return with_groups(listing, DataConfig(data, **options))


def test_folders_inside_the_classes_are_groups_and_one_line_says_so():
    listing = grouped(records(inside(ill=MANY, well=["p5", "p6", "p7"])))
    assert listing.groups == [name for name in [*MANY, "p5", "p6", "p7"] for _ in range(2)]
    assert listing.notes == [
        "8 groups, the folders inside the classes (p0, p1, p2 and 5 more, 1 of them in several classes; `group_by` none "
        "ends this): no split made here tears one apart"
    ]
    assert grouped(records(inside(ill=MANY, well=MANY)), group_by="none").groups == []


def test_images_beside_the_folders_are_on_their_own():
    listing = grouped(records([*inside(ill=MANY), ("well", ""), ("well", "")]))
    assert listing.groups[-3:] == ["p5", "", ""]
    assert listing.notes[0].endswith("; 2 images have none and are each on their own")


def test_the_folder_of_the_subject_is_found_below_one_that_every_class_has():
    below = [f"{kind}/{name}" for name in MANY for kind in ("front", "side")]
    listing = grouped(records(inside(ill=below, well=below)))
    assert set(listing.groups) == set(MANY)  # p0 from the front and p0 from the side are one
    visits = [f"{name}/{visit}" for name in MANY for visit in ("1", "2")]
    assert set(grouped(records(inside(ill=visits, well=visits))).groups) == set(MANY)


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        ({"ill": ["images"], "well": ["images"]}, "there is only 1"),
        ({"ill": ["front", "side"], "well": ["front", "side"]}, "there are only 2"),
        ({"cat": MANY, "dog": ["poodle", "pug"]}, "class dog has only 2"),
        ({"cat": ["", *MANY], "dog": ["", "new"]}, "class dog has only 1"),
        ({"nut": ["good"] * 9 + MANY, "pill": ["good"] * 9 + MANY}, "good is in every class and holds most images"),
    ],
)
def test_folders_that_are_kinds_of_images_or_too_few_are_not_taken_and_one_line_says_why(folders, reason):
    listing = grouped(records(inside(**folders)))
    assert listing.groups == []
    [note] = listing.notes
    assert f"not taken for groups, since {reason}; `group_by` folder" in note


def test_folders_that_a_given_split_tears_apart_are_told_and_are_no_error_unless_asked_for():
    samples = inside(ill=MANY, well=MANY)
    splits = ["train", "test"] * len(MANY) * 2
    listing = grouped(records(samples, splits=splits))
    assert listing.groups == []
    assert "since 6 of them are in two of the given splits (p0, p1, p2 and 3 more)" in listing.notes[0]
    assert set(grouped(records(samples, splits=splits), group_by="folder").groups) == set(MANY)


def test_asked_for_folders_are_groups_however_few(tmp_path):
    assert grouped(records(inside(ill=["a"], well=["b"])), group_by="folder").groups == ["a", "a", "b", "b"]
    below = ["all/a", "all/b"]
    assert set(grouped(records(inside(ill=below, well=below)), group_by="folder").groups) == {"a", "b"}
    flat = records([("ill", ""), ("well", "")])
    assert grouped(flat, group_by="folder").groups == ["/data/ill", "/data/well"]  # a table has no class folders
    with pytest.raises(UsageError, match="there are no folders inside the classes"):
        grouped(flat, str(tmp_path), group_by="folder")


def test_a_pattern_finds_the_subject_in_the_file_name():
    listing = records([("ill", "")] * 3 + [("well", "")], ["p1_a.png", "p1_b.png", "blank.png", "p2_a.png"])
    found = grouped(listing, group_by="^([^_]+)_")
    assert found.groups == ["p1", "p1", "", "p2"]
    assert found.notes == [
        "2 groups, by what `group_by` '^([^_]+)_' finds in their names: no split made here tears one apart; 1 images "
        "have none and are each on their own"
    ]
    with pytest.raises(UsageError, match=r"no file name has this in it, as p1_a\.png"):
        grouped(listing, group_by="(patient)")


def test_a_column_is_the_group_when_it_is_named_and_stays_a_column():
    columns = {"patient": ["7", " 7 ", "", "8"], "empty": [""] * 4}
    listing = records([("ill", "")] * 2 + [("well", "")] * 2, extra=columns)
    found = grouped(listing, group_column="patient")
    assert found.groups == ["7", "7", "", "8"]
    assert found.extra == columns
    assert found.notes[0].startswith("2 groups, by the column patient: no split made here tears one apart; 1 images")
    with pytest.raises(
        UsageError, match=r"patients: there is no such column .* patient, empty.* Did you mean 'patient'"
    ):
        grouped(listing, group_column="patients")
    with pytest.raises(UsageError, match="empty: the column is empty"):
        grouped(listing, group_column="empty")


def test_groups_of_the_source_stay_unless_the_options_say_otherwise():
    listing = records([("ill", "a"), ("well", "a")], groups=["g", "h"], extra={"patient": ["1", "1"]})
    assert grouped(listing) == listing
    assert grouped(listing, group_column="patient").groups == ["1", "1"]
    assert grouped(listing, group_column="group").groups == ["g", "h"]
    alone = grouped(listing, group_by="none")
    assert (alone.groups, alone.notes) == ([], ["groups are torn apart, as `group_by` none says"])


def test_columns_that_may_be_groups_are_named_with_the_option():
    samples = [("ill", ""), ("well", "")] * 20
    columns = {
        "Patient ID": [str(number // 2) for number in range(40)],
        "age": [str(number % 13) for number in range(40)],
        "sex": ["m", "f"] * 20,
        "department": ["a", "b"] * 20,
        "note": [str(number) for number in range(40)],
        "scanner": ["one"] * 40,
    }
    assert grouped(records(samples, extra=columns)).notes == [
        "not used for the splits: Patient ID, age. If one of these columns says which images belong together, as patients "
        "or products, name it: `group_column` 'Patient ID'"
    ]
    del columns["Patient ID"]
    assert grouped(records(samples, extra=columns)).notes[0].endswith("`group_column` NAME")
    assert grouped(records(samples, extra={"sex": columns["sex"], "note": columns["note"]})).notes == []
    assert grouped(records(samples, extra=columns), group_by="none").notes == []


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("{subject:08}_{image:03}.png", "^([^_]+)_"),
        ("SOB_B_A-14-{subject}-{image}.png", "^(.+)-[^-]*$"),
        ("case {subject} slice {image}.png", "^(.+) [^ ]*$"),
        ("p{subject}.{image}.png", r"^([^.]+)\."),
        ("{subject}_jpg.rf.{image}.jpg", "^([^_]+)_"),
    ],
)
def test_file_names_that_look_like_several_images_of_one_subject_are_told_with_the_option(name, pattern):
    names = [name.format(subject=index // 3, image=index) for index in range(60)]
    listing = records([("ill", "")] * 30 + [("well", "")] * 30, names)
    [note] = grouped(listing).notes
    assert f"({names[0]} and {names[1]}; 60 files with 20 beginnings)" in note
    assert f"keep them in one split: `group_by` '{pattern}'; `group_by` none" in note
    assert len(set(grouped(listing, group_by=pattern).groups)) == 20
    assert grouped(listing, group_by="none").notes == []


@pytest.mark.parametrize(
    "name",
    [
        *("IMG_{index}.jpg", "{label}_{index}.png", "{index}.png", "{index}_1.png", "a-b_c {index}.png"),
        "kind{quarter}_{index}.png",  # too few of them
        "{most}_{index}.png",  # one holds most
    ],
)
def test_other_file_names_say_nothing(name):
    labels = ["ill"] * 30 + ["well"] * 30
    names = [
        name.format(index=index, label=label, quarter=index // 15, most=max(index // 2, 20))
        for index, label in enumerate(labels)
    ]
    assert grouped(records([(label, "") for label in labels], names)).notes == []


@pytest.mark.parametrize("name", ["{number:03}.png", "{number}_{number}.jpg", "image-{number}.png"])
def test_files_that_are_numbered_anew_in_each_folder_say_nothing(name):
    samples = [(label, "") for label in ("cat", "cow", "dog", "fox") for _ in range(20)]
    names = [name.format(number=index % 20) for index in range(80)]
    assert grouped(records(samples, names)).notes == []
