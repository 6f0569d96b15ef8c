"""Images that are decoded as they are needed: the right ones, and the same again anywhere."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from pictures import FRAMING, dataset, folder

from sskd_jax.__main__ import main
from sskd_jax.data import imagefolder, jpeg, prepared, records, sources, stream
from sskd_jax.data.scenarios import hold_out, scenario
from sskd_jax.types import UserError

CENTRE = {key: FRAMING[key] for key in ("size", "resize")}
CROP = {key: FRAMING[key] for key in ("size", "scale", "ratio")}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Indices and labels go to a folder of the tests'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module", params=["array_record", "tfrecord"])
def flowers(request, tmp_path_factory):
    return dataset(tmp_path_factory.mktemp(request.param), request.param)


def open_flowers(data_dir, **changes):
    return sources.load("flowers", str(data_dir), test_split="validation", **FRAMING | changes)


def steps(
    count: int = 24, devices: int = 1, batch: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Order and places [devices, steps, n] of an epoch."""
    order = np.random.default_rng(seed).permutation(24)[:count].astype(np.int32)
    return tuple(
        numbers.reshape(-1, devices, batch // devices).swapaxes(0, 1)
        for numbers in (order, np.arange(count))
    )


def test_sizes_classes_and_labels(flowers):
    data = open_flowers(flowers)
    assert (data.train.size, data.test.size, data.num_classes) == (24, 9, 3)
    assert data.train.shape == (16, 16, 3)
    assert np.bincount(data.train.label).tolist() == [8, 8, 8]


def test_a_dataset_is_told_from_others_by_its_sizes_and_its_files_if_known(flowers, tmp_path):
    """And not by its place or its format, on which neither text depends."""
    file = flowers / "flowers/.1.0.0.origin"
    whole = open_flowers(flowers).fingerprint
    copy = shutil.copytree(flowers, tmp_path / "data", ignore=lambda *_: [file.name])
    splits = json.loads((copy / "flowers/1.0.0/dataset_info.json").read_text())["splits"]
    train, test = (split["numBytes"] for split in splits)
    sizes = f"24 train images of {train} bytes and 9 validation images of {test} bytes"
    assert open_flowers(copy).fingerprint == {"dataset": sizes}
    assert whole == {"dataset": sizes, "origin": file.read_text()[:16]}


def test_a_folder_is_listed_once_to_see_whether_it_is_whole(flowers, monkeypatch):
    builder, asked = prepared.open_builder("flowers", str(flowers)), []
    exists = epath.Path(flowers).exists.__func__
    monkeypatch.setattr(
        type(epath.Path(flowers)), "exists", lambda path: asked.append(path) or exists(path)
    )
    assert prepared.is_prepared(builder, ("train",))
    assert asked == [builder.data_path]


def test_a_format_that_is_not_named_is_looked_up(flowers, tmp_path):
    """As in most datasets of tfds's catalogue, whose images are kept as they came."""
    copy = shutil.copytree(flowers, tmp_path / "data")
    (file,) = copy.rglob("features.json")
    named = json.loads(file.read_text())
    assert named["featuresDict"]["features"]["image"]["image"].pop("encodingFormat") == "jpeg"
    file.write_text(json.dumps(named))
    assert open_flowers(copy).train.size == 24


def test_a_first_image_that_cannot_be_read_is_told(flowers, monkeypatch):
    monkeypatch.setattr(jpeg, "parse", lambda record: 1 / 0)
    with pytest.raises(
        UserError, match=r"is not whole \(division by zero\): delete it, then type:"
    ):
        open_flowers(flowers)


def test_test_images_are_all_there_cut_at_the_centre(flowers):
    data = open_flowers(flowers)
    index = np.arange(9, dtype=np.int32).reshape(1, 3, 3)
    mask = np.ones((1, 3, 3), bool)
    mask[0, 2, 2] = False
    found = list(data.test.in_order(index, mask))
    assert len(found) == 3 and all(rows.image.shape == (1, 1, 3, 16, 16, 3) for rows, _ in found)
    np.testing.assert_array_equal(np.concatenate([m for _, m in found], 1), mask)
    images = np.concatenate([rows.image[0, 0] for rows, _ in found])
    contents = [jpeg.parse(record)[0] for record in data.test.records.__getitems__(np.arange(9))]
    for image, content in zip(images, contents, strict=True):
        centre = jpeg.decode_centre(content, None, **CENTRE)
        np.testing.assert_array_equal(image, centre)
    np.testing.assert_array_equal(
        np.concatenate([rows.label[0, 0] for rows, _ in found]), data.test.label
    )


def test_training_images_are_the_orders_with_their_labels(flowers):
    train, (order, place) = open_flowers(flowers).train, steps()
    found = list(train.epoch(order, place, 5, 0)(0, 3))
    assert [(first, last) for _, first, last in found] == [(0, 1)] * 3
    for i, (rows, _, _) in enumerate(found):
        np.testing.assert_array_equal(rows.index[:, 0], order[:, i])
        np.testing.assert_array_equal(rows.label[:, 0], train.label[order[:, i]])
    content, _, _ = jpeg.parse(train.records.__getitems__(order[0, 1, :1])[0])
    alone = jpeg.decode_random(content, tf.constant([5, 8], tf.int64), **CROP)
    np.testing.assert_array_equal(found[1][0].image[0, 0, 0], alone)


def images(train, order, place, seed=5, start=0) -> np.ndarray:
    """[steps, devices * n, H, W, C]."""
    feed = train.epoch(order, place, seed, start)(start, order.shape[1])
    return np.stack([rows.image.reshape(-1, *train.shape) for rows, _, _ in feed])


def test_the_same_again_from_any_step_on_any_devices_and_in_parts(flowers):
    train = open_flowers(flowers).train
    whole = images(train, *steps())
    np.testing.assert_array_equal(images(train, *steps(), start=2), whole[2:])
    order, place = steps(devices=4)
    np.testing.assert_array_equal(images(train, order, place), whole)
    parts = [images(train, order[mine], place[mine]) for mine in (slice(0, 2), slice(2, 4))]
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)


