"""Trained networks used from Python, out of workdirs and files."""

import json
import shutil

import numpy as np
import pytest
import torch_files
from PIL import Image
from students import IMAGE, MEAN, STD, logits, resnet8_variables, student

import sskd_jax
from sskd_jax.exchange import torch_file
from sskd_jax.exchange.export import export_network
from sskd_jax.types import UserError


@pytest.fixture(scope="module")
def variables() -> dict:
    return resnet8_variables()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, variables):
    folder = tmp_path_factory.mktemp("run")
    student(folder, "sskd/student", variables)
    for kind in ("pth", "safetensors"):
        export_network(str(folder), kind, out=str(folder / f"student.{kind}"))
    return folder


@pytest.mark.parametrize("name", ["", "student.pth", "student.safetensors"])
def test_a_workdir_and_the_files_made_of_it_are_one_network(name, workdir, variables):
    network = sskd_jax.load(workdir / name)
    expected = logits(variables)
    np.testing.assert_allclose(network.logits(IMAGE), expected, rtol=1e-5, atol=1e-5)
    probability = network.predict(IMAGE)
    assert probability.shape == (4, 7)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
    assert (probability.argmax(1) == expected.argmax(1)).all()
    last = network.variables["params"]["fc"]
    products = network.features(IMAGE) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-4)
    assert network.model == "resnet8" and network.classes == tuple("0123456")


def test_files_are_resized_as_those_of_the_run(workdir):
    config = json.loads((workdir / "config.json").read_text())
    config["data"] |= {"size": 8, "resize": 10}
    (workdir / "config.json").write_text(json.dumps(config))
    assert sskd_jax.load(workdir).record["resize"] == 10


def test_more_images_than_are_computed_at_once(workdir):
    network = sskd_jax.load(workdir)
    many = np.repeat(IMAGE, 70, 0)
    assert network.logits(many).shape == (280, 7)


def test_no_images_give_no_rows(workdir):
    network = sskd_jax.load(workdir)
    assert network.predict(IMAGE[:0]).shape == (0, 7)
    assert network.features(IMAGE[:0]).shape == (0, 64)


def test_images_of_another_size_are_refused_where_the_networks_is_known(workdir, tmp_path):
    large = np.zeros((2, 12, 9, 3), np.uint8)
    with pytest.raises(UserError, match="of 12x9 pixels, and the network was trained on 8x8"):
        sskd_jax.load(workdir).features(large)
    torch_file.write_tensors(tmp_path / "alone.pth", torch_files.weights("resnet8"))
    alone = sskd_jax.load(tmp_path / "alone.pth", mean=MEAN, std=STD)
    assert alone.features(large).shape == (2, 64)


def test_arrays_are_numbers_too_and_resize_frames_image_files(workdir, tmp_path):
    torch_file.write_tensors(tmp_path / "alone.pth", torch_files.weights("resnet8"))
    numbers = {"mean": np.array(MEAN), "std": np.array(STD), "size": 8}
    pixels = np.arange(10 * 10 * 3, dtype=np.uint8).reshape(10, 10, 3)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    network = sskd_jax.load(tmp_path / "alone.pth", resize=10, **numbers)
    expected = network.logits(pixels[None, 1:9, 1:9])
    np.testing.assert_array_equal(network.logits(tmp_path / "image.png"), expected)
    assert sskd_jax.load(tmp_path / "alone.pth", **numbers).sizes == (8, 8)


def test_normalisation_in_levels_from_0_to_255_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"std is .*: give three numbers above 0, 1 at most, as"):
        sskd_jax.load(tmp_path / "any.pth", mean=MEAN, std=(58.4, 57.1, 57.4))
    with pytest.raises(UserError, match=r"mean is .*: give three numbers from 0 to 1, as colours"):
        sskd_jax.load(tmp_path / "any.pth", mean=(123.7, 116.3, 103.5), std=STD)


def test_the_path_of_an_image_is_that_image_resized(workdir, tmp_path):
    flat = np.full((20, 30, 3), 90, np.uint8)
    Image.fromarray(flat).save(tmp_path / "flat.png")
    network = sskd_jax.load(workdir)
    expected = network.logits(flat[None, :8, :8])
    np.testing.assert_allclose(network.logits(tmp_path / "flat.png"), expected, rtol=1e-5)


def test_a_very_thin_image_is_told(workdir, tmp_path):
    Image.fromarray(np.zeros((1, 20_000, 3), np.uint8)).save(tmp_path / "thin.png")
    with pytest.raises(UserError, match="thin.png is too thin, with 20000 by 1 pixels: cut it"):
        sskd_jax.load(workdir).logits(tmp_path / "thin.png")


