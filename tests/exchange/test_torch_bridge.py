"""PyTorch checkpoints in, variables out, and back; the files are made without PyTorch."""

import importlib.util
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch_files import (
    KINDS,
    ORDERED_DICT,
    WRITERS,
    Call,
    Global,
    Raw,
    Reference,
    checkpoint,
    encoded,
    legacy_file,
    pickled,
    storage,
    tensor,
    weights,
    window,
    zip_file,
)

from sskd_jax.engine.devices import run_once
from sskd_jax.exchange import torch_bridge, torch_file
from sskd_jax.models import MODELS
from sskd_jax.types import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN, WEIGHTS = SHARED / "golden", SHARED / "weights"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} is absent")
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"{WEIGHTS} is absent")
both_formats = pytest.mark.parametrize("form", WRITERS)

SMALL = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "fc.bias": np.float32([1, -2]),
}


def read(data: bytes, folder: Path) -> dict[str, np.ndarray]:
    path = folder / "x.pth"
    path.write_bytes(data)
    return torch_bridge.read_state_dict(path)


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


# Reading files.


@both_formats
@pytest.mark.parametrize("layout", ["bare", "state_dict", "model", "net", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_layouts_and_prefixes(form, layout, prefix, tmp_path):
    stored = {f"{prefix}{name}": x for name, x in SMALL.items()}
    stored[f"{prefix}bn1.num_batches_tracked"] = np.array(5)
    nested = (lambda x: x) if layout == "bare" else (lambda x: {"epoch": 3, layout: x})
    assert_same(read(checkpoint(form, stored, nested), tmp_path), SMALL)


@both_formats
@pytest.mark.parametrize("dtype", KINDS, ids=KINDS.values())
def test_types_of_numbers(form, dtype, tmp_path):
    state = {
        "x": np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype),
        "scalar": np.array(1).astype(dtype),
    }
    assert_same(read(checkpoint(form, state), tmp_path), state)


@pytest.mark.parametrize("dtype", KINDS, ids=KINDS.values())
def test_types_of_numbers_in_safetensors(dtype, tmp_path):
    state = {"x": np.array([[0, 1, 1]]).astype(dtype), "empty": np.zeros((0, 2), dtype)}
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    assert_same(torch_bridge.read_state_dict(path), state)


def test_safetensors_that_are_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(UserError, match=r"x.safetensors: 'x' holds F8_E4M3: save it as F32"):
        torch_bridge.read_state_dict(path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(UserError, match="is no file, but a pipe or a device: give a file"):
        torch_bridge.read_state_dict(tmp_path / "pipe.safetensors")


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", ml_dtypes.bfloat16])
def test_numbers_of_a_big_endian_machine(dtype, tmp_path):
    x = np.array([1, 2, 3]).astype(dtype)
    data = zip_file({"x": tensor("0", x)}, {"0": x.byteswap()}, "big")
    assert_same(read(data, tmp_path), {"x": x})


@both_formats
def test_windows_of_a_shared_storage(form, tmp_path):
    write, view = WRITERS[form]
    x = np.arange(24, dtype=np.float32)
    shared = storage("0", x, *view)
    top = {
        "transposed": window(shared, 0, (6, 4), (1, 6)),
        "part": window(shared, 6, Call(Global("torch", "Size"), ((2, 3),)), (6, 2)),
        "last": window(shared, 23, (), ()),
        "empty": window(shared, 0, (0, 3), (3, 1)),
    }
    grid = x.reshape(4, 6)
    expected = {
        "transposed": grid.T,
        "part": grid[1:3, ::2],
        "last": x[23],
        "empty": np.zeros((0, 3), np.float32),
    }
    assert_same(read(write(top, {"0": x}), tmp_path), expected)


@both_formats
@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (1, (24,), (1,)),
        (24, (), ()),
        (-1, (2,), (1,)),
        (5, (3,), (-1,)),
        (0, (5,), (6,)),
        (0, (1000, 1000), (0, 0)),
        (0, (-2, -3), (1, 1)),
        (0, (5,), (1 << 60,)),  # 4 * 4 bytes * 2^60 is 0 in 64 bits
        (0, (3,), (1 << 62,)),
        (1 << 62, (2,), (1,)),
        (0, (2, 2), (1,)),
        (0.0, (2,), (1,)),
        (0, (2.0,), (1,)),
        (0, "ab", (1, 1)),
        (0, None, None),
    ],
)
def test_a_tensor_stays_within_its_storage(form, offset, shape, strides, tmp_path):
    write, view = WRITERS[form]
    x = np.arange(24, dtype=np.float32)
    with pytest.raises(UserError, match=r"x\.pth"):
        read(
            write({"x": window(storage("0", x, *view), offset, shape, strides)}, {"0": x}), tmp_path
        )


