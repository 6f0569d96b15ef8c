"""Folders of images into datasets."""

import io
import pathlib
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pictures import CLASSES, dataset, folder, imagenet_samples, picture
from PIL import Image
from tensorflow_datasets.core import shuffle

from sskd_jax.__main__ import main
from sskd_jax.data import prepared
from sskd_jax.data.imagefolder import read
from sskd_jax.types import UserError


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("flowers"))


def rows(data_dir, split: str, name: str = "flowers") -> list[dict]:
    builder = prepared.open_builder(name, str(data_dir))
    return list(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


def test_every_image_is_there_byte_by_byte_with_its_class_and_name(flowers):
    builder = prepared.open_builder("flowers", str(flowers))
    assert builder.info.features["label"].names == list(CLASSES)
    source = flowers.parent / "source"
    for split, place, count in (("train", "train", 24), ("validation", "val", 9)):
        found = rows(flowers, split)
        assert len(found) == count
        for row in found:
            name = row["file_name"].decode()
            assert (
                bytes(row["image"]) == (source / place / CLASSES[row["label"]] / name).read_bytes()
            )


def test_a_second_run_changes_nothing_and_says_how_to_train(flowers, capsys):
    arguments = [
        "prepare",
        "imagefolder",
        f"--source={flowers.parent / 'source'}",
        "--name=flowers",
        f"--data_dir={flowers}",
    ]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert (
        "is there already" in said
        and f"imagenet.py:dataset=flowers,batch=16 --config.data.data_dir={flowers}\n" in said
    )
    assert main([*arguments, "--file_format=tfrecord"]) == 2
    assert "flowers is there already, as array_record: delete " in capsys.readouterr().err


def test_what_another_process_writes_meanwhile_is_not_claimed(tmp_path, capsys, monkeypatch):
    """It appears after this process has looked, and before it takes the lock."""
    sources = [folder(tmp_path / name, train=8) / "train" for name in ("theirs", "ours")]
    theirs, ours = (
        ["prepare", "imagefolder", f"--source={source}", "--name=flowers", f"--data_dir={tmp_path}"]
        for source in sources
    )

    def read_slowly(*args):
        monkeypatch.undo()
        assert main(theirs) == 0
        return read(*args)

    monkeypatch.setattr("sskd_jax.data.imagefolder.read", read_slowly)
    assert main(ours) == 2
    assert "another process has just written flowers to" in capsys.readouterr().err
    assert main(theirs) == 0


def test_a_changed_folder_is_told(tmp_path, capsys):
    source, data = folder(tmp_path, train=8) / "train", tmp_path / "data"
    arguments = [
        "prepare",
        "imagefolder",
        f"--source={source}",
        "--name=flowers",
        f"--data_dir={data}",
    ]
    assert main([*arguments, "--held_out=0.25"]) == 0
    said = capsys.readouterr().out
    assert "images per class, of 3 classes: train: 6, validation: 2" in said
    assert main([*arguments, "--held_out=0.25"]) == 0
    assert main([*arguments, "--held_out=0.5"]) == 2
    assert "of other images or another --held_out (18 train and 6 validation images)" in (
        capsys.readouterr().err
    )
    next(source.glob("*/*")).unlink()
    assert main([*arguments, "--held_out=0.25"]) == 2
    (source / "daisy").rename(source / "lily")
    capsys.readouterr()
    assert main([*arguments, "--held_out=0.25"]) == 2
    assert "of other images or another --held_out" in capsys.readouterr().err


def test_one_of_several_folders_to_test_on_is_named_and_the_others_are_left_out(tmp_path, capsys):
    source = folder(tmp_path)
    (source / "val").rename(source / "valid")
    (source / "test").mkdir()
    found = read(source, None)
    kept = {
        split: Counter(path.parent.name for path in found.files[split]) for split in found.files
    }
    assert found.counts(kept).endswith("train: 8, validation (valid/): 3")
    line = f"left out  {source}/test: {source}/valid is there to test on\n"
    assert capsys.readouterr().err == line


def test_without_val_a_share_of_every_class_is_held_out(tmp_path):
    found = read(folder(tmp_path, train=8) / "train", share=0.25)
    for split, count in (("train", 6), ("validation", 2)):
        names = [path.parent.name for path in found.files[split]]
        assert names == [name for name in CLASSES for _ in range(count)]
    assert not set(found.files["train"]) & set(found.files["validation"])


def test_most_images_stay_on_their_side_when_others_are_added(tmp_path):
    source = folder(tmp_path, train=8) / "train"
    before = read(source, share=0.25).files
    (source / CLASSES[0] / "new.jpg").write_bytes(next(source.glob("*/*.jpg")).read_bytes())
    after = read(source, share=0.25).files
    moved = set(before["train"]) & set(after["validation"])
    moved |= set(before["validation"]) & set(after["train"])
    assert len(moved) <= 1 and sum(map(len, after.values())) == 25


def test_hidden_files_and_folders_are_left_out_and_told(tmp_path, capsys):
    source = folder(tmp_path)
    image = next(source.glob("train/*/*.jpg"))
    (source / "train" / ".ipynb_checkpoints").mkdir()
    for hidden in (".ipynb_checkpoints/a-checkpoint.jpg", f"{CLASSES[0]}/._a.jpg"):
        (source / "train" / hidden).write_bytes(image.read_bytes())
    found = read(source, None)
    assert found.classes == sorted(CLASSES) and len(found.files["train"]) == 24
    told = f"left out  {source}/train: images with a name or folder that begins with a dot (2)\n"
    assert capsys.readouterr().err == told


def test_a_dataset_above_tfds_memory_keeps_its_order_in_small_parts(tmp_path, monkeypatch):
    """tfds sorts what exceeds its memory in a thousand parts, each of which it reads as a whole."""
    lengths, put_in_order = [], shuffle.Shuffler.__iter__

    def watched(self):
        lengths.append(max(self.bucket_lengths))
        return put_in_order(self)

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    monkeypatch.setattr(shuffle.Shuffler, "__iter__", watched)
    source = folder(tmp_path)
    arguments = [f"--source={source}", "--name=flowers", f"--data_dir={tmp_path}"]
    assert main(["prepare", "imagefolder", *arguments]) == 0
    assert lengths == [1, 1]
    found = [(row["label"], row["file_name"].decode()) for row in rows(tmp_path, "train")]
    assert found == sorted(found) and len(found) == 24


@pytest.fixture
def tail(tmp_path):
    """(source, list, its lines), which lacks one, two and three training images of the classes."""
    source = folder(tmp_path)
    lines = [
        f"train/{name}/{path.name} {label}"
        for label, name in enumerate(sorted(CLASSES))
        for path in sorted((source / "train" / name).iterdir())[label + 1 :]
    ]
    file = tmp_path / "train.txt"
    file.write_text("\n".join(lines) + "\n")
    return source, file, lines


def test_a_list_says_which_training_images_there_are(tail, tmp_path, capsys):
    source, file, lines = tail
    arguments = [f"--source={source}", "--name=flowers", f"--data_dir={tmp_path / 'data'}"]
    assert main(["prepare", "imagefolder", *arguments, f"--train_list={file}"]) == 0
    found = [
        f"train/{sorted(CLASSES)[row['label']]}/{row['file_name'].decode()} {row['label']}"
        for row in rows(tmp_path / "data", "train")
    ]
    assert found == lines and len(rows(tmp_path / "data", "validation")) == 9
    assert "dataset=flowers" in capsys.readouterr().out


def test_classes_are_sorted_by_name_wherever_a_list_finds_them(tmp_path):
    lines = ["a_set/zebra/0.jpg 1", "b_set/ant/0.jpg 0"]
    for line in [*lines, "val/ant/0.jpg 0", "val/zebra/0.jpg 1"]:
        path = tmp_path / line.split()[0]
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = read(tmp_path, None, train_list=tmp_path / "list.txt")
    assert found.classes == ["ant", "zebra"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "names no image, which is not there"),
        (lambda lines: ["train/none.jpg 0"], "line 1, is train/none.jpg 0: give lines such as"),
        (lambda lines: [*lines, "train/a/none.jpg 0"], "train/a/none.jpg, which is not there"),
        (lambda lines: [line[:-1] + "2" for line in lines], "the label 2, which is not the place"),
        (
            lambda lines: [*lines, lines[0].replace("train/", "val/")],
            "which is there to test on: give a list of training images",
        ),
    ],
)
def test_a_wrong_list_is_one_line(change, message, tail):
    source, file, lines = tail
    file.write_text("\n".join(change(lines)))
    with pytest.raises(UserError, match=message):
        read(source, None, train_list=file)
    with pytest.raises(UserError, match="--train_list=nowhere cannot be read"):
        read(source, None, train_list=pathlib.Path("nowhere"))


