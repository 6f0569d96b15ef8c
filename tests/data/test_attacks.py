"""Preparing images from files that are damaged, hostile or odd; killed starts; spoiled caches."""

import fcntl
import io
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from official_files import cifar100
from pictures import folder, picture
from PIL import EpsImagePlugin, Image
from PIL.JpegImagePlugin import JpegImageFile

from sskd_jax.__main__ import main
from sskd_jax.data import image_file, official, prepared
from sskd_jax.data.cached import cached
from sskd_jax.data.image_file import Unreadable, jpeg
from sskd_jax.data.imagefolder import readable
from sskd_jax.types import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
Change = Callable[[bytes], bytes]


def prepare(source: pathlib.Path, data_dir: pathlib.Path, *more: str) -> int:
    return main(
        [
            "prepare",
            "imagefolder",
            f"--source={source}",
            "--name=odd",
            f"--data_dir={data_dir}",
            *more,
        ]
    )


def error_line(capfd: pytest.CaptureFixture) -> str:
    """The last line on stderr; progress bars and damaged images may stand before it."""
    line = capfd.readouterr().err.rstrip("\n").replace("\r", "\n").splitlines()[-1]
    assert line.startswith("error: ")
    return line


def written(data_dir: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "odd").glob("*"))


@pytest.fixture
def in_time() -> Iterator[None]:
    """Fails what hangs for two seconds."""

    def late(*args: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 2)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def stored(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)


# Grey images of more than 8 bits.

STEPS = np.linspace(0, 1, 40 * 48).reshape(40, 48)  # from black to white
HEADER = struct.Struct("<2sHI")


def tiff(bits: int, photometric: int, content: bytes) -> bytes:
    """A grey TIFF of 48 x 40 pixels by its definition."""
    tags = {256: 48, 257: 40, 258: bits, 259: 1, 262: photometric}
    tags |= {273: 8, 277: 1, 278: 40, 279: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return HEADER.pack(b"II", 42, 8 + len(content)) + content + directory


def packed(values: np.ndarray) -> bytes:
    """Numbers of 12 bits, two in three bytes."""
    a, b = values.reshape(-1, 2).T
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=-1).astype(np.uint8).tobytes()


def whole(largest: int, dtype: str = "<u2") -> np.ndarray:
    return np.round(STEPS * largest).astype(dtype)


WIDE = {
    "16.png": stored(Image.fromarray(whole(65535)), "PNG"),
    "16.tif": stored(Image.fromarray(whole(65535)), "TIFF"),
    "swapped.tif": stored(Image.fromarray(whole(65535, ">u2")), "TIFF"),
    "12.tif": tiff(12, 1, packed(whole(4095))),
    "inverted.tif": tiff(16, 0, (65535 - whole(65535)).tobytes()),
    "16.ppm": b"P5 48 40 65535\n" + whole(65535, ">u2").tobytes(),
    "10.ppm": b"P5 48 40 1023\n" + whole(1023, ">u2").tobytes(),
}


