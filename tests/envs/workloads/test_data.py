from servegym.envs.workloads import find_data
from servegym.envs.workloads.data import fetch_folder, user_folder


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


def test_fetched_files_are_found_after_the_workspace_and_never_beside_a_named_folder(tmp_path, monkeypatch):
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.delenv("SERVEGYM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    assert fetch_folder() == user_folder() == tmp_path / "cache" / "servegym"
    assert find_data("a.csv") is None
    fetch_folder().mkdir(parents=True)
    (fetch_folder() / "a.csv").touch()
    assert find_data("a.csv") == tmp_path / "cache" / "servegym" / "a.csv"
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "shared" / "data" / "a.csv").touch()
    assert find_data("a.csv").parts[0] == ".."

    monkeypatch.setenv("SERVEGYM_DATA", str(tmp_path / "named"))
    assert find_data("a.csv") is None
    assert fetch_folder() == tmp_path / "named"


def test_the_users_folder_is_where_the_platform_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert user_folder() == tmp_path / ".cache" / "servegym"
    monkeypatch.setattr("sys.platform", "darwin")
    assert user_folder() == tmp_path / "Library" / "Caches" / "servegym"
