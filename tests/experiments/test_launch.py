"""Filling a table: what is missing is run once, in order; failures and stops lose nothing."""

import fcntl
import json
import shutil
import sys
import types

import pytest

from configs import named
from experiments import launch, plans, protocol, record, records, runs
from experiments.plans import Cell
from sskd_jax.system.interruption import Interruption
from sskd_jax.types import Stopped, UserError
from tests.experiments.finished import finished

CELLS = tuple(
    Cell("vgg13 -> vgg8", method, f"configs/cifar.py:method={method},teacher=vgg13,student=vgg8")
    for method in ("scratch", "kd", "sskd")
)


@pytest.fixture
def place(tmp_path) -> runs.Place:
    return runs.Place(*(tmp_path / name for name in ("workdirs", "results", "weights")))


def names(found: dict[str, runs.Run]) -> list[str]:
    """Kinds or methods, and seeds, of runs in their order."""
    return [f"{run.name.split('-')[0]} {run.changes['seed']}" for run in found.values()]


def planned(place, seeds=(0, 1), cells=CELLS, **typed) -> dict[str, runs.Run]:
    return runs.runs_of(cells, seeds, typed, place)


def test_a_teacher_serves_all_and_a_head_its_seed(place):
    found = planned(place)
    assert names(found) == [
        "scratch 0",
        "teacher 0",
        "kd 0",
        "head 0",
        "sskd 0",
        "scratch 1",
        "kd 1",
        "head 1",
        "sskd 1",
    ]
    (teacher,) = (run for run in found.values() if run.name.startswith("teacher"))
    *_, head, sskd = found.values()
    assert sskd.needs == (teacher.name, head.name) and head.needs == (teacher.name,)
    assert sskd.changes["head.checkpoint"] == str(place.workdirs / head.name)
    assert "--config.until=head" in head.command()
    # All students ask for the same teacher, however they are trained themselves.
    other = planned(place, seeds=[4], cells=[CELLS[2]], **{"student.epochs": 3})
    assert teacher.name in other and other[teacher.name] == teacher


def test_students_share_a_head_that_is_trained_alike(place):
    """Not heads of other tasks, but those whose students keep another share of the rows."""
    for table, heads in {"tasks": 5, "kept": 1}.items():
        found = planned(place, seeds=[0], cells=plans.TABLES[table].cells)
        assert sum(name.startswith("head") for name in found) == heads


@pytest.mark.parametrize("method", ["sskd", "pretext"])
def test_it_is_known_which_numbers_the_head_is_trained_by(method):
    of_the_student = {"kd_temperature", "tf_temperature", "ss_temperature", "tf_ratio", "ss_ratio"}
    others = named.entry_of(method).numbers.keys() - of_the_student
    assert others and all(f"method.{name}".startswith(runs.OF_THE_HEAD) for name in others)


def test_another_number_of_the_head_makes_another_head_in_every_config(place):
    for table, key in {"quarter": "method", "digits": "settings.sskd.method"}.items():
        cells = runs.chosen(plans.TABLES[table].cells, ["sskd"])
        for name, is_heads in {"head_temperature": True, "tf_ratio": False}.items():
            typed = {f"{key}.{name}": 0.5}
            usual, other = (planned(place, [0], cells, **own) for own in ({}, typed))
            (head,) = (run for run in other.values() if run.name.startswith("head"))
            assert (head.name not in usual) == (typed.items() <= head.changes.items()) == is_heads


@pytest.mark.parametrize("table", ["family", "family_quarter"])
def test_a_teacher_of_a_methods_own_is_trained_by_it(place, table):
    joint = runs.chosen(plans.TABLES[table].cells, ["hsakd_joint"])
    teacher, student, other = planned(place, cells=joint).values()
    assert student.needs == other.needs == (teacher.name,)
    assert teacher.told["method"] == student.told["method"] == "hsakd_joint"
    assert "hsakd_joint" in " ".join(teacher.command())
    launch.keep(teacher, place, "no memory")
    (failed,) = records.recorded(place.results)
    assert failed.protocol["method"] == "hsakd_joint"


def test_every_run_has_a_config_of_its_own_and_is_found_by_its_record(place):
    found = planned(place)
    for run in found.values():
        config = protocol.load(run.config, run.changes)
        assert config.seed == run.changes["seed"]
    finished(place.workdirs / "mine", method="kd", student__epochs=240, teacher__epochs=240)
    record.keep_runs([place.workdirs / "mine"], place.results)
    states = runs.states_of(found, place)
    done = [run for run in found.values() if states[run.name] == runs.DONE]
    assert names({run.name: run for run in done}) == ["kd 0"]


