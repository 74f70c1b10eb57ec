"""What an inspection found, for people: in words, as CSV, and as a page with the images side by side.

What counts as a finding is decided in ``stages.inspection``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.atomic_write import atomic_path
from pipeline.report.inspected_masks import mask_section
from pipeline.report.page_parts import template, thumbnail, write_page
from pipeline.run_layout import INSPECTION_PAGE
from pipeline.text import format_score, percent, table
from stages.config.data import SPLITS
from stages.data.manifest import Manifest
from stages.data.pixel_quality import DARK, FEW_BITS, LIGHT, LOW_INFORMATION, PoorImage
from stages.inspection.class_balance import Balance
from stages.inspection.inspect import Inspection
from stages.inspection.near_duplicates import CONTRAST_FACTOR, REFERENCE_NEIGHBOR, RELAXED_FACTOR, NearDuplicate
from stages.inspection.outliers import NEIGHBOUR
from stages.tasks.base import find_metric

TABLE = "issues.csv"

SHOWN = 24
"""Findings of each kind that stand on the page; the table has all."""

WORST = 3
"""Findings of each kind that are printed."""

TITLES = {
    "leakage": "Near-duplicates across splits",
    "label": "Likely label errors",
    "mask": "Masks that disagree with a model",
    "duplicate": "Near-duplicates within a split",
    "outlier": "Outliers",
    "pixels": "Dark, light and nearly empty images",
}
"""The kinds, in the order in which they are told."""


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes
    ----------
    kind : str
        'leakage', 'label', 'mask', 'duplicate', 'outlier' or 'pixels'.
    path, key, label, split : str
        The sample; the label is its target in words, of a mask the file's name.
    suggestion : str
        The class, label or number that fits better; of 'pixels' what is wrong with them; '' where the kind knows none.
    score : float
        Of a label error the probability of the given label, of a number how many times the usual error it is off, of a
        mask the share of its pixels that a model is sure are of another class, of
        near-duplicates their cosine, of an outlier how many times further it is from its neighbours than the median of
        its class, of 'pixels' brightness or entropy.
    other_path, other_label, other_split : str
        What a near-duplicate is one of; '' elsewhere.
    """

    kind: str
    path: str
    key: str
    label: str
    split: str
    suggestion: str
    score: float
    other_path: str = ""
    other_label: str = ""
    other_split: str = ""

    @property
    def doubt(self) -> str:
        """How much a label error is doubted: probabilities are below 1, and numbers that are doubted far off."""
        if self.score > 1:
            return f"it is {self.score:.1f} times as far off as is usual"
        return f"its label has a probability of {self.score:.3f}"

    @property
    def words(self) -> str:
        """The finding in a line."""
        location = f"{self.path} ({self.label}, {self.split})"
        if self.kind == "label":
            return f"{location}: rather {self.suggestion}; {self.doubt}"
        if self.kind == "mask":
            return f"{self.path} ({self.split}): {self.suggestion}, {percent(self.score)} of the pixels"
        if self.kind == "outlier":
            return f"{location}: {self.score:.1f} times as far from its neighbours as is usual"
        if self.kind == "pixels":
            measured = "bits of entropy" if self.suggestion == LOW_INFORMATION else "of full brightness"
            return f"{location}: {self.suggestion}, {self.score:.2f} {measured}"
        return f"{location} = {self.other_path} ({self.other_label}, {self.other_split}): cosine {self.score:.3f}"


