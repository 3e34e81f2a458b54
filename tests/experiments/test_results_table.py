"""The table of results in README is what the committed results say."""

import json
from pathlib import Path

import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.suites import load_suite
from servegym.experiments.results_table import BEGIN, END, RESULTS, main, with_results

ROOT = Path(__file__).parents[2]
HEADING = (
    "policy,kind,training_runs,scenarios,of,score,low,high,better,level,worse,worst_scenario,worst_change"
)
COMMITTED = sorted((ROOT / RESULTS).glob("*/provenance.json"))


def test_readme_is_up_to_date() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_results(text, ROOT / RESULTS) == text, (
        "python -m servegym.experiments.results_table README.md"
    )


@pytest.mark.parametrize("path", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_results_are_of_the_suite_as_it_is(path: Path) -> None:
    """Whoever changes an entry raises the version, and then these figures are of the past."""
    origin = json.loads(path.read_text())
    assert origin["version"] == load_suite(origin["suite"]).version


def write_results(folder: Path, rows: list[str]) -> None:
    folder.mkdir(parents=True)
    (folder / "summary.csv").write_text("\n".join([HEADING, *rows]) + "\n")
    origin = {"suite": folder.name, "version": 2, "seeds": [0, 1], "command": "servegym evaluate suite=x"}
    (folder / "provenance.json").write_text(json.dumps(origin))


def test_learned_policies_and_the_best_heuristics(tmp_path: Path) -> None:
    rules = [f"rule{i},heuristic,1,4,4,1.{i},1.0,1.9,0,1,3,hard,0.2" for i in range(5)]
    learned = "net,learned,5,4,4,0.912,0.905,0.920,3,0,1,easy,0.013"
    partly = "tree,heuristic,1,2,4,0.99,0.98,1.0,0,1,1,hard,0.1"
    write_results(tmp_path / RESULTS / "routing", [*rules, learned, partly])
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    assert main([str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"above\n{BEGIN}\n| suite |") and text.endswith(f"{END}\nbelow\n")
    assert (
        "| [routing 2](experiments/results/routing/summary.md) | **net**, 5 training seeds | "
        "0.912 (0.905 to 0.920) | 3, 0, 1 | easy, +1.3 % |"
    ) in text
    assert "rule2" in text and "rule3" not in text and "tree" not in text and "old" not in text
    assert "`servegym evaluate suite=x`" in text
    assert with_results(text, tmp_path / RESULTS) == text


def test_without_markers_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="must be there"):
        with_results("no markers", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    assert main([str(readme)]) == 2 and main([]) == 2
    assert "must be there" in capsys.readouterr().err
    assert readme.read_text() == "no markers"