def test_what_is_no_jpeg_becomes_one_and_what_is_no_image_is_named_and_left_out(tmp_path, capfd):
    source = folder(tmp_path / "source", train=3)
    picture(7).save(source / "train/rose/drawn.png")
    (source / "train/rose/empty.jpg").write_bytes(b"")
    (source / "train/tulip/words.JPG").write_text("hello")
    (source / "train/tulip/notes.txt").write_text("not an image, and not meant as one")
    (source / "train/tulip/link.jpg").symlink_to("nowhere.jpg")
    for i in range(3):
        (source / f"val/tulip/tulip{i}.jpg").write_text("hello")
    assert (
        main(
            [
                "prepare",
                "imagefolder",
                f"--source={source}",
                "--name=mixed",
                f"--data_dir={tmp_path}",
            ]
        )
        == 0
    )
    told = capfd.readouterr()
    assert "wrote mixed, 10 train and 6 validation images" in told.out
    assert "of 3 classes: train: 3 to 4, validation (val/): 0 to 3" in told.out
    assert f"left out  {source}/val/tulip: a class without images\n" in told.err
    assert told.err.count("a class without images") == 1
    for name in ("empty.jpg", "words.JPG"):
        assert f"{name} is left out (no image that can be read)" in told.err
    assert "link.jpg is left out (No such file or directory)" in told.err
    drawn = next(
        row for row in rows(tmp_path, "train", "mixed") if row["file_name"] == b"drawn.png"
    )
    pixels = np.asarray(Image.open(io.BytesIO(bytes(drawn["image"]))), int)
    assert np.abs(pixels - np.asarray(picture(7), int)).mean() < 3


