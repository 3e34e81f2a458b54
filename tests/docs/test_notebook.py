"""The notebook runs from top to bottom, and is kept without what it printed."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "docs/tutorials/first_steps.ipynb"


def outputs_of(notebook: nbformat.NotebookNode, kind: str) -> list[nbformat.NotebookNode]:
    """The outputs of all cells that have this MIME type, or `text` for what was printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "text":
        return [each for each in outputs if each.output_type == "stream" and each.name == "stdout"]
    return [each for each in outputs if kind in each.get("data", {})]


@pytest.mark.compiled
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in a kernel of this Python and an empty folder: pictures, and three policies compared."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures are outputs of their cells
    monkeypatch.setenv("SERVEGYM_DATA", str(tmp_path / "no data"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert len(outputs_of(notebook, "image/png")) == 3
    compared = outputs_of(notebook, "text")[-1].text.splitlines()
    assert [line.split()[0] for line in compared] == ["jsq", "sal", "trained"]
    assert (tmp_path / "runs/notebook/policy.pt").is_file()


def test_notebook_is_kept_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
