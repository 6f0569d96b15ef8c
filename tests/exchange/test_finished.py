"""The networks of a workdir."""

from sskd_jax.exchange.finished import networks_in
from sskd_jax.system.paths import locate


def test_networks_are_found_by_a_relative_path(tmp_path, monkeypatch):
    for stage in ("teacher", "kd/student", "sskd/head"):
        (tmp_path / "run" / stage).mkdir(parents=True)
        (tmp_path / "run" / stage / "stage.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert networks_in(locate("run")) == ["kd/student", "teacher"]