def test_another_epoch_cuts_the_same_images_otherwise(flowers):
    train = open_flowers(flowers).train
    a, b = (images(train, *steps(), seed=seed) for seed in (1, 2))
    assert (a != b).any((2, 3, 4)).mean() > 0.9


def test_parts_of_every_class_and_held_out_ones(flowers):
    data = open_flowers(flowers)
    half = scenario(data.train, seed=0, share=0.5)
    assert half.size == 12 and np.bincount(half.label).tolist() == [4, 4, 4]
    train, held = hold_out(data.train, 0.25, seed=0)
    assert train.size == 18 and held.size == 6 and not set(train.row) & set(held.row)
    rows, _ = next(
        held.in_order(np.arange(6, dtype=np.int32).reshape(1, 1, 6), np.ones((1, 1, 6), bool))
    )
    np.testing.assert_array_equal(rows.label[0, 0], held.label)


def test_wrong_labels_come_with_their_images_and_long_tails_are_cut(flowers):
    train = open_flowers(flowers).train
    part = scenario(train, seed=0, share=0.5, noise=0.5, imbalance=2)
    assert np.bincount(scenario(train, seed=0, imbalance=2).label).tolist() == [8, 5, 4]
    clean = scenario(train, seed=0, share=0.5, imbalance=2)
    np.testing.assert_array_equal(part.row, clean.row)
    wrong = np.bincount(clean.label[part.label != clean.label])
    assert wrong.tolist() == [2, 1, 1] and part.size == 8
    order = np.random.default_rng(0).permutation(8).astype(np.int32).reshape(2, 1, 4)
    (rows, *_), *_ = part.epoch(order, np.arange(8).reshape(2, 1, 4), 5, 0)(0, 1)
    np.testing.assert_array_equal(rows.label, part.label[order])
    assert rows.image.any((2, 3, 4, 5)).all()


def test_labels_are_read_once(flowers, monkeypatch):
    expected = open_flowers(flowers).train.label
    monkeypatch.setattr(jpeg, "labels", None)
    train = open_flowers(flowers).train
    np.testing.assert_array_equal(train.label, expected)
    monkeypatch.setattr(stream, "cached", None)
    np.testing.assert_array_equal(train.take(expected > 0).label, expected[expected > 0])


