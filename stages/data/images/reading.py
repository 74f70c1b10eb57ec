"""How image files are read: what makes another cached feature, beside the file itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cache.errors import UsageError
from stages.config.features import FeatureConfig
from stages.config.pixel_values import ALL, FULL, IntensityRange, parse_channels, parse_intensity_range, parse_page

GPU_DECODER = "nvjpeg"
"""What a decoder's name has in it where a GPU's library decodes."""

VERSION = 2
"""Of what turns bytes into pixels. Which rows of version 1 may be taken over, `is_read_as_in_version_1` says."""


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes
    ----------
    intensity : IntensityRange
        What is black and white in images of more than 8 bits a channel; resolved. Others are never touched by it.
    channels : tuple of int
        Numbers, from 0, of the channels that are taken, in that order; a single one becomes all three of RGB. None:
        RGB as a viewer shows it.
    page : str or int
        Of files with several pages or frames: 'first', 'middle', 'max' (the brightest of all pages, pixel by pixel),
        or a number from 0 on.
    shorter_side : int or None
        To how many pixels the shorter side will be resized. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size
        (fewer coefficients of each block are transformed back), the smallest that leaves the shorter side at least
        twice as long as that, so that the resize still has pixels to average. Every other image, and by default each,
        is decoded in full.
    nvjpeg : bool
        Whether a GPU decodes the JPEGs that it can: those of :func:`~stages.data.images.jpeg_structure.whole_jpegs`.
        Where chrominance has fewer pixels than luminance, other ones are put between them than by a CPU, so this is
        part of the spec.
    """

    intensity: IntensityRange = FULL
    channels: tuple[int, ...] = ()
    page: str | int = "first"
    shorter_side: int | None = None
    nvjpeg: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether all but `shorter_side` and `nvjpeg` is as by default."""
        return self.intensity == FULL and not self.channels and self.page == "first"

    @property
    def suits_gpu(self) -> bool:
        """Whether a JPEG is read in this way by a decoder that gives all of it in color."""
        return not self.channels and self.page == "first"

    @property
    def decoder(self) -> str:
        """Name and version of what turns bytes into pixels, with what differs from the default.

        Part of the spec of every cached feature. Which libraries decode on a CPU is not in it: their pixels are equal.
        """
        name = f"pixels{self._reduced}{f'+{GPU_DECODER}' if self.nvjpeg else ''}/{VERSION}"
        channels = ",".join(map(str, self.channels))
        settings = {"intensity": self.intensity, "channels": channels, "page": self.page}
        usual = {"intensity": FULL, "channels": "", "page": "first"}
        return " ".join([name, *(f"{key}={value}" for key, value in settings.items() if value != usual[key])])

    @property
    def decoder_of_version_1(self) -> str | None:
        """What version 1 called the same, None where it could not read so."""
        return f"torchvision+pillow{self._reduced}/1" if self.is_plain and not self.nvjpeg else None

    @property
    def _reduced(self) -> str:
        return "" if self.shorter_side is None else "+reduced"


PLAIN = Reading()
"""As a photograph viewer shows the first page."""


def reading_of(options: FeatureConfig, shorter_side: int | None = None) -> Reading:
    """Return how files are read with these options.

    Parameters
    ----------
    options : FeatureConfig
        Its `intensity_range` and `channels` resolved.
    shorter_side : int, optional
        To how many pixels images will be resized, where `options` may have them decoded at a reduced scale.

    Raises
    ------
    UsageError
        If they are not resolved: read in another way than was asked for would be read silently.
    """
    require_resolved(options)
    return replace(reading_from(vars(options)), shorter_side=shorter_side if options.decoding == "reduced" else None)


def reading_from(options: Mapping[str, Any]) -> Reading:
    """Return how files are read, in full, by the names of the options; those that are missing are as by default."""
    return Reading(
        parse_intensity_range(options.get("intensity_range", FeatureConfig.intensity_range)),
        parse_channels(options.get("channels", FeatureConfig.channels)),
        parse_page(options.get("page", FeatureConfig.page)),
    )


PAGES_LEFT = "pages left"
STRETCHED = "stretched"
CLIPPED = "clipped"
FEW_LEVELS = "few levels"
DEEP = "deep"
CROPPED = "cropped"
"""What is remarked of an image while it is decoded and rendered, for `remarks_in_words`."""

SEEN_WARNED = 0.6
"""An image of which the network sees less of the area than this is remarked; of one of 3 : 4 that is 0.57."""

LEVELS_WARNED = 32
"""An image of more than 8 bits with fewer of the 256 levels than this has lost most of what it held."""


def needs_survey(options: FeatureConfig) -> bool:
    """Return whether options of reading can be known only from the images of a data set."""
    return options.channels == ALL or not parse_intensity_range(options.intensity_range).is_resolved


def require_resolved(options: FeatureConfig) -> None:
    """Refuse options of reading that only the images of a data set tell, and that nobody has looked at them for.

    Raises
    ------
    UsageError
        That names the option, and what to give in its place.
    """
    if not parse_intensity_range(options.intensity_range).is_resolved:
        raise UsageError(
            f"`intensity_range` {options.intensity_range} is looked for in the images of a data set, which the "
            "commands do and say what they found: give that, as bits:12 or LOW,HIGH"
        )
    if options.channels == ALL:
        raise UsageError(
            f"`channels` {ALL} are looked for in the images of a data set, which the commands do: give their numbers, "
            "as 0,1,2,3,4"
        )


def remarks_in_words(remarks: Mapping[str, int], reading: Reading) -> list[str]:
    """Return what there is to say of the images of a data set, of which so many had each remark."""
    count = Counter(remarks)
    lines = []
    if count[PAGES_LEFT]:
        words = {
            "first": "the first was taken",
            "middle": "the middle one was taken",
            "max": "the brightest value of all was taken, pixel by pixel",
        }
        taken = words.get(str(reading.page), f"page {reading.page} was taken")
        lines.append(f"{_counted(count[PAGES_LEFT], 'file')} of several pages or frames: {taken} (`page` chooses)")
    if count[STRETCHED]:
        images = _counted(count[STRETCHED], "image")
        lines.append(
            f"{images} of floats, 32 bits or numbers below zero, for which no file says what is white: each runs from "
            "its own darkest to its own brightest value; `intensity_range` LOW,HIGH gives all of them one range"
        )
    if count[CLIPPED]:
        lines.append(
            f"{_counted(count[CLIPPED], 'image')} with values outside `intensity_range` {reading.intensity}: "
            "clipped to it"
        )
    if count[FEW_LEVELS]:
        lines.append(
            f"{count[FEW_LEVELS]:,} of {count[DEEP]:,} images with more than 8 bits use fewer than {LEVELS_WARNED} of "
            "256 levels: their values fill a small part of the range that their files can hold. `intensity_range` auto "
            "looks at the images for the range that they use"
        )
    if count[CROPPED]:
        lines.append(
            f"{_counted(count[CROPPED], 'image')} of which the network sees the middle, less than {SEEN_WARNED:.0%} of "
            "the area: `crop_mode` squash or border shows it what lies at the border too"
        )
    return lines


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"
