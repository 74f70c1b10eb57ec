"""Which classes masks hold, by a survey of all of them, by names that stand beside them, and by what the user says.

What is plain is taken and said; what could be read in two ways, or cannot be a mask, is refused with the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cache.errors import DataError, UsageError, listed, suggestion
from stages.data.masks.class_table import ClassTable, color_of
from stages.data.masks.mask_classes import MaskClasses
from stages.data.masks.stored import MaskFacts, color_name, packed
from stages.tasks.dense import VOID

BINARY = ("background", "foreground")
"""What 0 and 255 are called where nobody names them."""

_NAMED = 5
"""Most values or files that a message names."""

_MANY = 8
"""Different values from which on some may be smeared: fewer are what somebody chose."""

_RARE = 0.99
"""Share of the pixels that the true values of smeared masks hold at least."""

_FEW = 0.05
"""Share of the pixels up to which many colors that nobody names are smoothed edges."""

_MOST_COLORS = 64
"""Different colors up to which each is taken for a class where nobody names any."""


@dataclass(frozen=True)
class SurveyedMasks:
    """Masks and what they hold.

    Attributes
    ----------
    locations : list of str
    facts : list of MaskFacts
    """

    locations: list[str]
    facts: list[MaskFacts]

    def where(self, chosen: Callable[[MaskFacts], bool]) -> str:
        """Return in words how many masks these are, and the first of them."""
        held = [location for location, facts in zip(self.locations, self.facts, strict=True) if chosen(facts)]
        return f"{len(held):,} of {len(self.facts):,} masks, the first {held[0]}"


def find_classes(
    masks: SurveyedMasks, table: ClassTable | None, ignored: Sequence[str] = (), *, fewest: int = 2
) -> tuple[MaskClasses, list[str]]:
    """Return which classes the values of masks stand for, and in words how that was found.

    Parameters
    ----------
    masks : SurveyedMasks
        At least one.
    table : ClassTable or None
        What is said of the classes beside the masks.
    ignored : sequence of str
        What stands for no class besides 255 and names like void: numbers, colors or names of classes.
    fewest : int
        How many classes have to occur: two, where something is to be learned of them.

    Raises
    ------
    DataError
        If masks are smeared, hold what is no class, or less than two classes; names files and values.
    UsageError
        If `ignored` names nothing that there is.
    """
    _refuse_lossy(masks)
    read = _by_color if _are_by_color(masks, table) else _by_number
    classes, notes = read(masks, table, ignored)
    _require_several(masks, classes, fewest)
    return classes, notes


def _refuse_lossy(masks: SurveyedMasks) -> None:
    if lossy := [facts for facts in masks.facts if facts.is_lossy]:
        kind = "colors" if lossy[0].are_colors else "values"
        raise DataError(
            f"masks are saved as JPEG, which smears the numbers of classes ({len(lossy[0].counts):,} different {kind} "
            f"in the first): {masks.where(lambda facts: facts.is_lossy)}. Save them as PNG, from what the JPEG files "
            "were made of"
        )


def _are_by_color(masks: SurveyedMasks, table: ClassTable | None) -> bool:
    """Return whether colors say the class of a pixel, and not numbers."""
    if any(facts.are_colors for facts in masks.facts):
        return True
    if table is not None and table.colors:
        known = set(table.colors)
        if all(known.issuperset(_colors(facts)) for facts in masks.facts):
            return True
    color_of_index: dict[int, int] = {}
    return any(
        color_of_index.setdefault(index, color) != color
        for facts in masks.facts
        for index, color in facts.palette.items()
    )


def _colors(facts: MaskFacts) -> dict[int, int]:
    """Return how many pixels of a mask have which color."""
    if facts.are_colors:
        return facts.counts
    return {facts.palette.get(value, value * packed(1, 1, 1)): count for value, count in facts.counts.items()}


def _by_color(masks: SurveyedMasks, table: ClassTable | None, ignored: Sequence[str]) -> tuple[MaskClasses, list[str]]:
    totals: Counter[int] = Counter()
    for facts in masks.facts:
        totals.update(_colors(facts))
    notes = []
    if not all(facts.are_colors for facts in masks.facts) and any(facts.palette for facts in masks.facts):
        notes.append(
            "masks with palettes are read by their colors: one number has several colors, or some are in color"
        )
    if table is None or not table.colors:
        if len(totals) > _MOST_COLORS:
            raise _smeared(masks, totals, len(totals))
        if table is not None:
            raise DataError(
                f"masks hold colors ({listed([color_name(color) for color in sorted(totals)], _NAMED)}), and "
                f"{table.origin} does not say which color is of which class: write classes.csv with the columns name, "
                "r, g and b"
            )
        void = {_ignored_color(word, totals, None) for word in ignored}
        kept = [color for color in sorted(totals) if color not in void]
        notes.append(
            f"masks hold {len(kept)} colors, each taken for a class and called by it; classes.csv with the columns "
            "name, r, g and b beside the folders of images gives them names and their order"
        )
        names = tuple(map(color_name, kept))
        return _checked(masks, names, kept, sorted(void), by_color=True, notes=notes)
    void = {table.colors[place] for place in table.void} | {_ignored_color(word, totals, table) for word in ignored}
    unknown = {color: count for color, count in totals.items() if color not in table.colors and color not in void}
    if unknown:
        share = sum(unknown.values()) / totals.total()
        if len(unknown) >= _MANY and share < _FEW:
            raise _smeared(masks, totals, len(unknown), table)
        shown = listed([f"{color_name(color)} ({100 * count / totals.total():.2g} % of pixels)" for color, count in
                        sorted(unknown.items(), key=lambda item: -item[1])], _NAMED)  # fmt: skip
        raise DataError(
            f"masks hold colors that {table.origin} does not name: {shown}, in "
            f"{masks.where(lambda facts: not unknown.keys().isdisjoint(_colors(facts)))}. Add them there, or say with "
            "`ignore_label` that they stand for no class, as "
            f"{color_name(max(unknown, key=lambda color: unknown[color]))}"
        )
    pairs = [(name, color) for name, color in zip(table.names, table.colors, strict=True) if color not in void]
    names, kept = tuple(name for name, _ in pairs), [color for _, color in pairs]
    classes, notes = _checked(
        masks, names, kept, sorted(void), by_color=True, notes=[*notes, *_table_notes(table, void)]
    )
    return replace(classes, left_out=_others(table, names)), notes


def _ignored_color(word: str, totals: Counter[int], table: ClassTable | None) -> int:
    if table is not None and word in table.names:
        return table.colors[table.names.index(word)]
    if (color := color_of(word)) is not None:
        return color
    if word.isdecimal() and int(word) < 256:
        return int(word) * packed(1, 1, 1)
    known = table.names if table is not None else [color_name(color) for color in sorted(totals)]
    raise UsageError(
        f"`ignore_label` {word} is neither a class nor a color, as #8040ff, of these masks.{suggestion(word, known)}"
    )


def _by_number(masks: SurveyedMasks, table: ClassTable | None, ignored: Sequence[str]) -> tuple[MaskClasses, list[str]]:
    totals: Counter[int] = Counter()
    for facts in masks.facts:
        totals.update(facts.counts)
    named = table.names if table is not None else ()
    value_of = dict(zip(named, table.values, strict=True)) if table is not None and table.values else {}
    void = {VOID, *(table.void_values if table is not None else ())}
    for word in ignored:
        if word.isdecimal():
            void.add(int(word))
        elif word not in named:
            raise UsageError(f"`ignore_label` {word} is neither a number nor a class.{suggestion(word, named)}")
    values = sorted(set(totals) - void)
    if values == [0] and VOID in totals and str(VOID) not in ignored:
        names = named if len(named) == 2 else BINARY
        notes = [f"masks hold 0 and {VOID}, which are two classes: {' and '.join(names)}"]
        return _checked(masks, names, [0, VOID], sorted(void - {VOID}), by_color=False, notes=notes)
    if table is None:
        _refuse_smeared_numbers(masks, totals, values)
        notes = [] if values == list(range(len(values))) else [
            f"the numbers in masks are not 0, 1, 2, ...: {listed(list(map(str, values)), 20)} are the classes, in "
            "this order"
        ]  # fmt: skip
        return _checked(masks, tuple(map(str, values)), values, sorted(void), by_color=False, notes=notes)
    places = dict(zip(named, table.values or _numbers_of_names(masks, table, values, void), strict=True))
    ignored_names = {word for word in ignored if word in named} | {named[place] for place in table.void}
    void |= {places[name] for name in ignored_names}
    kept = {name: value for name, value in places.items() if name not in ignored_names and value not in void}
    if beyond := sorted(set(values) - set(places.values()) - void):
        raise _beyond(masks, table, beyond, len(value_of) > 0)
    notes = _table_notes(table, void)
    classes, notes = _checked(masks, tuple(kept), list(kept.values()), sorted(void), by_color=False, notes=notes)
    return replace(classes, left_out=_others(table, classes.names)), notes


def _others(table: ClassTable, names: Sequence[str]) -> tuple[str, ...]:
    """Return what a table names besides these classes."""
    return tuple(name for name in table.names if name not in names)


def _numbers_of_names(
    masks: SurveyedMasks, table: ClassTable, values: Sequence[int], void: set[int]
) -> tuple[int, ...]:
    """Return the numbers that names in a mere order have: from 0 on, or from 1 where 0 is no class.

    Raises
    ------
    DataError
        If masks hold more.
    """
    count = len(table.names)
    if not values or values[-1] < count:
        return tuple(range(count))
    if values[0] >= 1 and values[-1] == count:
        return tuple(range(1, count + 1))
    raise _beyond(masks, table, [value for value in values if value >= count], has_values=False)


def _beyond(masks: SurveyedMasks, table: ClassTable, beyond: Sequence[int], has_values: bool) -> DataError:
    shown = listed(list(map(str, beyond)), _NAMED)
    how = "" if has_values else f" numbers them from 0 to {len(table.names) - 1}, and"
    return DataError(
        f"{table.origin} names {len(table.names)} classes,{how or ' and'} masks hold {shown} besides, in "
        f"{masks.where(lambda facts: not facts.counts.keys().isdisjoint(beyond))}. Name these classes, or, where they "
        f"stand for no class, say `ignore_label` {','.join(map(str, beyond[:_NAMED]))}"
    )


def _refuse_smeared_numbers(masks: SurveyedMasks, totals: Counter[int], values: Sequence[int]) -> None:
    """Refuse numbers that are greys between few true ones: many, far apart, and nearly all of them rare."""
    if len(values) < _MANY or values[-1] < 2 * len(values):
        return
    total, held = totals.total(), 0
    for place, (_, count) in enumerate(totals.most_common(), 1):
        held += count
        if held >= _RARE * total:
            if 2 * place <= len(totals):
                raise _smeared(masks, totals, len(totals) - place)
            break
    if len(values) >= VOID:
        raise _smeared(masks, totals, len(values))


def _smeared(masks: SurveyedMasks, totals: Counter[int], count: int, table: ClassTable | None = None) -> DataError:
    kind = "colors" if any(facts.are_colors for facts in masks.facts) else "values"
    known = set(table.colors) if table is not None else set()
    leading = {value for value, _ in totals.most_common(2)} | known

    def is_smeared(facts: MaskFacts) -> bool:
        return not leading.issuperset(_colors(facts) if known else facts.counts)

    return DataError(
        f"masks hold {len(totals):,} different {kind}, {count:,} of them on few pixels: their edges are smoothed, or "
        f"they were resized or compressed with other than nearest ({masks.where(is_smeared)}). Export them without "
        "anti-aliasing, as PNG"
        + ("" if table is not None else "; if all are classes, name them in classes.txt, a line each")
    )


def _table_notes(table: ClassTable, void: set[int]) -> list[str]:
    unknown = [name for place, name in enumerate(table.names) if place in table.void]
    return [f"{table.origin} names {len(table.names)} classes"] + (
        [f"{listed(unknown)} stands for no class: such pixels count neither in training nor in scores"]
        * bool(unknown and void)
    )


def _checked(
    masks: SurveyedMasks,
    names: tuple[str, ...],
    stored: Sequence[int],
    void: Sequence[int],
    *,
    by_color: bool,
    notes: list[str],
) -> tuple[MaskClasses, list[str]]:
    """Return the classes, and notes of what no pixel says."""
    if len(names) > VOID:
        raise DataError(f"masks hold {len(names):,} classes; at most {VOID} are told apart")
    held = _held(masks, by_color=by_color)
    numbers = [(value, number) for number, value in enumerate(stored)] + [
        (value, VOID) for value in void if value not in stored
    ]
    if any(held[value] for value in void):
        share = sum(held[value] for value in void) / held.total()
        notes = [*notes, f"{100 * share:.2g} % of the pixels are of no known class, and do not count"]
    return MaskClasses(names, by_color, tuple(sorted(numbers))), notes


def _held(masks: SurveyedMasks, *, by_color: bool) -> Counter[int]:
    """Return how many pixels of all masks have which value."""
    held: Counter[int] = Counter()
    for facts in masks.facts:
        held.update(_colors(facts) if by_color else facts.counts)
    return held


def _require_several(masks: SurveyedMasks, classes: MaskClasses, fewest: int) -> None:
    held = _held(masks, by_color=classes.by_color)
    numbers = {number for value, number in classes.numbers if held[value] and number != VOID}
    if len(numbers) >= fewest:
        return
    present = [classes.names[number] for number in numbers]
    what = f"{present[0]!r} alone" if present else "no class at all, only what stands for none"
    raise DataError(
        f"all {len(masks.facts):,} masks hold {what}; at least two classes are needed. If some values stand for a "
        "class and are taken for none, see `ignore_label`"
    )