@pytest.mark.parametrize("name", WIDE)
def test_grey_of_many_bits_is_scaled_to_eight(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(WIDE[name])
    assert np.abs(pixels(jpeg(path)) - 255 * STEPS[..., None]).max() < 3


@pytest.mark.parametrize("dtype", ["<f4", "<i4"])
def test_numbers_of_unknown_range_are_left_out(dtype, tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray((200 * STEPS).astype(dtype)).save(path)
    with pytest.raises(Unreadable, match="range of its pixels is not known: save it with 8 or 16"):
        jpeg(path)


# JPEGs that lack pixels.


def noisy(seed: int = 0) -> Image.Image:
    """A picture whose JPEG has data for every part of it."""
    noise = np.random.default_rng(seed).integers(-40, 40, (96, 128, 3))
    smooth = np.asarray(picture(seed, 96, 128), int)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


KINDS = {
    "usual": {},
    "full colour": {"subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
}


def marker(content: bytes, *kinds: int) -> int:
    return min(at for kind in kinds if (at := content.find(bytes((0xFF, kind)))) >= 0)


def doubled(content: bytes, place: int) -> bytes:
    """With another height (place 5) or width (place 7) in its header."""
    at = marker(content, 0xC0, 0xC2) + place
    size = 2 * int.from_bytes(content[at : at + 2], "big")
    return content[:at] + size.to_bytes(2, "big") + content[at + 2 :]


def cut(content: bytes) -> bytes:
    """Without half of what its first scan holds."""
    start, end = marker(content, 0xDA), image_file.scan_ends(content)[0]
    return content[: (start + end) // 2]


CHANGES: dict[str, tuple[Change, str]] = {
    "cut": (cut, "it is cut short"),
    "without its end mark": (lambda content: content[:-2], "it is cut short"),
    "cut, with an end mark": (lambda content: cut(content) + b"\xff\xd9", "last rows are missing"),
    "too high": (lambda content: doubled(content, 5), "last rows are missing"),
    "too wide": (lambda content: doubled(content, 7), "last rows are missing"),
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_jpegs_that_lack_pixels_are_left_out_and_no_others(kind, mode, tmp_path):
    path, sound = tmp_path / "x.jpg", stored(noisy().convert(mode), "JPEG", **KINDS[kind])
    path.write_bytes(sound)
    assert jpeg(path) == sound
    for change, message in CHANGES.values():
        path.write_bytes(change(sound))
        with pytest.raises(Unreadable, match=message):
            jpeg(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_ends_in_grey_is_kept(kind, tmp_path):
    path = tmp_path / "x.jpg"
    grey = noisy()
    grey.paste((128, 128, 128), (0, 32, 128, 96))
    path.write_bytes(stored(grey, "JPEG", **KINDS[kind]))
    assert jpeg(path) == path.read_bytes()


def test_real_images_are_kept(shared):
    files = sorted((shared / "data/imagenet_samples").glob("*.JPEG"))
    assert files and all(jpeg(path) == path.read_bytes() for path in files)


def test_what_lies_behind_the_end_is_no_damage(tmp_path):
    """Phones append videos and second images, and put small images into the header."""
    path = tmp_path / "x.jpg"
    small = stored(picture(1), "JPEG")
    header = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    sound = stored(noisy(), "JPEG")
    path.write_bytes(sound[:2] + header + sound[2:] + small + b"video")
    assert jpeg(path) == path.read_bytes()
    path.write_bytes(sound[:2] + header + cut(sound)[2:])
    with pytest.raises(Unreadable, match="it is cut short"):
        jpeg(path)
    several = stored(noisy(), "MPO", save_all=True, append_images=[noisy(1)])
    path.write_bytes(several)
    assert isinstance(Image.open(path), JpegImageFile) and jpeg(path) == several


def test_scans_without_end(tmp_path):
    path, content = tmp_path / "x.jpg", stored(noisy(), "JPEG", progressive=True)
    last = content.rfind(b"\xff\xda")
    path.write_bytes(content[:-2] + content[last : last + 10] * 1000 + content[-2:])
    with pytest.raises(Unreadable, match="it has more than 200 scans"):
        jpeg(path)


# Any bytes under any name.

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF", "DDS", "SPIDER", "BLP")


def some_image(form: str) -> bytes:
    """A small one, where PIL can write the format here."""
    image = {"SPIDER": picture(2).convert("F"), "BLP": picture(2).quantize()}
    try:
        return stored(image.get(form, picture(2)), form)
    except (KeyError, OSError):
        pytest.skip(f"PIL has no {form} here")


@pytest.mark.filterwarnings("ignore")  # PIL's
@pytest.mark.parametrize("form", FORMATS)
def test_damage_in_any_format_is_named_and_nothing_else_happens(form, tmp_path):
    draw, sound = random.Random(0), some_image(form)
    path = tmp_path / "x.png"
    for _ in range(60):
        content = bytearray(sound)
        for _ in range(draw.choice((1, 5, 30))):
            content[int(len(content) * draw.random() ** 3)] = draw.randrange(256)
        path.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
        try:
            assert pixels(readable(path)).size
        except Unreadable as error:
            assert "\n" not in str(error) and len(str(error)) < 100


def test_an_error_of_any_kind_while_reading_is_no_error_of_the_disk(tmp_path, monkeypatch, capfd):
    source = folder(tmp_path / "source", train=3)

    def refuse(image: Image.Image, content: bytes) -> None:
        if image.mode == "CMYK":
            raise RuntimeError("what the reader of a format raises")

    monkeypatch.setattr(image_file, "check_jpeg", refuse)
    assert prepare(source, tmp_path) == 0
    told = capfd.readouterr()
    assert told.err.count("is left out (no image that can be read)") == 6
    assert "wrote odd, 6 train and 6 validation images" in told.out


def test_a_postscript_file_starts_no_program(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "x.png").write_text(text)
    with pytest.raises(Unreadable, match="no image that can be read"):
        readable(tmp_path / "x.png")
    assert not (tmp_path / "ran").exists()
    with Image.open(tmp_path / "x.png") as image, pytest.raises(OSError):
        image.load()
    assert (tmp_path / "ran").exists()  # so the attack is a real one


def test_a_pipe_a_device_and_a_huge_file(tmp_path, in_time):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe", "device", "folder"):
        with pytest.raises(Unreadable, match="it is no file"):
            readable(tmp_path / f"{name}.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(Unreadable, match="it has more than 256 MiB"):
        readable(tmp_path / "huge.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    with pytest.raises(Unreadable, match="No such file"):
        readable(tmp_path / "nowhere.jpg")


# Names, splits and shares.


def undecodable(path: pathlib.Path, name: bytes) -> pathlib.Path:
    return pathlib.Path(os.fsdecode(os.fsencode(path) + b"/" + name))


def test_file_names_that_are_no_utf8(tmp_path, capfd):
    source = folder(tmp_path / "source", train=3)
    (source / "train/rose/rose0.jpg").rename(undecodable(source / "train/rose", b"caf\xe9.jpg"))
    undecodable(source / "train/rose", b"bad\xff\n.jpg").write_bytes(b"")
    assert prepare(source, tmp_path) == 0
    told = capfd.readouterr()
    assert r"bad\xff\n.jpg is left out (no image that can be read)" in told.err
    assert "wrote odd, 9 train and 9 validation images" in told.out
    rows = prepared.open_builder("odd", str(tmp_path)).as_data_source("train")
    assert rb"caf\xe9.jpg" in [row["file_name"] for row in rows]


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b" a", b"a "])
def test_class_names_that_cannot_be_kept(name, tmp_path, capfd):
    source = folder(tmp_path / "source", train=3)
    for split in ("train", "val"):
        (source / split / "rose").rename(undecodable(source / split, name))
    assert prepare(source, tmp_path) == 2
    line = error_line(capfd)
    assert "a class, is not named in UTF-8, in one line and without spaces around: rename" in line
    assert not written(tmp_path)


def test_a_folder_of_datasets_that_is_no_utf8(tmp_path, capfd):
    source = folder(tmp_path / "source", train=3)
    assert prepare(source, undecodable(tmp_path, b"caf\xe9")) == 2
    assert r"caf\xe9 is not UTF-8: rename it" in error_line(capfd)


def test_a_source_with_a_name_too_long(tmp_path, capfd):
    assert prepare(tmp_path / ("x" * 5000), tmp_path) == 2
    assert "File name too long" in error_line(capfd)


@pytest.mark.parametrize("split, place", [("train", "train"), ("validation", "val")])
def test_a_split_of_damaged_images_alone(split, place, tmp_path, capfd):
    source = folder(tmp_path / "source", train=3)
    for path in (source / place).rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:100])
    assert prepare(source, tmp_path) == 2
    line = error_line(capfd)
    assert f"none of the 9 images of {split}, such as {source / place}/daisy/daisy0.jpg" in line
    assert not written(tmp_path)


@pytest.mark.parametrize("share", ["nan", "0", "-0.1", "1", "inf", "-inf"])
def test_a_share_that_is_none(share, tmp_path, capfd):
    source = folder(tmp_path / "source", train=3) / "train"
    assert prepare(source, tmp_path, f"--held_out={share}") == 2
    assert f"--held_out={float(share)}: give a number above 0 and below 1" in error_line(capfd)


# Starts that are killed, or meet another one.

KILLED = """
import os, pathlib, signal, sys
from sskd_jax.data import prepared

class Builder:
    name, data_dir = "odd", sys.argv[1] + "/odd/1.0.0"
    def _split_generators(self, dl_manager):
        os.kill(os.getpid(), signal.SIGKILL)

builder = Builder()
with prepared.alone(builder):
    builder.data_dir = sys.argv[1] + "/odd/incomplete.ABCDEF_1.0.0"
    pathlib.Path(builder.data_dir, "part").mkdir(parents=True)
    builder._split_generators(None)
"""


def test_the_next_start_deletes_what_a_killed_one_left(tmp_path):
    source = folder(tmp_path / "source", train=3)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert written(tmp_path) == [".preparing", "incomplete.ABCDEF_1.0.0"]
    (tmp_path / "odd/incomplete.GHIJKL_1.0.0").mkdir()  # of tfds, which may still be at work
    assert prepare(source, tmp_path) == 0
    assert written(tmp_path) == [".1.0.0.origin", "1.0.0", "incomplete.GHIJKL_1.0.0"]


def test_what_was_left_long_ago_is_deleted(tmp_path):
    """By tfds, or by a start that was killed before it could note its folder."""
    source = folder(tmp_path / "source", train=3)
    for name, days in (("old", 2), ("at_work", 2), ("new", 0)):
        left = tmp_path / f"odd/incomplete.{name}_1.0.0"
        left.mkdir(parents=True)
        (left / "file").write_text("")
        for path in (left / "file", left):
            os.utime(path, (time.time() - days * 86_400,) * 2)
    os.utime(tmp_path / "odd/incomplete.at_work_1.0.0/file")
    assert prepare(source, tmp_path) == 0
    assert written(tmp_path) == [
        ".1.0.0.origin",
        "1.0.0",
        "incomplete.at_work_1.0.0",
        "incomplete.new_1.0.0",
    ]


def test_a_note_deletes_nothing_else(tmp_path):
    source = folder(tmp_path / "source", train=3)
    (tmp_path / "odd/0.9.0").mkdir(parents=True)
    (tmp_path / "odd/.preparing").write_text(str(tmp_path / "odd/0.9.0"))
    assert prepare(source, tmp_path) == 0
    assert written(tmp_path) == [".1.0.0.origin", "0.9.0", "1.0.0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(number, tmp_path, monkeypatch, capfd):
    source = folder(tmp_path / "source", train=3)

    def stop(image: Image.Image, content: bytes) -> None:
        first, *others = written(tmp_path)
        assert first == ".1.0.0.origin"  # so a killed start leaves no dataset without it
        assert [name for name in others if name.startswith("incomplete.")]
        signal.raise_signal(number)

    monkeypatch.setattr(image_file, "check_jpeg", stop)
    assert prepare(source, tmp_path) == 75
    line = f"stopped: {number.name}: nothing was written; the same command begins anew\n"
    assert capfd.readouterr().err.endswith(line)
    assert not written(tmp_path)


def test_two_at_once(tmp_path, capfd):
    source = folder(tmp_path / "source", train=3)
    (tmp_path / "odd").mkdir()
    with (tmp_path / "odd/.preparing").open("w") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        assert prepare(source, tmp_path) == 2
    assert f"another process writes odd to {tmp_path}: wait for it" in error_line(capfd)


# Caches.

LABELS = {"label": np.arange(10, dtype=np.int32), "start": np.arange(6).reshape(2, 3)}


def test_no_bit_of_a_cache_can_change_unnoticed(tmp_path):
    path = tmp_path / "cache.npz"
    cached(path, "key", lambda: LABELS)
    sound = path.read_bytes()
    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(True)
        return LABELS

    for bit in range(0, 8 * len(sound), 31):
        spoiled = bytearray(sound)
        spoiled[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoiled)
        for name, array in cached(path, "key", make).items():
            if name in LABELS:
                np.testing.assert_array_equal(array, LABELS[name], strict=True)
    assert len(made) > len(sound) // 8


@pytest.mark.parametrize(
    "old, new",
    [
        (b"'shape': (90000,)", b"'shape': (80000,)"),  # fewer labels
        (b"'<i4'", b"'<u2'"),  # other labels
        (b"label.npy", b"lebal.npy"),  # under another name
    ],
)
def test_a_cache_whose_header_is_damaged_is_made_anew(old, new, tmp_path):
    path, labels = tmp_path / "cache.npz", np.arange(90_000, dtype=np.int32)
    cached(path, "key", lambda: {"label": labels})
    sound = path.read_bytes()
    assert old in sound
    path.write_bytes(sound.replace(old, new))
    for make in (lambda: {"label": labels}, None):  # made anew, and then there
        found = cached(path, "key", make)
        np.testing.assert_array_equal(found["label"], labels, strict=True)


def test_the_next_writer_deletes_parts_that_killed_ones_left(tmp_path):
    path, other = tmp_path / "a[1].npz", tmp_path / "b.npz.12345678.part"
    left, at_work = (path.with_name(f"a[1].npz.{name}.part") for name in ("0a", "0b"))
    for part in (left, at_work, other):
        part.write_bytes(b"PK")
    with at_work.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cached(path, "key", lambda: LABELS)
    assert sorted(tmp_path.iterdir()) == [path, at_work, other]


def test_a_cache_that_is_a_pipe(tmp_path, in_time):
    os.mkfifo(tmp_path / "cache.npz")
    assert cached(tmp_path / "cache.npz", "key", lambda: LABELS) is LABELS


# The official files of CIFAR.


def test_a_pipe_among_the_official_files(tmp_path, in_time):
    source = prepared.root(str(cifar100(tmp_path)))
    (source / "test").unlink()
    os.mkfifo(source / "test")
    with pytest.raises(UserError, match="lacks the official file test"):
        official.read("cifar100", source)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a pipe or a device: give the official folder"):
        official.read("cifar100", prepared.root(str(tmp_path / "pipe")))


def test_an_archive_that_unpacks_to_more_than_there_can_be(tmp_path):
    class Zeros(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return bytes(size)

    source = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(source, "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("cifar-100-python/train")
        member.size = 2**20
        archive.addfile(member, Zeros())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(official, "LARGEST", 2**19)
        with pytest.raises(UserError, match="unpacks to more than 0 MiB, so it is not"):
            official.read("cifar100", prepared.root(str(source)))