def test_what_is_done_counts_whatever_failed_under_another_name(place):
    found = planned(place, seeds=[0], cells=[CELLS[1]])
    *_, kd = found.values()
    for folder in ("before", "then"):  # the record of the failed run lies between both
        launch.keep(kd, place, "no memory")
        assert runs.states_of(found, place)[kd.name] == runs.FAILED
        done = place.workdirs / ("a" if folder == "before" else "z")
        finished(done, method="kd", student__epochs=240, teacher__epochs=240)
        record.keep_runs([done], place.results)
        assert runs.states_of(found, place)[kd.name] == runs.DONE
        shutil.rmtree(place.results)


def test_a_given_teacher_is_not_trained(place):
    found = planned(place, seeds=[0], **{"teacher.checkpoint": "vgg13.pth"})
    assert names(found) == ["scratch 0", "kd 0", "head 0", "sskd 0"]
    for run in found.values():
        assert run.changes["teacher.checkpoint"] == str(place.weights / "vgg13.pth")
    with pytest.raises(UserError, match="vgg13.pth: give --weights=DIR"):
        launch.check_weights(found.values())


def test_where_a_teacher_starts_from_is_no_business_of_its_students(place):
    """A run is refused that has both the trained teacher and what its training would start from."""
    found = planned(place, seeds=[0], cells=CELLS[1:], **{"teacher.start_from": "/w/vgg13.pth"})
    assert names(found) == ["teacher 0", "kd 0", "head 0", "sskd 0"]
    starts = [run.changes["teacher.start_from"] for run in found.values()]
    assert starts == ["/w/vgg13.pth", "", "", ""]
    # Yet such a student is another experiment than that of a teacher from random weights.
    other = planned(place, seeds=[0], cells=CELLS[1:])
    assert not {run.name for run in found.values()} & {run.name for run in other.values()}


def test_every_run_has_one_seed(place):
    """Its workdir would hold several runs otherwise, which no record is made of."""
    for name in ("digits", "family", "similar"):
        found = planned(place, (0, 1), plans.TABLES[name].cells)
        for run in found.values():
            assert protocol.as_json(protocol.load(run.config, run.changes))["seeds"] == 1, run.name


def test_parts_of_a_table(place):
    found = planned(place)
    parts = [runs.shard(found, f"{i}/3") for i in (1, 2, 3)]
    assert names(parts[1]) == ["teacher 0", "head 1", "sskd 1"]  # the heaviest ones are apart
    assert names(parts[2]) == ["scratch 0", "teacher 0", "kd 0", "scratch 1", "kd 1"]
    students = [name for part in parts for name, run in part.items() if not run.is_shared]
    assert sorted(students) == sorted(name for name, run in found.items() if not run.is_shared)
    assert [cell.column for cell in runs.chosen(CELLS, ["kd"])] == ["kd"]
    assert [cell.column for cell in runs.chosen(CELLS, ["kd", "vgg13 -> vgg8"])] == ["kd"]
    assert len(runs.chosen(CELLS, ["vgg13 -> vgg8"])) == len(runs.chosen(CELLS, [])) == 3
    with pytest.raises(UserError, match="unknown row or column 'kdd': did you mean 'kd'"):
        runs.chosen(CELLS, ["kdd"])
    other = Cell("vgg13 -> vgg11", "at", CELLS[0].config)
    with pytest.raises(UserError, match="--only kd vgg13 -> vgg11: these rows have none of these"):
        runs.chosen([*CELLS, other], ["kd", "vgg13 -> vgg11"])
    for text in ("0/3", "4/3", "1", "a/b"):
        with pytest.raises(UserError, match="write 1/4"):
            runs.shard(found, text)


def test_typed_values():
    typed = ["--config.student.epochs=2", "--config.data.data_dir=/a/b", "--config.head.x=()"]
    expected = {"student.epochs": 2, "data.data_dir": "/a/b", "head.x": ()}
    assert runs.typed_changes(typed) == expected
    with pytest.raises(UserError, match="is written --config.KEY=VALUE"):
        runs.typed_changes(["--sheds=3"])


