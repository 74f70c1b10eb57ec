"""When the cache has paid, drawn: the two times of a run are told beside their dots, and neither covers the other."""

from types import SimpleNamespace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.report.cost_figures import break_even_figure


@pytest.mark.parametrize(("fill", "per_pass", "passes"), [(128.0, 128.0, 14), (128.0, 126.0, 2), (5.0, 90.0, 800)])
def test_the_two_times_of_a_run_do_not_cover_each_other_nor_leave_the_figure(fill, per_pass, passes):
    paid = SimpleNamespace(
        fill_seconds=fill,
        pass_seconds=per_pass,
        passes=passes,
        paid_after=2,
        without_cache=lambda count: count * per_pass + 30_000,
        with_cache=lambda count: fill + count * 0.97 * per_pass + 29_000,
    )
    figure = break_even_figure(paid)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    first, second = (text.get_window_extent(canvas.get_renderer()) for text in axes.texts)
    assert not first.overlaps(second)
    for box in (first, second):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
