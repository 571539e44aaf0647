"""Rows of published data sets become problems, and their reference answers score 1."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluation import suites
from jobs.evaluation.suites import SUITES, find
from rewards import Sample
from rl.jsonl import DataError
from rl.judge import Judge
from rl.problems import Problem, ProblemError


def scores(problems: Sequence[Problem], responses: Sequence[str]) -> list[float | None]:
    async def judged() -> list[float | None]:
        limits = {"wall_seconds": 60.0, "cpu_seconds": 60.0}
        judge = Judge({p.reward for p in problems}, {}, {"code": {"limits": limits}, "math": {"timeout_s": 20.0}})
        try:
            given = await judge([Sample(p.fields, r) for p, r in zip(problems, responses, strict=True)])
        finally:
            await judge.close()
        return [score.value for score in given]

    return asyncio.run(judged())


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


PUBLISHED: dict[str, dict[str, Any]] = {
    "math500": {"unique_id": "t/1.json", "problem": "1/2+1/2?", "answer": "1", "solution": "s", "level": 1},
    "aime24": {"id": 60, "problem": "p", "answer": "204"},
    "gsm8k": {"question": "q", "answer": "5+5 = <<5+5=10>>10\n#### 1,010"},
    "olympiadbench": {"id": 1606, "question": "q", "final_answer": ["2", "3"]},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'from typing import List\n\n\ndef double(xs: List[int]) -> List[int]:\n    """ Twice each. """\n',
        "canonical_solution": "    return [2 * x for x in xs]\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n",
        "entry_point": "double",
    },
    "mbpp": {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "def double(x):\n    return 2 * x",
        "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
        "test_setup_code": "",
    },
    "cruxeval-o": {"id": "sample_0", "code": "def f(x):\n    return [x, str(x)]", "input": "7", "output": "[7, '7']"},
    "cruxeval-i": {"id": "sample_0", "code": "def f(x):\n    return [x, str(x)]", "input": "7", "output": "[7, '7']"},
    "livecodebench": {
        "question_id": "abc_a",
        "question_content": "Double the number.",
        "starter_code": "",
        "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
        "private_test_cases": "[]",
        "metadata": "{}",
        "reference_solution": "print(2 * int(input()))",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_row_becomes_a_problem_whose_reference_scores_one(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{SUITES[name].stem}.jsonl", [PUBLISHED[name]])
    _, problems = find(name, tmp_path)
    assert scores(problems, [problems[0].fields["reference"]]) == [1.0]
    assert scores(problems, ["\\boxed{-3}" if problems[0].reward == "math" else "```python\npass\n```"]) == [0.0]


def test_gsm8k_takes_the_number_behind_the_solution(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k/test.jsonl", [PUBLISHED["gsm8k"]])
    assert find("gsm8k", tmp_path)[1][0].fields["answer"] == "1010"


def test_humaneval_takes_the_body_alone_and_the_whole_function(tmp_path: Path) -> None:
    write(tmp_path / "humaneval/humaneval.jsonl.gz", [PUBLISHED["humaneval"]])
    (problem,) = find("HumanEval", tmp_path)[1]
    body = PUBLISHED["humaneval"]["canonical_solution"]
    whole = "```python\ndef double(xs: List[int]) -> List[int]:\n    return [x + x for x in xs]\n```"
    future = whole.replace("def", "from __future__ import annotations\n\ndef", 1)
    assert scores([problem] * 4, [body, whole, future, "    pass"]) == [1.0, 1.0, 1.0, 0.0]


def test_mbpp_is_the_test_split(tmp_path: Path) -> None:
    row = PUBLISHED["mbpp"]
    write(tmp_path / "mbpp/mbpp.jsonl", [{**row, "task_id": i} for i in (10, 11, 510, 511)])
    assert [p.id for p in find("mbpp", tmp_path)[1]] == ["11", "510"]
    assert len(find("mbpp-all", tmp_path)[1]) == 4


def test_packed_and_functional_live_code_bench_cases(tmp_path: Path) -> None:
    cases = json.dumps([{"input": '[1, 2]\n"a"', "output": "3", "testtype": "functional"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(cases))).decode()
    row = {
        "question_id": 1, "question_content": "Sum.", "starter_code": "class Solution:\n    def total(self, xs, name):",
        "public_test_cases": "[]", "private_test_cases": packed, "metadata": json.dumps({"func_name": "total"}),
    }  # fmt: skip
    write(tmp_path / "livecodebench/test.jsonl", [row])
    (problem,) = find("LiveCodeBench", tmp_path)[1]
    assert problem.fields["tests"] == [{"function": "total", "args": [[1, 2], "a"], "expected": 3}]
    solution = "class Solution:\n    def total(self, xs, name):\n        return sum(xs)"
    assert scores([problem], [solution]) == [1.0]


def test_a_packed_case_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("run",))

    packed = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    row = {"question_id": 1, "question_content": "x", "public_test_cases": "[]", "private_test_cases": packed}
    write(tmp_path / "livecodebench/test.jsonl", [row])
    with pytest.raises(ProblemError, match="row 1.*names builtins.print"):
        find("livecodebench", tmp_path)


def test_a_saved_hugging_face_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    test = datasets.Dataset.from_list([PUBLISHED["aime24"]])
    datasets.DatasetDict({"train": test, "test": test}).save_to_disk(tmp_path / "aime24")
    assert find("AIME 2024", tmp_path)[1][0].fields["answer"] == "204"
    test.save_to_disk(tmp_path / "elsewhere")
    assert len(find(f"aime24={tmp_path / 'elsewhere'}", Path("nowhere"))[1]) == 1


def test_generated_suites_need_no_data() -> None:
    name, problems = find("generated-math", Path("nowhere"))
    assert (name, len(problems), problems[0].reward) == ("generated-math", 200, "math")


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ("math50", ["no suite of this name", "math500"]),
        ("math500", ["--data", "math500.jsonl.gz"]),
        ("math500=absent.jsonl", ["absent.jsonl", "no such file"]),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, suite: str, words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        find(suite, tmp_path)
    for word in words:
        assert word in str(error.value)


def test_a_row_without_its_fields_is_named(tmp_path: Path) -> None:
    write(tmp_path / "aime/aime24.jsonl", [PUBLISHED["aime24"], {"id": "x", "problem": "p"}])
    with pytest.raises(ProblemError, match=r"aime24.jsonl: row 2: .*answer"):
        find("aime24", tmp_path)


@pytest.mark.parametrize("name", ["math500", "aime24", "aime25", "amc23", "gsm8k", "olympiadbench", "cruxeval-o"])
def test_every_gold_answer_scores_one(data: Path, name: str) -> None:
    _, problems = find(name, data)
    given = scores(problems, [p.fields["reference"] for p in problems])
    assert [p.id for p, score in zip(problems, given, strict=True) if score != 1.0] == []


@pytest.mark.parametrize(("name", "every"), [("humaneval", 4), ("mbpp", 20), ("cruxeval-i", 40)])
def test_reference_solutions_score_one_and_stubs_nothing(data: Path, name: str, every: int) -> None:
    problems = find(name, data)[1][::every]
    given = scores(problems, [p.fields["reference"] for p in problems])
    assert [p.id for p, score in zip(problems, given, strict=True) if score != 1.0] == []
    stubs = scores(problems, ["```python\npass\n```"] * len(problems))
    assert set(stubs) == {0.0}


def test_the_table_names_no_suite_twice() -> None:
    names = [suites._plain(name) for name in (*SUITES, *suites.GENERATED)]
    assert len(set(names)) == len(names)
