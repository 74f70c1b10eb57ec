"""What a range test of learning rates found, for people: in words, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.report.figures import inline_svg, range_test_curves
from pipeline.report.page_parts import template, write_page
from pipeline.run_layout import LR_FIND_PAGE
from stages.training.lr_finder import LRFinderResult

_HYPHEN = "\N{NON-BREAKING HYPHEN}"


@dataclass(frozen=True)
class LRFinderReport:
    """Range tests, and what follows from them.

    Attributes
    ----------
    tests : sequence of LRFinderResult
        One of all blocks together, or one of each.
    suggestions : sequence of str
        The option that each test suggests, or why it suggests none.
    title, network : str
        The data; the network and what of it trains.
    command : str
        How to fine-tune with what is suggested; '' where nothing is.
    notes : sequence of str
        What was done to the data, in words.
    provenance : dict
        Where it comes from, as ``stages.runtime.provenance`` says it.
    """

    tests: Sequence[LRFinderResult]
    suggestions: Sequence[str]
    title: str
    network: str
    command: str
    notes: Sequence[str] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """What to take, in a sentence."""
        rates = [f"{test.suggestion:.1e}" for test in self.tests if test.suggestion is not None]
        if not rates:
            return "No learning rate is suggested: the loss never falls by more than chance."
        if len(self.tests) == 1:
            return f"Fine-tune with a learning rate of {rates[0].replace('-', _HYPHEN)}."
        return f"A learning rate is suggested for {len(rates)} of {len(self.tests)} blocks."

    @property
    def sentences(self) -> list[str]:
        """The option that each test suggests; where none suggests any, what to do."""
        return [*self.suggestions] if self.command else ["Unfreeze other layers."]

    @property
    def rows(self) -> list[tuple[str, str, str, int]]:
        """Of each test: the block, the suggested rate, that of the lowest loss, and its steps."""
        return [
            (
                test.block or "all that trains",
                "none" if test.suggestion is None else f"{test.suggestion:.1e}",
                f"{test.rates[test.lowest]:.1e}",
                len(test.rates),
            )
            for test in self.tests
        ]


def write_lr_finder(report: LRFinderReport, out_dir: Path) -> Path:
    """Write lr-find.html; return its path. The plot as a PNG file is left in the folder of the seed."""
    drawn = [Markup(inline_svg(range_test_curves([test]))) for test in report.tests]
    page = template("lr_find.html.j2").render(report=report, drawn=list(zip(report.rows, drawn, strict=True)))
    path = out_dir / LR_FIND_PAGE
    write_page(path, page)
    return path