def test_only_a_memory_needs_labels_on_the_device(flowers):
    train = open_flowers(flowers).train
    assert train.resident()["label"].size == 0 and train.resident()["image"].shape == (0, 16, 16, 3)
    np.testing.assert_array_equal(train.resident(labelled=True)["label"], train.label)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Of eight roses two are cut short."""
    root = tmp_path_factory.mktemp("damaged")
    source = folder(root / "source")
    for name, size in (("rose4.jpg", 0.7), ("rose5.jpg", 0.8)):
        content = (source / "train/rose" / name).read_bytes()
        (source / "train/rose" / name).write_bytes(content[: int(size * len(content))])
    with pytest.MonkeyPatch.context() as patch:
        # Here they are left out; what tfds itself prepared may hold them.
        patch.setattr(imagefolder, "jpeg", pathlib.Path.read_bytes)
        typed = [
            "prepare",
            "imagefolder",
            f"--source={source}",
            "--name=flowers",
            f"--data_dir={root}",
        ]
        assert main(typed) == 0
    return root


def test_damaged_images_are_named_once_black_and_stop_nothing(damaged, capsys):
    train = open_flowers(damaged, scale=(1.0, 1.0)).train
    order, place = steps()
    for _ in range(2):
        found = images(train, order, place).reshape(-1, 16, 16, 3)
        assert sorted(order.ravel()[~found.any((1, 2, 3))]) == [12, 13]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged")]
    assert [line.split(" of ")[0] for line in sorted(lines)] == [
        "damaged  rose4.jpg (12)",
        "damaged  rose5.jpg (13)",
    ]
    assert "can't be decoded: a black image stands for it (2 so far)" in "".join(lines)


def test_the_others_are_as_if_nothing_was_damaged(damaged, tmp_path):
    sound = dataset(tmp_path)
    order, place = steps()
    ours, expected = (
        images(open_flowers(root, scale=(1.0, 1.0)).train, order, place).reshape(24, 16, 16, 3)
        for root in (damaged, sound)
    )
    kept = ~np.isin(order.ravel(), (12, 13))
    np.testing.assert_array_equal(ours[kept], expected[kept])


def test_data_that_goes_away_is_one_line(tmp_path):
    root = dataset(tmp_path, "tfrecord")
    train = open_flowers(root).train
    for file in root.glob("flowers/1.0.0/*train*"):
        file.unlink()
    with pytest.raises(
        UserError, match="flowers, train can't be read .*: the checkpoints are kept, and the same"
    ):
        images(train, *steps())
    with pytest.raises(UserError, match="flowers, train can't be read .*: prepare it again"):
        train.read_labels()


def test_a_label_outside_is_refused(flowers):
    train = open_flowers(flowers).train
    with pytest.raises(UserError, match="has the label 2, outside 0..1: choose another split"):
        images(stream.dataclasses.replace(train, num_classes=2), *steps())


def test_a_shard_that_was_cut_short(tmp_path):
    root = dataset(tmp_path, "tfrecord")
    file = next(root.glob("flowers/1.0.0/*train*"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        UserError,
        match="is not whole .23 of 24 train images.: delete it, then type: python -m "
        "sskd_jax prepare imagefolder --name=flowers --source=FOLDER",
    ):
        open_flowers(root)


@pytest.mark.parametrize(
    "name,split,message",
    [
        (
            "nosuch",
            "validation",
            "there is no dataset nosuch in .*nor in tfds's catalogue: prepare it with python -m",
        ),
        (
            "cifar10",
            "test",
            "cifar10 are no JPEGs.*: take --config=configs/cifar.py:dataset=cifar10",
        ),
        ("digits", "test", "digits are no JPEGs.*: take --config=configs/cifar.py:dataset=digits"),
        (
            "imagenet2012",
            "validation",
            "imagenet2012 is not in .*: prepare it with python -m sskd_jax prepare "
            "imagefolder --name=imagenet2012 --source=FOLDER --data_dir=",
        ),
        ("flowers", "test", "unknown test_split of flowers 'test': choose from train, validation"),
    ],
)
def test_what_is_not_there_says_what_to_type(flowers, name, split, message):
    with pytest.raises(UserError, match=message):
        sources.load(name, str(flowers), test_split=split, **FRAMING)