@pytest.fixture
def trained(monkeypatch):
    """Trains nothing, but leaves workdirs as it should; the names of what it was asked for."""
    begun = []

    def execute(run, place, interruption):
        begun.append(run.name)
        if interruption.due():
            raise Stopped("the time is up")
        if "kd-" in run.name[:3] and run.changes["seed"] == 1:
            raise launch.Failure("kd diverged")
        method = "kd" if "teacher" in run.name else run.name.split("-")[0].replace("head", "sskd")
        changes = {"student__epochs": 240, "teacher__epochs": 240}
        changes |= {
            key.replace(".", "__"): value
            for key, value in run.changes.items()
            if key.endswith("checkpoint")
        }
        workdir = finished(place.workdirs / run.name, run.changes["seed"], method=method, **changes)
        if run.is_shared:  # it ends with the teacher or its head
            rows = json.loads((workdir / "results.json").read_text())
            (workdir / "results.json").write_text(json.dumps(rows[:1]))

    monkeypatch.setattr(launch, "execute", execute)
    return begun


def test_all_is_run_once_and_a_failure_stops_no_other(place, trained):
    found = planned(place)
    with Interruption() as interruption:
        launch.work(found, place, interruption)
        assert trained == list(found)
        states = runs.states_of(found, place)
        kd = next(name for name in found if name.startswith("kd") and name.endswith("1"))
        assert [name for name, state in states.items() if state == runs.FAILED] == [kd]
        assert set(states.values()) == {runs.DONE, runs.FAILED}
        rows = {network.run: network for network in records.recorded(place.results)}
        assert rows[kd].reason == "kd diverged" and len(rows) == 7  # heads are no networks
        assert (place.results / records.INDEX).read_text() == records.index(place.results)
        launch.work(found, place, interruption)
        assert trained == list(found)
        launch.work(found, place, interruption, retry=True)
        assert trained == [*found, kd]


def test_what_needs_a_failed_teacher_fails_with_its_reason(place, monkeypatch):
    def execute(run, place, interruption):
        raise launch.Failure("no memory")

    monkeypatch.setattr(launch, "execute", execute)
    found = planned(place, seeds=[0], cells=[CELLS[2]])
    with Interruption() as interruption:
        launch.work(found, place, interruption)
    networks = records.recorded(place.results)
    teacher = next(name for name in found if name.startswith("teacher"))
    reasons = {network.protocol["method"]: network.reason for network in networks}
    assert reasons == {"labels": "no memory", "sskd": f"needs {teacher}, which failed: no memory"}
    *shared, student = runs.states_of(found, place).values()
    assert student == runs.FAILED and set(shared) == {runs.UNNEEDED}


def test_a_workdir_in_use_is_seen_behind_what_its_process_writes(place):
    """Both processes write to one file, and the other one may write last."""
    told = f"error: {launch.BUSY} W\n  epoch 3/12\n"
    command = ["-c", f"import sys; sys.stderr.write({told!r}); sys.exit(2)"]
    run = types.SimpleNamespace(name="kd-0", command=lambda: command)
    with Interruption() as interruption, pytest.raises(launch.Failure, match=launch.BUSY):
        launch.execute(run, place, interruption)


def test_a_stop_ends_it_and_it_goes_on(place, trained):
    found = planned(place, seeds=[0])
    with Interruption(1e-9) as interruption, pytest.raises(Stopped):
        launch.work(found, place, interruption)
    assert trained == [next(iter(found))]
    with Interruption() as interruption:
        launch.work(found, place, interruption)
    assert trained[1:] == list(found)


