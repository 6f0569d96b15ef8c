"""What a pickle may and may not do when safe_pickle reads it."""

import io
import pickle
import tracemalloc
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sskd_jax.system import safe_pickle
from sskd_jax.types import UserError

VALUE = {"name": "x", b"raw": [1, 2.5, None, True], "nested": ({"a": 1 << 70}, {1, 2})}
# The global that is refused -> a pickle that runs COMMAND, in each way that pickles have to call.
ATTACKS = {
    "posix.system": b"cposix\nsystem\n(S'COMMAND'\ntR.",
    "os.system": b"(S'COMMAND'\nios\nsystem\n.",
    "nt_or_posix.system": b"(cos\nsystem\nS'COMMAND'\no.",
    "builtins.eval": b'cbuiltins\neval\n(S\'__import__("os").system("COMMAND")\'\ntR.',
    "__builtin__.eval": b'c__builtin__\neval\n(S\'__import__("os").system("COMMAND")\'\ntR.',
    "builtins.exec": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93"
    b'(S\'__import__("os").system("COMMAND")\'\ntR.',
    "subprocess.Popen": b"csubprocess\nPopen\n((S'sh'\nS'-c'\nS'COMMAND'\nttR.",
}


class Pair:
    """An allowed class."""

    def __init__(self, *args):
        self.args = args


def allowed_function(*args):
    return len(args)


ALLOWED = {
    ("m", "Pair"): Pair,
    ("m", "f"): allowed_function,
    ("collections", "OrderedDict"): OrderedDict,
}


def load(data, **kwargs):
    return safe_pickle.load(io.BytesIO(data), ALLOWED, **kwargs)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(protocol):
    value = {
        key: x for key, x in VALUE.items() if protocol > 3 or key == "name"
    }  # old bytes and sets need globals
    assert load(pickle.dumps(value, protocol)) == value


def test_allowed_names_are_called_and_persistent_ids_resolved():
    ordered = OrderedDict(a=1)
    assert load(pickle.dumps(ordered)) == ordered
    assert load(b"cm\nPair\n(I1\nI2\ntR.").args == (1, 2)
    assert load(b"Pkey\n.", persistent_load=lambda key: (key, "found")) == ("key", "found")


def test_bytes_of_python_2():
    assert load(b"U\x02\xe9a.", encoding="latin1") == "\xe9a"
    assert load(b"U\x02\xe9a.", encoding="bytes") == b"\xe9a"


def test_objects_that_follow_one_another_are_read_in_turn():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert [safe_pickle.load(file, {}), safe_pickle.load(file, {}), file.read()] == [
        1,
        "two",
        b"rest",
    ]


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("wrap", [b"%s", b"(I1\nI2\n%s", b"](%s", b"}S'a'\n%s", b"cm\nPair\n(%s"])
def test_a_pickle_cannot_run_anything(name, wrap, tmp_path):
    attack = ATTACKS[name].replace(b"COMMAND", f"touch {tmp_path}/ran".encode())
    with pytest.raises(UserError, match="could run code, so nothing of it was run") as error:
        load(wrap % attack)
    assert name.replace("nt_or_posix", "os") in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_attack_is_a_real_one(tmp_path):
    pickle.loads(ATTACKS["posix.system"].replace(b"COMMAND", f"touch {tmp_path}/ran".encode()))
    assert [path.name for path in tmp_path.iterdir()] == ["ran"]


@pytest.mark.parametrize("name", ["Pair.__init__", "f.__globals__", "__dict__"])
def test_attributes_of_allowed_names_are_not_reachable(name):
    with pytest.raises(UserError, match="could run code"):
        load(b"\x80\x04\x8c\x01m\x8c" + bytes([len(name)]) + name.encode() + b"\x93.")


@pytest.mark.parametrize("name", ["Pair", "f"])
def test_allowed_names_cannot_be_changed(name):
    before = dict(vars(ALLOWED["m", name]))
    for state in (b"}S'x'\nI1\ns", b"(N}S'x'\nI1\nst"):
        with pytest.raises(UserError, match="sets attributes of a class or function"):
            load(b"cm\n%s\n" % name.encode() + state + b"b.")
    assert dict(vars(ALLOWED["m", name])) == before


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_truncated_pickles_are_the_users_error(protocol):
    data = pickle.dumps(["text", 1.5, 300, {"a": (1, 2)}], protocol)
    for size in range(len(data)):
        with pytest.raises(UserError, match="not a readable pickle"):
            load(data[:size])


BROKEN = (
    b"",
    b"<html>",
    b"R.",
    b"t.",
    b"h\x05.",
    b"\x80\xff.",
    b"]I1\nI1\ns.",
    b"}(]I1\nu.",
    b"Vx\nR.",
    b"Pid\n.",
)


@pytest.mark.parametrize("data", BROKEN)
def test_broken_pickles_are_the_users_error(data):
    with pytest.raises(UserError, match="the file is not a readable pickle: "):
        load(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04]r\xff\xff\xff\x7f.",  # LONG_BINPUT: a memo of 2^31 entries
        b"\x80\x04B\xff\xff\xff\x7fab.",  # BINBYTES: 2 GB announced, two bytes there
        b"\x80\x05\x8e" + (1 << 45).to_bytes(8, "little") + b"ab.",  # BINBYTES8: 32 TB
        b"\x80\x05\x96" + (1 << 29).to_bytes(8, "little") + b"ab.",  # BYTEARRAY8: 512 MB
        b"\x80\x04\x95" + (1 << 45).to_bytes(8, "little") + b"N.",  # FRAME
    ],
)
def test_announced_sizes_reserve_no_memory(data):
    tracemalloc.start()
    try:
        load(data)
    except UserError as error:
        assert "not a readable pickle" in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10_000_000  # bytes


def test_the_name_of_the_file_is_shown(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(ATTACKS["os.system"])
    with path.open("rb") as file, pytest.raises(UserError, match=r"x\.pkl asks for 'os\.system'"):
        safe_pickle.load(file, {})


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_the_users_error(data):
    try:
        load(data)
    except UserError as error:
        assert "\n" not in str(error)
