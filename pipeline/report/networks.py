"""Networks for people: the catalog, and those that suit some images, as tables and in words."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.atomic_write import write_atomically
from pipeline.options.command_line import invocation
from pipeline.text import duration, format_count, format_difference, format_error, format_score, percent, table
from stages.config.data import DataConfig
from stages.config.features import FeatureConfig
from stages.inspection.backbone_ranking import RankedBackbone, Suggestion
from stages.network.backbones.catalog import CatalogEntry

_UNKNOWN = "-"


def catalog_table(entries: Sequence[CatalogEntry], rates: Mapping[str, float]) -> str:
    """Return networks as a table for the terminal, with the images per second of those that were measured."""
    header = ["backbone", "weights", "license", "accuracy", "parameters", "multiply-adds", "pixels"]
    header += ["images/s"] if rates else []
    lines = [
        [
            entry.name,
            entry.weights or _UNKNOWN,
            _shortened(entry.license or _UNKNOWN),
            _accuracy(entry),
            *(
                _UNKNOWN if number is None else format_count(number)
                for number in (entry.parameters, entry.multiply_adds)
            ),
            _UNKNOWN if entry.image_size is None else str(entry.image_size),
            *([_rate(rates.get(entry.name))] if rates else []),
        ]
        for entry in entries
    ]
    return table(header, lines, left=3)


def catalog_records(entries: Sequence[CatalogEntry], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return networks as plain values, for a file."""
    records = []
    for entry in entries:
        values = asdict(entry)
        del values["counted_as"]
        records.append({**values, "images_per_second": rates.get(entry.name)})
    return records


def write_records(records: Sequence[Mapping[str, Any]], csv_path: Path | None, json_path: Path | None) -> None:
    """Write records as CSV, what is not known as an empty cell, and as JSON; each where a file is named."""
    if csv_path is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, records[0] if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        csv_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(csv_path, text.getvalue().encode())
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_path, (json.dumps(list(records), indent=1) + "\n").encode())


@dataclass(frozen=True)
class SuggestionReport:
    """Networks that were compared on some images, and how to go on.

    Attributes
    ----------
    suggestion : Suggestion
    data : DataConfig
    features : FeatureConfig
        With which they were compared, but for the backbone.
    """

    suggestion: Suggestion
    data: DataConfig
    features: FeatureConfig

    @property
    def lines(self) -> list[str]:
        """All there is to print."""
        suggestion = self.suggestion
        command = invocation(
            "run", self.data, self.features, backbone=suggestion.recommended.name, out="runs/suggested"
        )
        return ["", self.table, "", *self.verdict, "", "go on with:", f"  {command}"]

    @property
    def table(self) -> str:
        """The networks as a table for the terminal."""
        found, metric = self.suggestion, self.suggestion.metric
        header = [
            "backbone",
            metric.label,
            "behind the best",
            "LogME",
            "row",
            "images/s",
            f"{found.all_images:,} images",
        ]
        lines = []
        for entry in found.ranked:
            cost = found.costs[entry.name]
            lines.append(
                [
                    entry.name + ("  (take this)" if entry is found.recommended and len(found.ranked) > 1 else ""),
                    self._with_error(entry),
                    self._behind(entry),
                    f"{cost.evidence:.3f}",
                    str(cost.width),
                    _rate(cost.images_per_second),
                    duration(found.all_images / cost.images_per_second)
                    if math.isfinite(cost.images_per_second)
                    else _UNKNOWN,
                ]
            )
        for name in found.sieved_out:
            cost = found.costs[name]
            rest = [f"{cost.evidence:.3f}", str(cost.width), _rate(cost.images_per_second), _UNKNOWN]
            lines.append([name, "left out", "by LogME", *rest])
        return table(header, lines)

    @property
    def verdict(self) -> list[str]:
        """Which network to take and how sure that is, in sentences."""
        found, metric = self.suggestion, self.suggestion.metric
        best, recommended, tied = found.ranked[0], found.recommended, found.tied
        seen = f"{metric.label} of a ridge head on {found.images:,} images of train and validation, cross-validated"
        sentences = [f"Compared by the {seen}; the test split had no part in it."]
        if len(found.ranked) == 1:
            sentences.append(f"There is one candidate, {best.name}: name others to compare with `backbone`.")
        elif len(tied) == 1:
            sentences.append(f"Take {best.name}: each of the others is behind it by more than chance gives.")
        else:
            others = ", ".join(entry.name for entry in tied if entry is not best)
            sentences.append(
                f"{best.name} is best, and these images do not tell {others} from it (the 95 % interval of the "
                f"difference holds 0): take {recommended.name}, the quickest of them."
            )
        if len(found.ranked) > 1:
            sentences.append("The best of several looks a little better here than it is.")
        return [*sentences, *(f"not looked at: {name}: {reason}" for name, reason in found.failed.items())]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The networks as plain values, for a file."""
        found = self.suggestion
        judged = [
            {
                "name": entry.name,
                found.metric.name: entry.score,
                "standard_error": entry.standard_error,
                "behind": entry.behind.value,
                "behind_low": entry.behind.low,
                "behind_high": entry.behind.high,
                "tied": entry.is_tied,
                "recommended": entry is found.recommended,
                **_cost_record(found, entry.name),
            }
            for entry in found.ranked
        ]
        not_judged = dict.fromkeys(judged[0])
        sieved_out = [
            {**not_judged, "name": name, "recommended": False, **_cost_record(found, name)} for name in found.sieved_out
        ]
        return [*judged, *sieved_out]

    def _with_error(self, entry: RankedBackbone) -> str:
        as_percent = self.suggestion.metric.as_percent
        error = format_error(entry.standard_error, as_percent=as_percent)
        return f"{format_score(entry.score, as_percent=as_percent)} ± {error}"

    def _behind(self, entry: RankedBackbone) -> str:
        if entry is self.suggestion.ranked[0]:
            return "best"
        as_percent = self.suggestion.metric.as_percent
        value, low, high = (format_difference(end, as_percent=as_percent) for end in entry.behind)
        return f"{value} ({low} to {high}){', tied' if entry.is_tied else ''}"


def _cost_record(found: Suggestion, name: str) -> dict[str, Any]:
    cost = found.costs[name]
    rate = cost.images_per_second if math.isfinite(cost.images_per_second) else None
    return {"logme": cost.evidence, "row_width": cost.width, "images_per_second": rate}


def _accuracy(entry: CatalogEntry) -> str:
    if entry.accuracy is None:
        return _UNKNOWN
    return percent(entry.accuracy) + (f" at {entry.accuracy_image_size}" if entry.accuracy_image_size else "")


def _rate(rate: float | None) -> str:
    if rate is None or not math.isfinite(rate):
        return _UNKNOWN
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _shortened(text: str) -> str:
    """Return a license as it fits into a table: of an address its last words."""
    return text if "://" not in text else "/".join(text.rsplit("/", 5)[-5:][:2])
