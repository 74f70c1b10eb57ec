"""What a search tried, on the page of its run: quality out of folds against time, and each of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.evaluation.method_folders import files_of_methods
from pipeline.evaluation.results import Result
from pipeline.evaluation.trials import TrialRecord, read_search, read_trials
from pipeline.report.figures import ACCENT, INK, MUTED, styled
from pipeline.report.page_parts import Figures, slug, template
from pipeline.run_layout import RESULT
from pipeline.text import duration, format_score, percent
from stages.tasks.base import Metric

_FIGURE = "best-time"


def section(run: Path, drawn: Figures) -> Markup | None:
    """Return what the page of a run says of the search that trained its methods; None of a run that was not searched.

    Parameters
    ----------
    run : Path
    drawn : Figures
        Of the page that it is for, which may be of several runs.

    Raises
    ------
    DataError
        If a file of the search is damaged.
    """
    summary, trials = read_search(run), read_trials(run)
    folders = {trial.folder for trial in trials if trial.folder is not None}
    known = [path.parent for path in files_of_methods(run, RESULT) if path.parent.name in folders]
    if summary is None or not known:
        return None
    metric = Result.load(known[0]).metric
    scored = [trial for trial in trials if trial.score is not None]
    points = "; ".join(
        f"{trial.label} {format_score(trial.score, as_percent=metric.as_percent)} after {duration(trial.at)}"
        for trial in scored
        if trial.score is not None
    )
    figure = drawn.add(
        f"{_FIGURE}-{slug(run.name)}",
        quality_against_time(trials, metric),
        f"{metric.label} out of folds of each trial against the time of the search: {points}",
        "dots: trials, by their numbers; rings: on the validation split; line: the answer at that time",
    )
    page = template("best.html.j2").render(
        words=summary.words,
        figure=figure,
        trials=[trial for trial in trials if trial.number],
        chosen=summary.chosen.get("folder"),
        metric=metric,
        score=lambda value: format_score(value, as_percent=metric.as_percent),
    )
    return Markup(page)


def quality_against_time(trials: Sequence[TrialRecord], metric: Metric) -> Figure:
    """Draw the score of each trial at the time when it ended, by its number, and of the answer as it was renewed.

    Parameters
    ----------
    trials : sequence of TrialRecord
        At least one with a score.
    metric : Metric
    """
    ended = sorted(trials, key=lambda trial: trial.at)
    scored = [(trial, trial.score) for trial in ended if trial.score is not None]
    answers = [(trial.at, trial.answer) for trial, _ in scored if trial.answer is not None]
    with styled():
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        if answers:
            last = scored[-1][0].at
            ends = [*answers, (max(last, answers[-1][0]), answers[-1][1])]
            for (at, score), (until, _) in pairwise(ends):
                axes.plot([at, until], [score, score], "-", color=ACCENT, linewidth=1.6)
            for (_, before), (at, score) in pairwise(answers):
                axes.plot([at, at], [before, score], "-", color=ACCENT, linewidth=1.6)
        for trial, score in scored:
            filled = trial.scored == "folds"
            face = INK if filled else "none"
            axes.plot(trial.at, score, "o", color=INK, markersize=4.5, markerfacecolor=face, zorder=3)
            axes.annotate(
                str(trial.number),
                (trial.at, score),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                color=MUTED,
                fontsize=7,
            )
        axes.margins(x=0.04, y=0.15)
        if metric.as_percent:
            axes.yaxis.set_major_formatter(lambda value, _: percent(value))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(lambda value, _: duration(value) if value >= 60 else f"{max(value, 0.0):g} s")
        axes.set_xlabel("time of the search")
        axes.set_title(f"{metric.label} out of folds", loc="left", fontsize=9, color=MUTED)
    return figure
