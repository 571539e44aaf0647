from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.jsonl import DataError
from rl.problems import R1_ZERO, Problem, Stream, load, render

GOOD = {"id": "a", "prompt": "1+1?", "reward": "math", "answer": "2"}


def written(folder: Path, *lines: str) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_file_is_read_with_its_extra_fields(tmp_path: Path) -> None:
    (problem,) = load(written(tmp_path, json.dumps(GOOD), "", "  "))
    assert (problem.id, problem.reward, problem.fields["answer"]) == ("a", "math", "2")


def test_a_packed_file_is_read_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert load(path)[0].id == "a"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="problems.jsonl.gz: damaged"):
        load(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object is wanted, not list"),
        (json.dumps({"id": "a", "prompt": "x"}), 'no "reward"'),
        (json.dumps({**GOOD, "id": None}), '"id" must be'),
        (json.dumps({**GOOD, "id": True}), '"id" must be'),
        (json.dumps({**GOOD, "reward": 3}), '"reward" must be'),
        (json.dumps({**GOOD, "prompt": "  "}), '"prompt" must be'),
        (json.dumps({**GOOD, "prompt": []}), '"prompt" list'),
        (json.dumps({**GOOD, "prompt": [{"role": "user"}]}), '"prompt" list'),
        (json.dumps({**GOOD, "prompt": "x \ud83d"}), "half a character"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, json.dumps({**GOOD, "id": "other"}), line)
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}:2: ")


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"id": "a", "prompt": "x", "reward": "math"}\r\n')
    assert [problem.id for problem in load(path)] == ["a"]


def test_a_repeated_id_is_an_error_that_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="problems.jsonl:2: the id 'a' was used at .*problems.jsonl:1"):
        load(written(tmp_path, json.dumps(GOOD), json.dumps(GOOD)))


def test_an_absent_and_an_empty_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="there are no problems"):
        load(written(tmp_path, ""))


@given(st.text())
def test_any_line_is_a_problem_or_an_error(line: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), json.dumps({**GOOD, "id": "first"}), line)
        try:
            assert isinstance(load(path)[-1], Problem)
        except DataError as error:
            assert str(error).startswith(str(path))


def test_the_template_takes_the_prompt_literally() -> None:
    problem = Problem("a", "use {x} and {prompt}", "math", {})
    assert "use {x} and {prompt}" in render(problem, R1_ZERO)
    assert render(problem, R1_ZERO).endswith("Assistant: <think>")


def test_messages_take_the_prompts_place() -> None:
    turns = (
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "+1?"},
    )
    assert render(Problem("a", turns, "math", {}), "User: {prompt}|") == "User: 2+2?\nAssistant: 4\nUser: +1?|"


@given(st.integers(1, 30), st.integers(0, 5))
def test_each_epoch_of_a_stream_holds_each_problem_once(count: int, seed: int) -> None:
    stream = Stream([Problem(str(i), "p", "math", {}) for i in range(count)], seed)
    for epoch in range(3):
        draws = [stream[epoch * count + i] for i in range(count)]
        assert sorted(int(d.problem.id) for d in draws) == list(range(count))
        assert {d.epoch for d in draws} == {epoch}


def test_a_place_of_the_stream_is_always_the_same_draw() -> None:
    problems = [Problem(str(i), "p", "math", {}) for i in range(20)]
    forward = [Stream(problems, 1)[i].sample_id(0) for i in range(60)]
    stream = Stream(problems, 1)
    assert [stream[i].sample_id(0) for i in reversed(range(60))] == forward[::-1]
    assert forward[:20] != forward[20:40]
    assert len(set(forward)) == 60