def test_few_programs_serve_any_number_of_images(workdir):
    network = sskd_jax.load(workdir)
    images = np.concatenate([IMAGE, IMAGE[::-1]])
    found = [network.logits(images[:count]) for count in (0, 5, 7, 8)]
    assert network.program._cache_size() == 2
    for rows in found:
        np.testing.assert_array_equal(rows, found[-1][: len(rows)])


def test_grey_of_16_bits_is_scaled_down(workdir, tmp_path):
    Image.fromarray(np.full((8, 8), 90 * 257, np.uint16)).save(tmp_path / "deep.png")
    network = sskd_jax.load(workdir)
    expected = network.logits(np.full((1, 8, 8, 3), 90, np.uint8))
    np.testing.assert_allclose(network.logits(tmp_path / "deep.png"), expected, rtol=1e-5)


def test_names_of_classes_are_those_of_the_run(tmp_path, variables):
    student(tmp_path, "student", variables)
    about = json.loads((tmp_path / "student" / "stage.json").read_text())
    names = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu"]
    (tmp_path / "student" / "stage.json").write_text(json.dumps(about | {"classes": names}))
    assert sskd_jax.load(tmp_path).classes == tuple(names)


def test_a_file_without_its_json_asks_how_images_are_normalised(tmp_path, variables):
    path = tmp_path / "alone.pth"
    torch_file.write_tensors(path, torch_files.weights("resnet8"))
    with pytest.raises(UserError, match=r"give mean=\(R, G, B\) and std=\(R, G, B\)"):
        sskd_jax.load(path)
    network = sskd_jax.load(path, mean=MEAN, std=STD)
    assert network.model == "resnet8"  # found by its weights
    with pytest.raises(UserError, match="the size of the network's images is not known"):
        network.predict(tmp_path / "image.png")


def test_no_module_that_a_downloaded_record_names_is_run(workdir, tmp_path, monkeypatch):
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    file = shutil.copy(workdir / "student.pth", tmp_path)
    record = json.loads((workdir / "student.pth.json").read_text()) | {"model": "payload:Net"}
    (tmp_path / "student.pth.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="of the module 'payload', whose code would be run: if "):
        sskd_jax.load(file)
    assert not (tmp_path / "ran").exists()
    assert sskd_jax.load(file, network="resnet8").classes == tuple("0123456")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", 3, "has 3 as its 'model': give text"),
        ("mean", [0.5, 0.5], r"has \[0.5, 0.5\] as its 'mean': give three numbers from 0 to 1, or"),
        ("std", [0, 1, 1], r"has \[0, 1, 1\] as its 'std': give three numbers above 0, 1 at most"),
        ("image", [8, 8], r"has \[8, 8\] as its 'image': give three whole numbers,"),
        ("resize", "8", "has 8 as its 'resize': give a whole number from 1 on, or"),
        ("classes", [1, 2], r"has \[1, 2\] as its 'classes': give a list of names, or"),
        ("classes", ["a"], "names 1 classes, and .* has 7: put a copy of it back"),
        ("resize", 4, "says resize 4, and images of 8 pixels: put a copy of it back"),
    ],
)
def test_a_record_that_is_not_whole_is_one_line(key, value, message, workdir, tmp_path):
    file = shutil.copy(workdir / "student.pth", tmp_path)
    record = json.loads((workdir / "student.pth.json").read_text())
    (tmp_path / "student.pth.json").write_text(json.dumps({**record, key: value}))
    with pytest.raises(UserError, match=f"student.pth.json {message}"):
        sskd_jax.load(file)


@pytest.mark.parametrize("images", [IMAGE[0], IMAGE.astype(np.float32), IMAGE[..., :1]])
def test_other_arrays_are_refused(images, workdir):
    with pytest.raises(UserError, match=r"give uint8\[N, H, W, 3\]"):
        sskd_jax.load(workdir).predict(images)


def test_what_is_no_image_is_told(workdir, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="text.png is no image of a known format"):
        sskd_jax.load(workdir).predict(tmp_path / "text.png")


@pytest.mark.parametrize(
    ("shape", "message"), [((3, 4), "it is none of our arch.*: name"), ((3,), "no classifier in")]
)
def test_a_file_of_no_network_of_ours_is_named(shape, message, tmp_path):
    path = tmp_path / "x.pth"
    torch_file.write_tensors(path, {"strange.weight": np.ones(shape, np.float32)})
    with pytest.raises(UserError, match=f"x.pth: {message}"):
        sskd_jax.load(path, mean=MEAN, std=STD)


def test_a_damaged_safetensors_file(workdir, tmp_path):
    content = (workdir / "student.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        sskd_jax.load(tmp_path / "cut.safetensors", mean=MEAN, std=STD)