TORCH_DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "bool"),
    *("int64", "int32", "int16", "int8", "uint8"),
)


@both_formats
def test_what_else_a_training_checkpoint_holds_is_passed_over(form, tmp_path):
    def wrap(tensors):
        state = Raw(
            encoded(ORDERED_DICT)
            + encoded(tensors)[1:]
            + encoded({"_metadata": {"": {"version": 1}}})
            + b"b"
        )
        raw = Call(Global("_codecs", "encode"), ("\0\0\0\0", "latin1"))
        dtype = Raw(
            encoded(Call(Global("numpy", "dtype"), ("f4", False, True)))
            + encoded((3, "<", None))
            + b"b"
        )
        return {
            "opt": Raw(b"cargparse\nNamespace\n)\x81" + encoded({"lr": 0.1}) + b"b"),
            "best": Call(Global("numpy.core.multiarray", "scalar"), (dtype, raw)),
            "new": Call(Global("numpy._core.multiarray", "scalar"), (dtype, raw)),
            "curve": Raw(
                encoded(
                    Call(
                        Global("numpy.core.multiarray", "_reconstruct"),
                        (Global("numpy", "ndarray"), (0,), raw),
                    )
                )
                + encoded((1, (1,), dtype, False, raw))
                + b"b"
            ),
            "folder": Call(Global("pathlib", "PosixPath"), ("/", "runs")),
            "device": Call(Global("torch", "device"), ("cuda", 0)),
            "dtypes": tuple(Global("torch", name) for name in TORCH_DTYPES),
            "scheduler": {"milestones": Call(Global("collections", "Counter"), ({150: 1},))},
            "optimizer": {
                "state": {0: {"momentum_buffer": tensors["fc.bias"]}},
                "param_groups": [{"lr": 0.05}],
            },
            "model": state,
        }

    assert_same(read(checkpoint(form, SMALL, wrap), tmp_path), SMALL)


@both_formats
def test_parameters(form, tmp_path):
    rebuild = Global("torch._utils", "_rebuild_parameter")

    def wrap(tensors):
        return {name: Call(rebuild, (x, True, ORDERED_DICT)) for name, x in tensors.items()}

    assert_same(read(checkpoint(form, SMALL, wrap), tmp_path), SMALL)


# Files that cannot be read.


