"""docs/notebook.md, cell by cell, as it stands."""

import re
from pathlib import Path

NOTEBOOK = Path(__file__).parents[3] / "docs" / "notebook.md"


def test_every_cell_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    cells = re.findall(r"^```python\n(.*?)^```$", NOTEBOOK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(cells) > 5
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells, 1):
        exec(compile(cell, f"cell {number} of {NOTEBOOK.name}", "exec"), names)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
