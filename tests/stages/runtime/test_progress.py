import threading

from stages.runtime.progress import progress, progress_bars


def test_no_bar_is_drawn_unless_somebody_asks_for_it(capfd):
    assert progress(range(3), label="count").disable
    with progress_bars():
        assert not progress(range(3), label="count").disable
        with progress_bars(False):
            assert progress(range(3), label="count").disable
        assert not progress(range(3), label="count").disable
    assert progress(range(3), label="count").disable


def test_one_thread_asks_for_itself_alone():
    seen = []
    with progress_bars():
        thread = threading.Thread(target=lambda: seen.append(progress(label="other").disable))
        thread.start()
        thread.join()
    assert seen == [True]