def test_imagenets_folders_become_imagenet2012(shared, tmp_path, capsys):
    """Real images in folders named as the official ones give the catalogue's dataset."""
    expected = imagenet_samples(shared, tmp_path / "source")
    typed = ["prepare", "imagefolder", f"--source={tmp_path / 'source'}", "--name=imagenet2012"]
    assert main([*typed, f"--data_dir={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert f"--config=configs/imagenet.py:batch=64 --config.data.data_dir={tmp_path}\n" in told
    found = {
        row["file_name"].decode(): row["label"]
        for split in ("train", "validation")
        for row in rows(tmp_path, split, "imagenet2012")
    }
    assert found == expected


def nested(folder: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
    """Moves a folder to a place; returns the folder around it."""
    place.parent.mkdir()
    return folder.rename(place).parent


@pytest.mark.parametrize(
    "mistake,message",
    [
        (
            lambda root: root / "nowhere",
            "is no folder: give one with train/CLASS/IMAGE and val/CLASS/IMAGE",
        ),
        (lambda root: (root / "val").rename(root / "other").parent, "has train/, but no val/"),
        (
            lambda root: (root / "val/rose").rename(root / "val/lily").parents[1],
            "lily is none of the 3 classes",
        ),
        (
            lambda root: root / "train/rose",
            "rose has no CLASS/IMAGE: its images must lie in a folder per class",
        ),
        (lambda root: root.parent, "jpg: give --source={root}\n"),
        (
            lambda root: nested(root / "val", root / "outer/inner"),
            "give --source={root}/outer/inner\n",
        ),
        (lambda root: nested(root / "val/rose", root / "one/rose"), "rose is the only class, and"),
    ],
)
def test_a_wrong_folder_is_one_line(mistake, message, tmp_path, capsys):
    source = mistake(folder(tmp_path / "source", train=2))
    assert (
        main(
            [
                "prepare",
                "imagefolder",
                f"--source={source}",
                "--name=wrong",
                f"--data_dir={tmp_path}",
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert message.format(root=tmp_path / "source") in error and len(error.splitlines()) == 1


def test_a_class_too_small_to_hold_any_out(tmp_path):
    with pytest.raises(UserError, match="daisy has 1 images: too few to hold 0.1 of them out"):
        read(folder(tmp_path, train=1) / "train", share=0.1)


@pytest.mark.parametrize(
    "name,message",
    [
        ("cifar100", "tfds has a dataset cifar100 with"),
        ("beans", "tfds has a dataset beans with image, label: give"),
        ("My-Pets", "--name=My-Pets: give small letters, digits and _, such as flowers"),
        ("../x", "--name=../x: give"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name, message, tmp_path, capsys):
    source = folder(tmp_path / "source", train=2)
    assert (
        main(
            [
                "prepare",
                "imagefolder",
                f"--source={source}",
                f"--name={name}",
                f"--data_dir={tmp_path}",
            ]
        )
        == 2
    )
    assert message in capsys.readouterr().err


def test_what_lies_elsewhere_is_told(tmp_path, capsys):
    source = folder(tmp_path / "source") / "train"
    rose = source / "rose/rose0.jpg"
    (source / "rose/sub").mkdir()
    (source / "empty").mkdir()
    for place in ("rose/sub/a.jpg", "rose/sub/b.PNG", "lost.jpg", "rose/notes.txt"):
        (source / place).write_bytes(rose.read_bytes())
    found = read(source, share=0.25)
    assert found.classes == list(CLASSES) and sum(map(len, found.files.values())) == 24
    assert capsys.readouterr().err.splitlines() == [
        f"left out  {source}: images that lie in no class (1)",
        f"left out  {source}/rose/sub: images that lie deeper than CLASS/IMAGE (2)",
        f"left out  {source}/empty: a class without images",
    ]
