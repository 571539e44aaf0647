"""The parser under fuzz: no crash but Unreadable, and no verdict that differs between two runs."""

import contextlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.bench.math_pairs import pairs
from rewards.answers.grammar import parse
from rewards.answers.judge import judge, readings
from rewards.answers.tree import Unreadable

COMMANDS = r"""
\frac \sqrt \pi \infty \cdot \times \pm \mp \le \ge \ne \in \cup \cap \setminus \{ \} \left( \right) \text{
\mathrm{ \begin{pmatrix} \end{pmatrix} \\ \log \sin \cos^{-1} \ln \overline{ \dot{ \binom \lfloor \rfloor
\langle \rangle \mathbb{R} \emptyset ^\circ \% \$ \pmod \sum_{k=1}^ \int_0^ \lim_{x\to0} \angle \ldots or and
cm ½ √ ² π ∞ − ٣ １ {,} sqrt( million Monday 10^ 1e9 ...
"""
PIECES = [*"0123456789xyzabnie+-*/^_=<>()[]{}|!,.;:'%$&~ ", *COMMANDS.split()]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_parsing_ends_in_a_tree_or_in_unreadable(text):
    with contextlib.suppress(Unreadable):
        assert parse(text).kind


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_ends_in_a_tree_or_in_unreadable(text):
    with contextlib.suppress(Unreadable):
        assert parse(text).kind


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_what_parses_equals_itself_however_often_it_is_asked(text):
    try:
        tree = parse(text)
    except Unreadable:
        return
    readings.cache_clear()
    assert parse(text) == tree


def test_mutated_pairs_get_one_verdict_in_two_runs():
    """A fuzzer over the suite: characters dropped, doubled and swapped."""
    generator = random.Random(7)
    suite = [
        pair
        for pair in pairs()
        if "\\int" not in pair.gold and "\\lim" not in pair.gold and "\\infty}" not in pair.gold
    ]
    for pair in generator.sample(suite, 400):
        answer = list(pair.answer)
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(answer) + 1)
            answer[place : place + generator.randint(0, 2)] = generator.choice(PIECES)
        first = _verdict(pair.gold, "".join(answer))
        readings.cache_clear()
        assert _verdict(pair.gold, "".join(answer)) == first


def _verdict(gold, answer):
    try:
        return judge(gold, answer)
    except Unreadable as error:
        return str(error)
