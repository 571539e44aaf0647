"""Language consistency, as DeepSeek-R1 adds it to RL (arXiv:2501.12948, section 2.3.2).

The reward is the share of target-language words in the reasoning. A word's language is told by its script, which is
what mixing shows in practice (an English chain of thought that slips into Chinese); two languages of one script are
not told apart.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rewards.errors import BadSetting
from rewards.protocol import Sample, Score
from rewards.simple import Simple

# The scripts that a language is written in, by the first word of a character's Unicode name.
SCRIPTS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("en", "fr", "de", "es", "it", "pt", "nl", "pl", "tr", "vi", "id"), frozenset({"LATIN"})),
    **dict.fromkeys(("ru", "uk", "bg"), frozenset({"CYRILLIC"})),
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    "ko": frozenset({"HANGUL"}),
    "ar": frozenset({"ARABIC"}),
    "fa": frozenset({"ARABIC"}),
    "he": frozenset({"HEBREW"}),
    "el": frozenset({"GREEK"}),
    "hi": frozenset({"DEVANAGARI"}),
    "th": frozenset({"THAI"}),
}
_UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI"})  # written without spaces: each character is a word
_WORD = re.compile(r"[^\W\d_]+")
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|\$\$.*?\$\$|\$[^$\n]*\$|\\[a-zA-Z]+", re.DOTALL)


class LanguageReward(Simple):
    """The share, from 0.0 to 1.0, of the response's words that are of the target language.

    ``target`` is an ISO 639-1 code; a problem's own ``language`` field overrides it. Code blocks, formulas and LaTeX
    commands are not words. A response without words scores ``empty``: 1.0, because it mixes nothing.
    """

    def __init__(self, target: str = "en", empty: float = 1.0) -> None:
        if target not in SCRIPTS:
            raise BadSetting(f"language: no script known for {target!r}; known: {', '.join(sorted(SCRIPTS))}")
        self.target = target
        self.empty = empty

    def score(self, sample: Sample) -> Score:
        target = sample.problem.get("language", self.target)
        if target not in SCRIPTS:
            return Score(None, "error", detail=f"no script known for language {target!r}; known: {', '.join(SCRIPTS)}")
        ours, total = count_words(sample.response, SCRIPTS[target])
        return Score(ours / total if total else self.empty, detail=f"{ours} of {total} words")


def count_words(text: str, scripts: frozenset[str]) -> tuple[int, int]:
    """How many of the text's words are written in these scripts, and how many words there are."""
    ours = total = 0
    for word in _WORD.findall(_NOT_PROSE.sub(" ", text)):
        for script, length in _runs(word):
            count = length if script in _UNSPACED else 1
            total += count
            ours += count if script in scripts else 0
    return ours, total


def _runs(word: str) -> list[tuple[str, int]]:
    runs: list[tuple[str, int]] = []
    for character in word:
        script = _script(character)
        if runs and runs[-1][0] == script:
            runs[-1] = (script, runs[-1][1] + 1)
        else:
            runs.append((script, 1))
    return runs


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ", 1)[0]
