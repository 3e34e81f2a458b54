from servegym.envs.workloads import find_data


def test_the_named_folder_comes_first_and_alone(tmp_path, monkeypatch):
    workspace, named = tmp_path / "workspace", tmp_path / "named"
    (tmp_path / "shared" / "data" / "traces").mkdir(parents=True)
    (tmp_path / "shared" / "data" / "traces" / "a.csv").touch()
    (named / "traces").mkdir(parents=True)
    (named / "traces" / "b.csv").touch()
    workspace.mkdir()
    monkeypatch.chdir(workspace)

    monkeypatch.delenv("SERVEGYM_DATA", raising=False)
    found = find_data("traces/a.csv")
    assert found is not None
    assert found.resolve() == tmp_path / "shared" / "data" / "traces" / "a.csv"
    assert find_data("traces/b.csv") is None

    monkeypatch.setenv("SERVEGYM_DATA", str(named))
    assert find_data("traces/b.csv") == named / "traces" / "b.csv"
    assert find_data("traces/a.csv") is None

    monkeypatch.setenv("SERVEGYM_DATA", "")
    assert find_data("traces/a.csv") is not None