@dataclass(frozen=True)
class InspectionReport:
    """What was found in which samples.

    Attributes
    ----------
    manifest : Manifest
        The samples that were inspected.
    inspection : Inspection
    balance : Balance or None
        None where samples have neither classes nor labels.
    threshold : float
        Cosine from which on two images are near-duplicates.
    title, backbone : str
        The data, and what made the features.
    notes : list of str
        What was done to the data, in words.
    options : mapping
        How the images are read, by the names of the options.
    poor_images : sequence of PoorImage
        Samples whose pixels hold little.
    """

    manifest: Manifest
    inspection: Inspection
    balance: Balance | None
    threshold: float
    title: str
    backbone: str
    notes: list[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    poor_images: Sequence[PoorImage] = ()

    @property
    def findings(self) -> dict[str, list[Finding]]:
        """Every finding by kind, the worst first."""
        inspection = self.inspection
        errors, outliers, masks = inspection.label_errors, inspection.outliers, inspection.mask_errors
        doubted = zip(masks.doubted.tolist(), masks.words, strict=True) if masks is not None else ()
        found_errors = zip(errors.indices, errors.suggested, errors.scores, strict=True) if errors is not None else ()
        return {
            "leakage": [self._copy("leakage", copy) for copy in inspection.leakage],
            "label": [
                self._finding("label", int(index), float(score), suggested) for index, suggested, score in found_errors
            ],
            "mask": [
                self._finding("mask", place, float(masks.disagreement[place]), words)
                for place, words in doubted
                if masks is not None
            ],
            "duplicate": [self._copy("duplicate", copy) for copy in inspection.duplicates],
            "outlier": [
                self._finding("outlier", int(index), float(score))
                for index, score in zip(outliers.indices, outliers.scores, strict=True)
            ],
            "pixels": [self._finding("pixels", poor.index, poor.score, poor.reason) for poor in self.poor_images],
        }

    @property
    def headline(self) -> str:
        """What to look at first."""
        inspection = self.inspection
        leaked, errors = len(inspection.leakage), len(inspection.label_errors or ())
        parts = []
        if leaked:
            parts.append(
                f"{_images(leaked)} {'show' if leaked > 1 else 'shows'} what is in another split too: take them out "
                "before you believe a test"
            )
        if errors:
            noun = "label" if self.balance else "number"
            images = len(set(inspection.label_errors.indices.tolist())) if inspection.label_errors else 0
            parts.append(f"the {noun}s of {_images(images)} are doubtful" if errors > 1 else f"one {noun} is doubtful")
        if inspection.mask_errors is not None and (masks := len(inspection.mask_errors.doubted)):
            parts.append(f"{masks:,} masks disagree with a model" if masks > 1 else "one mask disagrees with a model")
        if repeated := len(inspection.duplicates):
            parts.append(f"{_images(repeated)} {'repeat' if repeated > 1 else 'repeats'} another one of the same split")
        if num_outliers := inspection.outliers.outside:
            parts.append(f"{_images(num_outliers)} {'are' if num_outliers > 1 else 'is'} unlike all others")
        if self.poor_images:
            parts.append(
                f"{_images(len(self.poor_images))} {'are' if len(self.poor_images) > 1 else 'is'} nearly empty"
            )
        if not parts:
            no_error = "no likely label error, " if inspection.label_errors is not None else ""
            return f"Nothing was found: {no_error}no near-duplicate, no outlier."
        sentence = "; ".join(parts)
        return f"{sentence[0].upper()}{sentence[1:]}."

    @property
    def lines(self) -> list[str]:
        """The summary for the terminal: the counts, and the worst of each kind."""
        lines = [self.headline]
        for kind, findings in self.findings.items():
            if kind == "label" and self.inspection.label_errors is None:
                continue
            if kind == "mask" and self.inspection.mask_errors is None:
                continue
            lines += ["", f"{TITLES[kind]}: {self.counts[kind]:,}{self._cautions.get(kind, '') if findings else ''}"]
            lines += [f"  {finding.words}" for finding in findings[:WORST]]
        if self.balance is None:
            return lines
        counts = self.balance.counts
        rows = [
            [name, *(f"{number:,}" for number in row)]
            for name, row in zip(self.manifest.class_names, counts.T.tolist(), strict=True)
        ]
        if len(rows) > 12:  # the ends say what there is to say
            rows = [*rows[:6], ["...", *("" for _ in SPLITS)], *rows[-6:]]
        return [*lines, "", table([self.balance.kind, *SPLITS], rows), "", *self.balance.words]

    @property
    def counts(self) -> dict[str, int]:
        """Findings of each kind; of the outliers that are listed those that lie outside."""
        num_outliers = self.inspection.outliers.outside
        return {kind: len(findings_of_kind) for kind, findings_of_kind in self.findings.items()} | {
            "outlier": num_outliers
        }

    @property
    def doubter(self) -> str:
        """What doubts labels, with how good it is."""
        metric = find_metric(self.manifest.task)
        if metric.name == "accuracy":
            return f"a classifier that is right for {percent(self.inspection.score)} of all"
        return f"a model whose {metric.label} is {format_score(self.inspection.score, as_percent=metric.as_percent)}"

    @cached_property
    def _texts(self) -> list[str]:
        return self.manifest.target_texts

    @property
    def _cautions(self) -> dict[str, str]:
        is_filled_up = self.inspection.outliers.outside < WORST
        masks = self.inspection.mask_errors
        return {
            "mask": "" if masks is None else f" (whose mIoU on masks it had not seen is {percent(masks.score)})",
            "label": f" (doubted by {self.doubter}: look before you change them)",
            "outlier": " outside Tukey's fence; the furthest are" if is_filled_up else "",
        }

    def _finding(self, kind: str, index: int, score: float, suggestion: str = "") -> Finding:
        manifest = self.manifest
        label = self._texts[index]
        if manifest.task.reads == "image":  # where a mask is says little, and takes a line
            label = Path(label).name
        return Finding(
            kind, manifest.locations[index], manifest.keys[index], label, manifest.splits[index], suggestion, score
        )

    def _copy(self, kind: str, copy: NearDuplicate) -> Finding:
        image, other_image = (self._finding(kind, index, copy.cosine) for index in (copy.index, copy.other_index))
        return Finding(
            kind,
            image.path,
            image.key,
            image.label,
            image.split,
            "",
            image.score,
            other_image.path,
            other_image.label,
            other_image.split,
        )


def write_inspection(report: InspectionReport, out_dir: Path) -> Path:
    """Write inspect.html and issues.csv; return the path of the page."""
    out_dir.mkdir(parents=True, exist_ok=True)
    findings = report.findings
    with (
        atomic_path(out_dir / TABLE) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Finding)])
        writer.writerows(
            [f"{value:.6f}" if isinstance(value, float) else value for value in astuple(finding)]
            for findings_of_kind in findings.values()
            for finding in findings_of_kind
        )
    page = template("inspection.html.j2").render(
        report=report,
        findings=findings,
        shown={
            kind: _with_thumbnails(findings_of_kind[:SHOWN], report.options)
            for kind, findings_of_kind in findings.items()
            if kind != "mask"
        },
        masks=mask_section(report.inspection.mask_errors, report.manifest, report.options, TABLE),
        titles=TITLES,
        splits=SPLITS,
        table=TABLE,
        around=REFERENCE_NEIGHBOR,
        neighbour=NEIGHBOUR,
        limits=(DARK, LIGHT, FEW_BITS),
        looser=report.threshold - (RELAXED_FACTOR - 1) * (1 - report.threshold),
        nearer=CONTRAST_FACTOR,
    )
    path = out_dir / INSPECTION_PAGE
    write_page(path, page)
    return path


def _with_thumbnails(
    findings: Sequence[Finding], options: Mapping[str, Any]
) -> list[tuple[Finding, str | None, str | None]]:
    """Return findings with the image, and with the other one of near-duplicates, as data URIs."""
    return [
        (
            finding,
            thumbnail(finding.path, options),
            thumbnail(finding.other_path, options) if finding.other_path else None,
        )
        for finding in findings
    ]


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count > 1 else ''}"
