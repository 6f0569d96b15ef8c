"""Converts any image file to a JPEG, without trusting its content, its name or its type."""

import io
import itertools
import os
import pathlib
import re

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

# PIL tries only these formats, whatever the file's name: others start programs, or are read by
# code that is little tested.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
QUALITY = 95  # of the JPEGs to which other images are converted
LARGEST = 2**28  # bytes of an image file

SCANS = 200  # the most that a JPEG may have; progressive ones have about ten
# A marker that starts a segment: not an escaped byte 0xFF, a restart marker or a fill byte.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
GREY = (127, 128)  # levels with which JPEG decoders fill missing data
# Data that any entropy decoder takes for pixels: alone, and after each of the 8 restart markers.
FILLING = bytes(range(255)) * 4
MORE_DATA = FILLING + b"".join(bytes((0xFF, 0xD0 + i)) + FILLING for i in range(8))

GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N")  # PIL's modes of grey with up to 16 bits
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
WHITE_IS_ZERO = 0


class Unreadable(Exception):
    """An image file that is left out; its text says why."""


def jpeg(path: pathlib.Path) -> bytes:
    """The bytes of a JPEG file as they are; any other image is encoded as a JPEG.

    Raises:
      Unreadable: a JPEG lacks pixels, or the range of another image's pixels is not known.
      Exception: any, as a damaged image can cause any error in its reader.
    """
    content = contents(path)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:  # reads the header alone
        if isinstance(image, JpegImageFile):
            check_jpeg(image, content)
            return content
        encoded = io.BytesIO()
        eight_bits(image).convert("RGB").save(encoded, "JPEG", quality=QUALITY, subsampling=0)
    return encoded.getvalue()


def contents(path: pathlib.Path) -> bytes:
    """The bytes of a file; one that is too large, or a pipe or device, is `Unreadable`."""
    if path.exists() and not path.is_file():
        raise Unreadable("it is no file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise Unreadable(f"it has more than {LARGEST >> 20} MiB")
        return file.read(size)


def check_jpeg(image: Image.Image, content: bytes) -> None:
    """Raises an error if a JPEG is cut short, or has fewer pixels than its header says.

    Decoders stop at an end marker and fill the rest of the image with grey. So an image whose last
    pixel is grey is decoded again, with more data inserted before the marker: the result differs
    only if pixels are missing.

    Args:
      image: opened, and not yet decoded.
      content: of its file.

    Raises:
      Unreadable: it lacks pixels.
      OSError: it can't be decoded.
    """
    ends = scan_ends(content)
    found = an_eighth(image)
    if np.isin(found[-1, -1], GREY).all():
        parts = [content[start:end] for start, end in itertools.pairwise([0, *ends, len(content)])]
        with Image.open(io.BytesIO(MORE_DATA.join(parts)), formats=FORMATS) as longer:
            if not np.array_equal(found, an_eighth(longer)):
                raise Unreadable("its last rows are missing")


def scan_ends(content: bytes) -> list[int]:
    """The position, in bytes, at which the data of every scan of a JPEG end.

    Raises:
      Unreadable: it has no end marker, or so many scans that decoding would take minutes.
    """
    ends, at, in_scan = [], 2, False
    while marker := MARKER.search(content, at):
        if in_scan:
            ends.append(marker.start())
        kind, at = content[marker.start() + 1], marker.end()
        if kind == END_OF_IMAGE:
            return ends
        in_scan = kind == START_OF_SCAN
        if len(ends) + in_scan > SCANS:
            raise Unreadable(f"it has more than {SCANS} scans")
        at += int.from_bytes(content[at : at + 2], "big")  # the length of what follows
    raise Unreadable("it is cut short")


def an_eighth(image: Image.Image) -> np.ndarray:
    """The pixels [H, W, C] of a JPEG at an eighth of its size, which is quicker to decode."""
    image.draft(None, (1, 1))
    return np.asarray(image).reshape(image.height, image.width, -1)


def eight_bits(image: Image.Image) -> Image.Image:
    """The image; a grey one with more than 8 bits is converted to 8 bits.

    Raises:
      Unreadable: the range of its pixels is not known.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if image.mode in GREY_16:
        largest = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    elif image.mode == "I" and image.format in ("PNG", "PPM"):
        largest = 2**16 - 1
    elif image.mode in ("I", "F"):
        raise Unreadable("the range of its pixels is not known: save it with 8 or 16 bits")
    else:
        return image
    grey = np.asarray(image).clip(0, largest).astype(np.uint32)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = largest - grey
    return Image.fromarray(np.uint8((grey * 255 + largest // 2) // largest))