def test_a_workdir_of_another_process_is_running(place):
    (run, *_) = planned(place, seeds=[0]).values()
    (place.workdirs / run.name).mkdir(parents=True)
    with open(place.workdirs / run.name / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert runs.states_of({run.name: run}, place) == {run.name: runs.RUNNING}
    assert runs.states_of({run.name: run}, place) == {run.name: runs.LEFT}


@pytest.mark.parametrize(
    ("program", "error", "text"),
    [
        ("print('x'); sys.exit('error: no images')", launch.Failure, "exit code 1: error: no ima"),
        ("print('error: no images'); sys.exit(2)", launch.Failure, "^no images$"),
        ("import os; os.kill(os.getpid(), 9)", launch.Failure, "exit code -9"),
        ("sys.exit(75)", Stopped, "the same command goes on"),
        ("import time; time.sleep(60)", Stopped, "time limit of 1 s"),
    ],
)
def test_how_a_run_may_end(program, error, text, place, monkeypatch):
    monkeypatch.setattr(runs.Run, "command", lambda run: ["-c", f"import sys; {program}"])
    monkeypatch.setattr(launch, "LOOK", 0.1)
    run = runs.Run("one", "one", "student", "", {"seed": 0})
    limit = 1.0 if error is Stopped else 0.0
    with Interruption(limit, deferring=True) as interruption, pytest.raises(error, match=text):
        launch.execute(run, place, interruption)
    assert sys.executable and (place.workdirs / "one" / launch.LOG).exists()


def test_hours_are_those_of_the_records_that_are_most_alike(place):
    def told(network: str, method: str, teraflop: float) -> dict:
        one = {"data": "cifar100", "network": network, "method": method, "teraflop": teraflop}
        return one | {"experiment": "", "epochs": 4}

    def kept(network: str, method: str, minutes: float) -> records.Network:
        found = told(network, method, 100.0)
        return records.Network("", "student", 0, "done", "", found, {}, [minutes], [])

    networks = [kept("vgg8", "kd", 30.0), kept("vgg8", "sskd", 60.0), kept("vgg13", "at", 6.0)]
    run = runs.Run("one", "", "student", "", {"seed": 0}, (), told("vgg8", "kd", 400.0))
    assert runs.hours(run, networks, place.workdirs / "one") == pytest.approx(2.0)
    (place.workdirs / "one").mkdir(parents=True)
    row = json.dumps({"stage": "student", "step": 9, "epoch": 1}) + "\n"
    (place.workdirs / "one" / "metrics.jsonl").write_text(row)
    assert runs.hours(run, networks, place.workdirs / "one") == pytest.approx(1.5)
    other = run._replace(told={**run.told, "data": "imagenet2012"})
    assert runs.hours(other, networks, place.workdirs) is None
    assert launch.told_hours([2.0, 1.5, None]) == "3.5, 1 unknown"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (["simlar"], "unknown table 'simlar': did you mean 'similar'?"),
        (["quarter", "--only", "kdd"], "unknown row or column 'kdd'"),
        (["quarter", "--config.student.epoch=3"], "student.epoch"),
        (["quarter", "--config.student.batch_size=0"], "student.batch_size is 0"),
        (["digits", "--config.methods=('kd',)"], "--config.methods is decided by this command"),
        (["quarter", "--config.until=teacher"], "--config.until is decided by this command"),
        (["quarter", "--epochs=3"], "'--epochs=3' is no flag of this command"),
        (["quarter", "--time_limit=-1"], "--time_limit=-1: give seconds, 0 for no limit"),
        (["quarter", "--workdirs=gs://b/runs"], "gs://b/runs is in a bucket: give a folder on a"),
        (["quarter"], "cifar100_resnet20.pth: give --weights=DIR"),
    ],
)
def test_mistakes_are_one_line(typed, text, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        launch.main([f"--workdirs={tmp_path}", f"--results={tmp_path}", *typed])
    err = capsys.readouterr().err
    assert end.value.code == 2 and text in err and err.count("\n") == 1


def test_a_dry_run_tells_what_is_left_and_does_nothing(capsys, tmp_path, trained):
    with pytest.raises(SystemExit) as end:
        launch.main(["quarter", "--dry_run", f"--workdirs={tmp_path}", f"--results={tmp_path}"])
    out = capsys.readouterr().out
    count = len(plans.TABLES["quarter"].cells) * 3 + 3  # and a head for each seed
    assert not end.value.code and f"0 done, 0 running, {count} left, 0 failed" in out
    assert not trained and not list(tmp_path.iterdir())


def test_a_typed_key_goes_to_the_tables_that_have_it(capsys, tmp_path):
    """Also if --only leaves nothing of one of the tables."""
    folders = [f"--workdirs={tmp_path}", f"--results={tmp_path}", "--dry_run"]
    typed = ["quarter", "compute", "--only", "at", "--config.data.data_dir=here"]
    with pytest.raises(SystemExit) as end:
        launch.main([*typed, *folders])
    assert not end.value.code and "3 left" in capsys.readouterr().out
    cells = [*plans.TABLES["quarter"].cells, *plans.TABLES["long_tail"].cells]
    runs.check_typed({"teacher.size": 64}, cells)  # the long tail has no teacher
    with pytest.raises(UserError, match="unknown config key 'teacher.sise'"):
        runs.check_typed({"teacher.sise": 64}, cells)
