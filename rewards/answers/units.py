"""Units of measure: what a trailing word or symbol says about the number before it.

A unit is a factor to its dimension's base unit, and the dimension as powers of base dimensions. Words that are no known
unit ("apples", "ways") are labels: a dimension of their own.
"""
# ruff: noqa: SIM905  a table of words reads better as words

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Dimensions = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """``factor`` base units of ``dimensions``; ``label`` where the words are no known unit."""

    factor: Fraction
    dimensions: Dimensions
    label: bool = False


def _table() -> dict[str, tuple[Fraction, str]]:
    rows = """
    length 1 m meter metre
    length 1000 km kilometer kilometre
    length 1/100 cm centimeter centimetre
    length 1/1000 mm millimeter millimetre
    length 1/1000000 micrometer um micron
    length 1/1000000000 nm nanometer
    length 1/10 dm decimeter
    length 381/1250 ft foot feet
    length 127/5000 in inch inches
    length 1143/1250 yd yard
    length 201168/125 mi mile
    mass 1 kg kilogram
    mass 1/1000 g gram gm
    mass 1/1000000 mg milligram
    mass 1000 ton tonne
    mass 45359237/100000000 lb lbs pound-mass
    mass 45359237/1600000000 oz ounce
    time 1 s sec second
    time 1/1000 ms millisecond
    time 60 min minute
    time 3600 h hr hour
    time 86400 day
    time 604800 week
    month 1 month
    month 12 year yr
    angle 1 degree deg
    angle 1/60 arcminute
    radian 1 radian rad
    dollar 1 dollar usd buck
    dollar 1/100 cent penny pennies
    euro 1 euro eur
    pound 1 pound gbp
    yen 1 yen jpy
    rupee 1 rupee inr
    volume 1/1000 l liter litre
    volume 1/1000000 ml milliliter millilitre
    volume 473176473/125000000000 gallon gal
    temperature-c 1 celsius
    temperature-f 1 fahrenheit
    current 1 ampere amp
    potential 1 volt v
    power 1 watt w
    power 1000 kw kilowatt
    energy 1 joule j
    energy 1000 kj kilojoule
    energy 1000000 mj megajoule
    pressure 1000 kpa kilopascal
    force 1000 kn kilonewton
    frequency 1000 khz kilohertz
    frequency 1000000 mhz megahertz
    frequency 1000000000 ghz gigahertz
    potential 1000 kv kilovolt
    force 1 newton n
    pressure 1 pascal pa
    frequency 1 hertz hz
    amount 1 mol mole
    percent 1 percent percentage %
    """
    table: dict[str, tuple[Fraction, str]] = {}
    for row in rows.split("\n"):
        if row.strip():
            dimension, factor, *names = row.split()
            for name in names:
                table[name] = (Fraction(factor), dimension)
    return table


_TABLE = _table()
_BARE = frozenset(
    "in sq cu km cm mm kg mg ft lb lbs oz mph "
    "kph kmh km/h m/s cents cent ml hr hrs sec min yd mi rad usd eur gbp inches feet "
    "meters meter hours hour minutes minute seconds days day weeks years year dollars degrees percent "
    "units unit am pm".split()
)
_PIECE = re.compile(r"([a-z%°]+)(?:\^?\{?(-?\d)\}?)?")
_HYPHEN = re.compile(r"(?<=[a-z])-(?=[a-z])")
_AFTER = {"squared": 2, "cubed": 3}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_WORDS_AS_UNITS = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour", "kmph": "km/hour", "fps": "ft/second"}
_SCALE = Fraction(1)


def is_unit(word: str) -> bool:
    """Whether a bare word after a number is read as a unit, and not as a product of letters."""
    return word.lower() in _BARE


@lru_cache(maxsize=2048)
def read_unit(text: str) -> Unit:
    """The unit that a text such as "cm^2", "square meters", "miles per hour" or "apples" stands for."""
    plain = " ".join(text.lower().replace(".", " ").split()).replace("per cent", "percent")
    plain = re.sub(r"\s*\bper\b\s*", "/", plain).replace("*", " ").replace("\\", "")
    plain = plain.removesuffix(" old")  # years old
    plain = plain.removeprefix("degrees ") if plain.endswith(("celsius", "fahrenheit")) else plain
    plain = _WORDS_AS_UNITS.get(plain, plain)
    known = _known(plain)
    return known if known is not None else Unit(Fraction(1), ((_singular_label(plain), 1),), label=True)


def _known(plain: str) -> Unit | None:
    if plain in ("unit", "units"):
        return Unit(Fraction(1), (("unit", 1),))
    factor = Fraction(1)
    powers: dict[str, int] = {}
    for part, side in enumerate(plain.split("/")):
        pending = 0
        last: tuple[Fraction, str] | None = None
        for word in _HYPHEN.sub(" ", side).split():
            if word in _POWERS:
                pending = _POWERS[word]
                continue
            if word in _AFTER and last:
                factor *= last[0] ** (_AFTER[word] - 1) if not part else Fraction(1) / last[0] ** (_AFTER[word] - 1)
                powers[last[1]] += (_AFTER[word] - 1) * (-1 if part else 1)
                continue
            match = _PIECE.fullmatch(word)
            if match is None:
                return None
            unit = _lookup(match[1])
            if unit is None:
                return None
            last = unit
            power = (pending or int(match[2] or 1)) * (-1 if part else 1)
            pending = 0
            factor *= unit[0] ** power
            name, times = ("length", 3) if unit[1] == "volume" else (unit[1], 1)
            powers[name] = powers.get(name, 0) + power * times
    dimensions = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(factor, dimensions) if dimensions else None


def _lookup(word: str) -> tuple[Fraction, str] | None:
    if word in ("unit", "units"):
        return Fraction(1), "unit"
    return _TABLE.get(word) or (_TABLE.get(word[:-1]) if word.endswith("s") and len(word) > 2 else None)


def _singular_label(text: str) -> str:
    words = [word[:-1] if word.endswith("s") and len(word) > 3 else word for word in text.split()]
    return " ".join(words)
