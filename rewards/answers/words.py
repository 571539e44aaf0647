"""Words that mean something in an answer: functions, numbers, scales, lead-ins and standing phrases."""
# ruff: noqa: SIM905  a table of words reads better as words

from __future__ import annotations

import re
from fractions import Fraction

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh coth sech csch "
    "arcsin arccos arctan arccot arcsec arccsc arsinh arcosh artanh "
    "asin acos atan sgn ln log lg exp sqrt cbrt abs floor ceil ceiling min max gcd lcm det deg cis Re Im arg".split()
)
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc"}
INVERSE |= {"sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh"}
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log", "ceiling": "ceil"}
ALIASES |= {"arcsinh": "arsinh", "arccosh": "arcosh", "arctanh": "artanh", "tg": "tan", "ctg": "cot"}

GREEK = frozenset(
    "alpha beta gamma delta epsilon "
    "varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "Pi": "pi"}

SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SIMPLE = {word: value for value, word in enumerate(_ONES)} | {word: 20 + 10 * step for step, word in enumerate(_TENS)}

_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4}
_PARTS |= {"fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10}

PHRASES = {
    "no solution": "{}",
    "no solutions": "{}",
    "no real solution": "{}",
    "no real solutions": "{}",
    "no answer": "{}",
    "empty set": "{}",
    "the empty set": "{}",
    "all real numbers": "R",
    "all reals": "R",
    "real numbers": "R",
    "all real": "R",
    "all integers": "Z",
    "integers": "Z",
    "dne": "does not exist",
    "doesn't exist": "does not exist",
    "limit does not exist": "does not exist",
    "infinite": "infinity",
    "minus infinity": "negative infinity",
    "t": "true",
    "f": "false",
}

_LEAD_IN = re.compile(
    r"^[\s*_]*(?:(?:so|thus|therefore|hence|then|and|we (?:get|have|find)|it is|this is|there are|there is)\b[\s,:]*)*"
    r"(?:(?:the|my|our)\s+)?(?:(?:final|correct|exact|required|only|possible|desired)\s+)*"
    r"(?:answers?|results?|solutions?|values?)(?:\s+(?:choice|of\s+[^:=]{1,40}?))?\s*(?:is|are|equals?|:|=)+\s*:?\s*",
    re.I,
)
_APPROX = re.compile(r"^\s*(?:approximately|approx\.?|about|roughly|exactly|equals?|is|only)\s+", re.I)


_CONNECTIVE = re.compile(
    r"^\s*(?:(?:so|thus|therefore|hence|then|finally|consequently|we (?:get|have|find|obtain|conclude)(?: that)?|"
    r"it follows that|this gives|which gives|giving)\b[\s,:]*)+",
    re.I,
)
_SENTENCE = re.compile(
    r"^\s*(?:the|their|his|her|its|our|there|\w+)\s[a-z ,'-]{0,80}?\b(?:is|are|was|equals|will be|would be|must be)\s+"
    r"(?:equal to\s+|exactly\s+|about\s+|approximately\s+)?(?=[\d$\\(+.-])",
    re.I,
)
_WRAPPED = re.compile(r"^\s*\\text(?:bf|it|rm)?\{([A-Za-z ,']{1,60}(?::|=|\bis|\bare))\s*\}")
_ARTICLE = re.compile(r"^\s*(?:a|an|the|An|The)\s+(?=[a-zA-Z]{3})")
_ON = re.compile(r"^\s*(?i:it is|it's|on|in)\s+(?=[A-Z][a-z]{2})|^\s*(?i:it is|it's)\s+(?=[a-z]{4})")
_DENIES = re.compile(
    r"\b(?:not|never|no|or|if|maybe|perhaps|between|than|least|most|neither|either|isn't)\b|n't\b", re.I
)


def without_lead_in(text: str) -> str:
    """The text without what leads up to an answer: "So the final answer is", "Answer:", "The total is", "about"."""
    if len(text) > 4000:
        return text
    text = _WRAPPED.sub(r"\1 ", text, count=1)
    text = _LEAD_IN.sub("", _CONNECTIVE.sub("", text, count=1), count=1)
    sentence = _SENTENCE.match(text)
    if sentence is not None and not _DENIES.search(sentence.group()):
        text = text[sentence.end() :]
    return _ARTICLE.sub("", _ON.sub("", _APPROX.sub("", text, count=1), count=1), count=1)


def number_word(text: str) -> Fraction | None:
    """The number that English words spell, up to the trillions, simple fractions included, or None."""
    sign, _, rest = text.lower().strip().partition(" ")
    if sign in ("negative", "minus") and rest:
        value = number_word(rest)
        return None if value is None else -value
    words = re.split(r"[\s-]+", text.lower().replace(" and ", " ").strip())
    if words and words[-1] in _PARTS and len(words) <= 3:
        top = number_word(" ".join(words[:-1])) if len(words) > 1 and words[0] != "a" else Fraction(1)
        return None if top is None else top / _PARTS[words[-1]]
    if not words or len(words) > 20 or any(word not in _SIMPLE and word not in SCALES for word in words):
        return None
    total = current = 0
    for word in words:
        if word in _SIMPLE:
            current += _SIMPLE[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        else:
            total += max(current, 1) * SCALES[word]
            current = 0
    return Fraction(total + current)


def plain_words(text: str) -> str:
    """The words of a text answer in a form that compares: lower case, no punctuation, no article, one blank between."""
    words = re.findall(r"[\w'%-]+", text.lower())
    return " ".join(word for word in words if word not in {"the", "a", "an"} or len(words) == 1)


_OPENING = re.compile(r"^(?:there (?:is|are|exists?)|it is|it has|has|have) ")


def without_opening(words: str) -> str:
    """Plain words without "there is", "it has" and the like before them."""
    return _OPENING.sub("", words, count=1)