@both_formats
@pytest.mark.parametrize("top", [{}, {"epoch": 3, "model": {"a": 1}}, [1], "text", None])
def test_a_file_without_tensors(form, top, tmp_path):
    with pytest.raises(UserError, match=r"x\.pth: no named tensors"):
        read(checkpoint(form, {}, lambda _: top), tmp_path)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>", "not a readable pickle"),
        (bytes(257) + b"ustar  \0", "saved by a PyTorch before 0.2, .*: save torch.load.PATH"),
        (b"PK\x03\x04", "not a whole PyTorch checkpoint"),
        (pickle.dumps({"a": 1}), "not one of PyTorch's"),
        (zip_file({"x": tensor("0", SMALL["fc.bias"])}, {}), "x/data/0"),
        (
            zip_file({"x": tensor("0", SMALL["fc.bias"])}, {"0": np.zeros(1)[:0]}),
            "a storage is shorter or longer",
        ),
        (zip_file({}, {}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (zip_file({}, {}).replace(b"x/data.pkl", b"x/data.pkx"), "no data.pkl"),
        (
            legacy_file({"x": tensor("0", SMALL["fc.bias"], None)}, {"0": np.zeros(3)}),
            "length of a storage",
        ),
        (legacy_file({"x": tensor("0", SMALL["fc.bias"], ("1", 0, 2))}, {}), "views"),
    ],
)
def test_a_file_that_is_no_checkpoint(data, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as error:
        read(data, tmp_path)
    assert "x.pth" in str(error.value) and "\n" not in str(error.value)


def test_a_path_that_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(UserError, match=f"{path} cannot be read"):
            torch_bridge.read_state_dict(path)


def attacks(command: str) -> dict[str, Any]:
    """By the global that each names: objects that run a command when they are unpickled."""
    code = f"__import__('os').system({command!r})"
    return {
        "posix.system": Call(Global("posix", "system"), (command,)),
        "os.system": Raw(b"(" + encoded(command) + b"ios\nsystem\n"),
        "builtins.eval": Call(Global("builtins", "eval"), (code,)),
        "__builtin__.exec": Call(Global("__builtin__", "exec"), (code,)),
        "torch.load": Call(Global("torch", "load"), (command,)),
        "numpy.load": Call(Global("numpy", "load"), (command, "r", True)),
    }


POSITIONS = {
    "alone": lambda bad, tensors: bad,
    "first": lambda bad, tensors: {"a": bad, "model": tensors},
    "last": lambda bad, tensors: {"model": tensors, "z": bad},
    "key": lambda bad, tensors: {bad: 1, "model": tensors},
    "beside the tensors": lambda bad, tensors: {"model": {**tensors, "z": bad}},
    "hooks": lambda bad, tensors: {"x": Call(Global("torch._utils", "_rebuild_tensor_v2"), (bad,))},
    "storage": lambda bad, tensors: {"x": Reference(("storage", bad, "0", "cpu", 1))},
    "state": lambda bad, tensors: Raw(encoded(ORDERED_DICT) + encoded(bad) + b"b"),
    "argument": lambda bad, tensors: {
        **tensors,
        "opt": Call(Global("argparse", "Namespace"), (bad,)),
    },
}


@both_formats
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", attacks(""))
def test_nothing_in_a_checkpoint_is_run(form, position, name, tmp_path):
    bad = attacks(f"touch {tmp_path}/ran")[name]
    with pytest.raises(
        UserError, match=f"{name!r}, which could run code, so nothing of it was run"
    ):
        read(checkpoint(form, SMALL, lambda tensors: POSITIONS[position](bad, tensors)), tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("position", range(5))
def test_nothing_in_any_part_of_a_legacy_file_is_run(position, tmp_path):
    parts = [torch_file.LEGACY_MAGIC, 1001, {}, {}, []]
    parts[position] = attacks(f"touch {tmp_path}/ran")["posix.system"]
    with pytest.raises(UserError, match="'posix.system', which could run code"):
        read(b"".join(map(pickled, parts)), tmp_path)
    assert not (tmp_path / "ran").exists()


@both_formats
def test_a_truncated_file(form, tmp_path):
    data = checkpoint(form, SMALL, lambda tensors: {"epoch": 1, "model": tensors})
    for size in range(len(data)):
        with pytest.raises(UserError, match=r"x\.pth"):
            read(data[:size], tmp_path)


def damaged(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    """`data` with some bytes replaced, where a change is (position, value)."""
    copy = bytearray(data)
    for position, value in changes:
        copy[position % len(copy)] = value
    return bytes(copy)


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8)


@both_formats
@settings(max_examples=300, deadline=None)
@given(changes=CHANGES, inside=st.booleans())
def test_a_damaged_file_is_read_or_the_users_error(form, tmp_path_factory, changes, inside):
    def wrap(
        tensors,
    ):  # the checksums of a zip archive would refuse most damage: do it before they are taken
        return (
            Raw(damaged(encoded({"epoch": 1, "model": tensors}), changes))
            if inside
            else {"model": tensors}
        )

    data = checkpoint(form, SMALL, wrap)
    try:
        found = read(data if inside else damaged(data, changes), tmp_path_factory.getbasetemp())
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert found and all(isinstance(x, np.ndarray) and x.size <= 24 for x in found.values())


# The names and axes of PyTorch and Flax.


# Whose weights were not recorded from the reference.
IMAGENET = ("resnet18", "resnet34", "resnet50")
UNRECORDED = (*IMAGENET, "resnet14", "MobileNetV2s1", "ResNet18", "ResNet18w16")


@pytest.mark.parametrize("name", UNRECORDED)
def test_round_trip_of_random_weights(name):
    state = weights(name, num_classes=1000)
    assert_same(torch_bridge.to_state_dict(name, torch_bridge.from_state_dict(name, state)), state)


@needs_golden
@pytest.mark.parametrize("name", [name for name in MODELS if name not in UNRECORDED])
def test_round_trip_of_the_reference_weights(name):
    spec = importlib.util.spec_from_file_location(
        "reference_weights", GOLDEN / "reference_weights.py"
    )
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    entries = json.loads((GOLDEN / "models.json").read_text())[name]["state_dict"]
    state = {key: reference.fill(key, shape, 0) for key, shape in entries}
    assert_same(torch_bridge.to_state_dict(name, torch_bridge.from_state_dict(name, state)), state)


@needs_weights
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_real_checkpoints(name):
    path = WEIGHTS / f"cifar100_{name}.pth"
    variables, num_classes = torch_bridge.load_weights(path, name)
    assert num_classes == 100
    assert_same(torch_bridge.to_state_dict(name, variables), torch_bridge.read_state_dict(path))


@pytest.mark.parametrize("beside", ["proj_head.0.weight", "auxiliary_classifier.fc1.weight"])
def test_a_backbone_is_taken_out_of_what_stands_beside_it(beside):
    """In the files of SSKD's and of HSAKD's code."""
    state = weights("resnet8")
    stored = {f"module.backbone.{name}": array for name, array in state.items()}
    stored["module.backbone.bn1.num_batches_tracked"] = np.array(5)
    stored[f"module.{beside}"] = np.ones((2, 2), np.float32)
    variables = torch_bridge.from_state_dict("resnet8", stored)
    assert_same(torch_bridge.to_state_dict("resnet8", variables), state)


@needs_golden
@pytest.mark.parametrize("name", ["wrn_16_2", "mobilenetV2", "vgg13"])
def test_round_trip_of_branches(name, tmp_path):
    """By the names and shapes of HSAKD's files."""
    entries = json.loads((GOLDEN / "hsakd.json").read_text())[name]["state_dict"]
    rng = np.random.default_rng(0)
    stored = {key: rng.standard_normal(shape, np.float32) for key, shape in entries}
    path = tmp_path / "x.pth"
    path.write_bytes(checkpoint("zip", stored))
    ours = "MobileNetV2s1" if name == "mobilenetV2" else name
    for prefix, model in (("backbone.", ours), ("auxiliary_classifier.", f"{ours}.branches")):
        variables, num_classes = torch_bridge.load_weights(path, model)
        assert num_classes == 100
        found = torch_bridge.to_state_dict(model, variables)
        expected = {key: array for key, array in stored.items() if key.startswith(prefix)}
        assert_same({prefix + key: array for key, array in found.items()}, expected)


@pytest.mark.parametrize(
    ("beside", "asked", "right"),
    [
        ("auxiliary_classifier", "MobileNetV2", "MobileNetV2s1"),
        ("auxiliary_classifier", "MobileNetV2.branches", "MobileNetV2s1"),
        ("proj_head", "MobileNetV2s1", "MobileNetV2"),
    ],
)
def test_files_of_the_two_mobilenets_are_told_apart(beside, asked, right):
    state = {f"backbone.{name}": array for name, array in weights("MobileNetV2").items()}
    state[f"{beside}.fc1.weight"] = np.ones((28, 3), np.float32)
    with pytest.raises(UserError, match=f"{beside} in it tells .*: name {right}$"):
        torch_bridge.from_state_dict(asked, state)
    assert torch_bridge.from_state_dict(right, state)
    assert torch_bridge.identified(state) == right


def test_branches_of_another_architecture():
    state = {
        f"auxiliary_classifier.{name}": array for name, array in weights("resnet8.branches").items()
    }
    with pytest.raises(UserError, match="these are weights of a resnet8: name resnet8"):
        torch_bridge.from_state_dict("resnet20.branches", state)
    with pytest.raises(UserError, match="no classifier in it: no weight is a matrix"):
        small = {"auxiliary_classifier.fc.weight": np.ones((3, 2), np.float32)}
        torch_bridge.from_state_dict("resnet8.branches", small)
    with pytest.raises(UserError, match="no branches in it: no name begins with 'auxiliary_"):
        torch_bridge.from_state_dict("resnet8.branches", weights("resnet8"))


def test_axes():
    state = weights("MobileNetV2")
    variables = torch_bridge.from_state_dict("MobileNetV2", state)
    params, stats = variables["params"], variables["batch_stats"]
    dense = state["classifier.weight"]
    np.testing.assert_array_equal(params["classifier"]["kernel"], dense.T)
    convs = {key: x for key, x in torch_bridge.flatten_dict(params).items() if x.ndim == 4}
    for path, kernel in convs.items():
        weight = state[".".join(path[:-1]) + ".weight"]
        assert kernel[0, -1, 0, 1] == weight[1, 0, 0, -1] and kernel.flags.writeable
    assert len(convs) == sum(x.ndim == 4 for x in state.values())
    assert set(stats) <= set(params)


@both_formats
@pytest.mark.parametrize("dtype", ["<f8", "<f2", ml_dtypes.bfloat16])
def test_load_weights_gives_float32(form, dtype, tmp_path):
    state = {key: x.astype(dtype) for key, x in weights("resnet8").items()}
    path = tmp_path / "x.pth"
    path.write_bytes(checkpoint(form, state))
    variables, num_classes = torch_bridge.load_weights(path, "resnet8")
    assert num_classes == 7
    back = torch_bridge.to_state_dict("resnet8", variables)
    assert_same(back, {key: x.astype(np.float32) for key, x in state.items()})


def test_both_names_of_the_classifier():
    state = weights("MobileNetV2")
    renamed = {key.replace("classifier.", "classifier.0."): x for key, x in state.items()}
    assert "classifier.0.weight" in renamed
    variables = torch_bridge.from_state_dict("MobileNetV2", renamed)
    assert_same(torch_bridge.to_state_dict("MobileNetV2", variables), state)


def test_counts_of_batches_are_passed_over():
    state = weights("resnet8")
    assert torch_bridge.from_state_dict(
        "resnet8", {**state, "bn1.num_batches_tracked": np.array(3)}
    )


@pytest.mark.parametrize(
    "name, other", [("resnet20", "resnet8"), ("vgg8", "ShuffleV1"), ("wrn_16_1", "wrn_16_2")]
)
def test_weights_of_another_architecture(name, other, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(checkpoint("zip", weights(other)))
    flags = {None: f"name {other}", "": f"use --network={other}"}
    for section, advice in (flags | {"student": f"use --config.student.model={other}"}).items():
        hint = f"these are weights of a {other}: {advice}$"
        with pytest.raises(UserError, match=rf"x\.pth: this is not a {name}: '.*; {hint}"):
            torch_bridge.load_weights(path, name, section)


def without(key: str, state: dict) -> dict:
    return {name: x for name, x in state.items() if name != key}


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda s: without("bn1.weight", s), r"not a resnet8: 'bn1\.weight' is missing$"),
        (
            lambda s: {f"student.{key}": x for key, x in s.items()},
            "; all of its names are there, prefixed with 'student.': save that part alone$",
        ),
        (lambda s: without("bn1.running_var", s), r"'bn1\.running_var' is missing$"),
        (lambda s: {**s, "extra.bias": s["fc.bias"]}, r"not a resnet8: it has no 'extra\.bias'$"),
        (
            lambda s: {**s, "conv1.weight": s["conv1.weight"][..., 0]},
            r"'conv1\.weight' has shape \[16, 3, 3\], not \[",
        ),
        (lambda s: {**s, "fc.bias": s["fc.bias"][:3]}, r"'fc\.bias' has shape \[3\], not \[7\]$"),
        (lambda s: without("fc.weight", s), "no classifier"),
        (lambda s: {**s, "fc.weight": s["fc.weight"][:0]}, "no classifier"),
        (lambda s: {}, "no classifier"),
        (lambda s: {**s, "fc.bias": np.arange(7)}, r"'fc\.bias' holds int64"),
        (lambda s: {**s, "fc.bias": s["fc.bias"] * 1j}, r"'fc\.bias' holds complex64"),
        (
            lambda s: {**s, "fc.bias": s["fc.bias"] * np.float32(np.nan)},
            r"'fc\.bias' holds numbers that are not",
        ),
        (
            lambda s: {**s, "fc.bias": np.full(7, 1e300)},
            r"'fc\.bias' holds numbers that are not finite$",
        ),
    ],
)
def test_weights_that_do_not_fit(change, reason):
    with pytest.raises(UserError, match=reason):
        torch_bridge.from_state_dict("resnet8", change(weights("resnet8")))


def test_variables_that_do_not_fit():
    variables = torch_bridge.from_state_dict("resnet8", weights("resnet8"))
    with pytest.raises(UserError, match="not a resnet20"):
        torch_bridge.to_state_dict("resnet20", variables)
    layer = {"kernel": np.zeros((2, 2)), "scale": np.zeros(2)}
    with pytest.raises(UserError, match="two parameters would be called 'conv.weight'"):
        torch_bridge.to_state_dict("resnet8", {"params": {"conv": layer}})


def test_an_unknown_architecture():
    with pytest.raises(UserError, match="unknown architecture 'resnet9': did you mean 'resnet8'"):
        torch_bridge.from_state_dict("resnet9", weights("resnet8"))


def test_a_users_network_may_have_modules_of_any_names():
    module = toys.Backboned(num_classes=10)
    variables = run_once(module.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    state = torch_bridge.to_state_dict("toys:Backboned", variables, 8)
    assert all(name.startswith("backbone.") for name in state)
    again = torch_bridge.from_state_dict("toys:Backboned", state)
    jax.tree.map(np.testing.assert_array_equal, again, dict(variables))
