"""What is recorded of the environment of a run."""

import subprocess
import zlib

import jax

from sskd_jax.workdir.environment import environment, git_revision, own_code


def test_environment_says_what_a_figure_needs():
    said = environment(jax.devices(), {})
    assert said["versions"]["jax"] == jax.__version__
    assert len(said["devices"]) == 8 and said["platform"] == "cpu" and said["processor"]
    assert said["dtype"] == "float32"
    assert all(said["versions"].values())


def test_a_revision_is_that_of_the_package_alone(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr("sskd_jax.workdir.environment.PACKAGE", package)
    assert git_revision() is None
    (package / "code.py").touch()
    identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    for command in (("init",), ("add", "."), (*identity, "commit", "--message=first")):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, capture_output=True)
    clean = git_revision()
    assert len(clean) == 40
    (tmp_path / "record.json").touch()
    assert git_revision() == clean
    (package / "code.py").write_text("changed = True")
    assert git_revision() == f"{clean}-dirty"


def test_a_machine_without_git_has_no_revision(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment(jax.devices(), {})["git_revision"] is None


def test_own_code_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_code_of_mine.py").write_bytes(b"Net = None")
    (tmp_path / "folder_of_mine").mkdir()
    others = ["nowhere:Net", "folder_of_mine:Net", "sys:Net", "no.where:Net", "gs://bucket", "a: b"]
    config = {
        "student": {"model": "own_code_of_mine:Net"},
        **dict(zip("abcdef", others, strict=True)),
    }
    found = own_code(config)
    assert found == {"own_code_of_mine": f"{zlib.crc32(b'Net = None'):08x}"}
    assert environment(jax.devices(), config)["own_code"] == found
    assert "own_code" not in environment(jax.devices(), {})
