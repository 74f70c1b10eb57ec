"""A mask for each sample: a file whose values, or colors, say the class of each pixel of the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from cache.errors import DataError, UsageError, listed
from stages.config.data import SPLITS, DataConfig
from stages.data.masks.class_table import ClassTable, color_of
from stages.data.masks.find_classes import SurveyedMasks, find_classes
from stages.data.masks.mask_classes import MaskClasses
from stages.data.masks.stored import MaskFacts, packed
from stages.data.masks.survey import image_shape, survey_masks
from stages.data.sources.target_columns import MASK
from stages.data.targets.columns import TargetColumns, is_missing
from stages.data.targets.registry import Reading, register_targets
from stages.tasks.dense import VOID, Dense

_SHARES = 20
"""Most classes that a note says the share of."""

_NAMED = 5
"""Most files or classes that a message names."""


def recognizes_masks(columns: TargetColumns, options: DataConfig) -> str:
    """Return by what the columns are plainly masks."""
    if options.ignore_label:
        return "`ignore_label` is for masks"
    return "there is a mask for each image" if [*columns.values] == [MASK] else ""


@register_targets(
    "dense", help_text="a class for each pixel, from masks", recognizes=recognizes_masks, options=("ignore_label",)
)
def read_masks(columns: TargetColumns, options: DataConfig) -> Reading:
    """Return the mask of each sample, and which classes all of them hold.

    A sample without a mask is left out, and one whose mask cannot be read is listed with the reason.

    Raises
    ------
    UsageError
        If there are several columns, or nothing is a mask.
    DataError
        If masks are none, hold what is no class, or are not those of their images; names files.
    """
    if len(columns.values) > 1:
        raise UsageError(f"`task` dense takes one column of masks, and `target` names {len(columns.values)}")
    [(name, texts)] = columns.values.items()
    left_out = [index for index, text in enumerate(texts) if is_missing(text)]
    with_mask = [index for index, text in enumerate(texts) if not is_missing(text)]
    notes = []
    if left_out:
        notes.append(f"images without a {name}: {len(left_out):,}, left out ({columns.rows(left_out)})")
    if not columns.in_table or not with_mask:
        raise UsageError(
            f"`data` {columns.data} has no masks: put them into a folder masks/ beside the folder images/, under the "
            "names of their images, or into a column mask of a table"
        )
    facts, reasons = survey_masks([texts[index] for index in with_mask])
    unreadable = {index: reasons[texts[index]] for index in with_mask if texts[index] in reasons}
    known = {index: found for index, found in zip(with_mask, facts, strict=True) if found is not None}
    if not known:
        first = next(iter(unreadable))
        raise DataError(
            f"none of the {len(unreadable):,} masks can be read; the first: {texts[first]}: {unreadable[first]}"
        )
    notes += _compared_sizes(columns, texts, known)
    masks = SurveyedMasks([texts[index] for index in known], [*known.values()])
    if columns.mask_classes is None:
        classes, found = find_classes(masks, columns.class_table, options.ignore_label)
    else:
        classes, found = _settled(columns.mask_classes, masks, columns.class_table, options)
    return Reading(
        texts,
        lambda _: Dense(classes.names),
        left_out=[*left_out, *unreadable],
        notes=[*notes, *found],
        mask_classes=classes,
        unreadable=[(columns.locations[index], f"its mask {texts[index]}: {why}") for index, why in unreadable.items()],
        of_splits=_notes_of_splits(classes),
    )


def _settled(
    settled: MaskClasses, masks: SurveyedMasks, table: ClassTable | None, options: DataConfig
) -> tuple[MaskClasses, list[str]]:
    """Return the classes of a model as these masks hold them: by the same values, or by names where these are said.

    Raises
    ------
    DataError
        If masks hold a class that the model does not know, or a value that is none.
    UsageError
        If `ignore_label` says what is no value of masks.
    """
    if table is not None:
        own, notes = find_classes(masks, table, options.ignore_label, fewest=1)
        left_out = [name for name in own.names if name not in settled.names and name in settled.left_out]
        if unknown := [name for name in own.names if name not in (*settled.names, *left_out)]:
            raise DataError(
                f"{table.origin} names {listed(unknown)}, which the model does not know: it knows "
                f"{listed(settled.names, 20)}. Names are matched to the letter: rename them, or say with "
                "`ignore_label` that they stand for no class"
            )
        if left_out:
            notes.append(
                f"{listed(left_out)} stands for no class, as where the model was trained: such pixels do not count"
            )
        number_of = {
            number: VOID if name in left_out else settled.names.index(name) for number, name in enumerate(own.names)
        }
        numbers = tuple((value, number_of.get(number, number)) for value, number in own.numbers)
        return MaskClasses(settled.names, own.by_color, numbers, (*own.left_out, *left_out)), notes
    known = dict(settled.numbers) | {_value_of(word, settled): VOID for word in options.ignore_label}
    held = {
        location: set(values_in(facts, settled)) for location, facts in zip(masks.locations, masks.facts, strict=True)
    }
    if wrong := [location for location, values in held.items() if not values <= known.keys()]:
        beyond = [settled.word(value) for value in sorted(held[wrong[0]].difference(known))]
        raise DataError(
            f"{len(wrong):,} of {len(held):,} masks hold what is no class of the model; the first: {wrong[0]}: "
            f"{listed(beyond)}. If other values stand for the same classes here, name them in classes.csv; "
            "where they stand for none, say `ignore_label`"
        )
    return MaskClasses(settled.names, settled.by_color, tuple(sorted(known.items()))), []


def _value_of(word: str, classes: MaskClasses) -> int:
    """Return the value that a word of the option `ignore_label` says, where nothing names classes.

    Raises
    ------
    UsageError
        If it is none.
    """
    if classes.by_color and (color := color_of(word)) is not None:
        return color
    if not word.isdecimal():
        kind = "a color, as #8040ff" if classes.by_color else "a number"
        raise UsageError(f"`ignore_label` {word} is not {kind}, and no classes.csv beside these masks names classes")
    return int(word) * packed(1, 1, 1) if classes.by_color else int(word)


def _compared_sizes(columns: TargetColumns, texts: Sequence[str], known: dict[int, MaskFacts]) -> list[str]:
    """Return a note of masks of another size than their images.

    Raises
    ------
    DataError
        If proportions differ: then it is not known which pixel is where.
    """
    resized: list[int] = []
    other: list[str] = []
    for index, facts in known.items():
        shape = image_shape(columns.locations[index])
        if shape is None or shape == facts.shape:
            continue
        (height, width), (rows, cells) = shape, facts.shape
        # sides that were scaled alike and rounded differ by less than a pixel each
        if abs(rows * width - cells * height) <= max(height, width):
            resized.append(index)
        else:
            turned = ", and lies on its side" if facts.shape == (width, height) else ""
            other.append(f"{texts[index]} is {cells} x {rows} and its image {width} x {height}{turned}")
    if other:
        raise DataError(
            f"{len(other):,} of {len(known):,} masks have other proportions than their images: "
            f"{listed(other, 3, '; ')}. Each pixel of a mask says the class of the same place of its image: mend the "
            "masks, or leave these images out"
        )
    if not resized:
        return []
    return [
        f"{len(resized):,} of {len(known):,} masks are of another size than their images, in the same proportions "
        f"({listed([texts[index] for index in resized], 3)}): they are brought to the images by nearest, and scores "
        "are of the masks' own pixels"
    ]


def _notes_of_splits(classes: MaskClasses) -> Callable[[Sequence[str], Sequence[str]], list[str]]:
    """Return what says, of masks and their splits, which classes no pixel of a split is of."""

    def notes(texts: Sequence[str], splits: Sequence[str]) -> list[str]:
        facts, _ = survey_masks(texts)  # which is remembered
        said = _pixel_shares([found for found, split in zip(facts, splits, strict=True) if split == "train"], classes)
        for split in filter(set(splits).__contains__, SPLITS):
            present: set[int] = set()
            for found, of_split in zip(facts, splits, strict=True):
                if found is not None and of_split == split:
                    present |= classes_in(found, classes)
            lacking = [name for number, name in enumerate(classes.names) if number not in present]
            if lacking:
                said.append(
                    f"no {split} mask holds {listed(lacking, _NAMED)}: "
                    + (
                        "it cannot be learned"
                        if split == "train"
                        else "left out of mean IoU there, unless a prediction names it, which counts as 0"
                    )
                )
        return said

    return notes


def _pixel_shares(facts: Sequence[MaskFacts | None], classes: MaskClasses) -> list[str]:
    """Return a note of how many of the training pixels whose class is known are of each class, the most first."""
    number_of = dict(classes.numbers)
    pixels: Counter[int] = Counter()
    for found in facts:
        for value, count in ({} if found is None else values_in(found, classes)).items():
            pixels[number_of[value]] += count
    del pixels[VOID]
    if not pixels:
        return []
    shares = [f"{classes.names[number]} {100 * count / pixels.total():.2g} %" for number, count in pixels.most_common()]
    return [f"training pixels by class: {listed(shares, _SHARES)}"]


def classes_in(facts: MaskFacts, classes: MaskClasses) -> set[int]:
    """Return the numbers of the classes that a mask holds."""
    number_of = dict(classes.numbers)
    return {number_of[value] for value in values_in(facts, classes) if value in number_of}


def values_in(facts: MaskFacts, classes: MaskClasses) -> dict[int, int]:
    """Return how many pixels of a mask have which of the values that say the class: numbers, or colors."""
    if not classes.by_color or facts.are_colors:
        return facts.counts
    counts: Counter[int] = Counter()
    for value, count in facts.counts.items():
        counts[facts.palette.get(value, value * packed(1, 1, 1))] += count
    return counts
