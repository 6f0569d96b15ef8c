"""Rules for the values of a config, and the types with which a method annotates its numbers."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

HUGE = 1e12  # its square still fits in a 32-bit float
FORMATS = {int: "d", float: "g"}


class Rule(NamedTuple):
    """What a value may be.

    Attributes:
      fits: whether a value is allowed, apart from `least` and `most`.
      text: which values are allowed, in words.
      least: the smallest number that can be computed with; of a sequence, for each element.
      most: the largest one.
    """

    fits: Callable[[Any], bool]
    text: str
    least: float = -math.inf
    most: float = math.inf

    def advice(self, value: Any) -> str:
        """What to give instead of a value; "" if the value is allowed."""
        parts = value if is_sequence(value) else [value]
        given = [part for part in parts if is_number(part)]
        if any(part > self.most for part in given):
            return f"{self.most:{FORMATS[type(self.most)]}} at most"
        if not self.fits(value):
            return self.text
        if any(part < self.least for part in given):
            return f"{self.least:{FORMATS[type(self.least)]}} at least"
        return ""


def counts_epochs(name: str, number: Any) -> bool:
    """Whether a method's number counts epochs of its student, as DKD's `warmup_epochs` does."""
    return name.endswith("_epochs") and name != "task_epochs" and is_number(number)


def is_number(value: Any) -> bool:
    """Whether it is a finite real number; True and False are not."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and -math.inf < value < math.inf  # isfinite fails on whole numbers like 10**400


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def number(fits: Callable[[float], bool], text: str) -> Rule:
    """Any number for which `fits` is true and which can be computed with in 32 bits."""
    return Rule(lambda value: is_number(value) and fits(value), text, -HUGE, HUGE)


def whole(low: int, most: int = 2**31 - 1) -> Rule:
    """A whole number from `low` to `most`, by default the largest signed 32-bit integer."""
    return Rule(
        lambda value: is_whole(value) and low <= value <= most,
        f"a whole number from {low} on",
        most=most,
    )


def three(fits: Callable[[float], bool], text: str) -> Rule:
    """A rule for three numbers, one for each colour."""

    def fit(value: Any) -> bool:
        is_triple = is_sequence(value) and len(value) == 3
        return is_triple and all(is_number(part) and fits(part) for part in value)

    return Rule(fit, text)


def one_of(*names: str) -> Rule:
    """One of some names."""
    return Rule(lambda value: value in names, f"one of {', '.join(map(repr, names))}")


POSITIVE = number(lambda value: value > 0, "a number above 0")._replace(least=1 / HUGE)
NOT_NEGATIVE = number(lambda value: value >= 0, "a number, 0 or more")
SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
BELOW_ONE = number(lambda value: 0 <= value < 1, "a number from 0, but below 1")
PART = number(lambda value: 0 < value <= 1, "a number above 0, 1 at most")
SIDE = whole(8, 4096)  # of an image, in pixels
# Of images whose colours count from 0 to 1.
MEAN = three(lambda value: 0 <= value <= 1, "three numbers from 0 to 1")
STD = three(lambda value: 0 < value <= 1, "three numbers above 0, 1 at most")._replace(least=1e-6)
FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
TEXT = Rule(lambda value: isinstance(value, str), "text")

# The annotations for the arguments of a method's factory.
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Share = Annotated[float, SHARE]
BelowOne = Annotated[float, BELOW_ONE]
Index = Annotated[int, whole(0)]
Count = Annotated[int, whole(1)]
Flag = Annotated[bool, FLAG]
