from pipeline.evaluation.comparison import compare_runs
from pipeline.evaluation.one_line import one_line
from pipeline.report.markdown import write_markdown
from tests.pipeline.finished_runs import add, predictions
from tests.pipeline.report.pages import three_methods


def test_verdict_table_and_notes_are_there(tmp_path):
    comparison = compare_runs([three_methods(tmp_path)])
    lines = write_markdown(tmp_path, comparison, ["split 75 / 25"]).read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {one_line(comparison)}"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 3
    assert len({line.count("|") for line in table}) == 1
    labels = [line.split("|")[1].strip() for line in table[2:]]
    assert [label.removesuffix(" (to take)") for label in labels] == [row.label for row in comparison.ranked]
    assert sum("(to take)" in label for label in labels) == 1
    assert all(f"{100 * row.score:.1f} %" in line for row, line in zip(comparison.ranked, table[2:], strict=True))
    assert "- split 75 / 25" in lines


def test_names_are_neither_markdown_nor_html(tmp_path):
    for name in ("a|b", "<img src=x>"):
        add(tmp_path, predictions([0, 1] * 10, [1] + [0] * 19), name=name)
    text = write_markdown(tmp_path, compare_runs([tmp_path]), ["<script>", "# loud"]).read_text(encoding="utf-8")
    table = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "<img" not in text.replace("\\<", "")
    assert "- \\<script\\>" in text
    assert "- \\# loud" in text
