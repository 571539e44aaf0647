"""Suites of problems: files of our own problems, and well-known data sets by name.

A named suite is a line of the table below: where its rows lie in a data folder, and a small pure function from a row
to the fields of a Problem. Rows are read from JSONL (``.jsonl``, ``.jsonl.gz``) or from a local Hugging Face data set
(a folder that ``Dataset.save_to_disk`` wrote), with the field names of the published data sets or of plain ones
(``id``, ``problem``, ``answer``, ``solution``). A problem's ``reference`` is a response that must score 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import curriculum
from jobs.evaluation import livecodebench
from rl import jsonl
from rl.problems import Problem, ProblemError, from_fields, load

Row = Mapping[str, Any]
HELD_OUT = 200
"""Problems of a generated suite, as many as the quickstart holds out."""

BOXED = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
WHOLE_FUNCTION = (
    "Complete this Python function. Answer with the whole function, and what it needs, in a fenced Python block."
    "\n```python\n{prompt}\n```"
)
TESTED = (
    "{task}\nAnswer with a fenced Python block. The function must be called {name} and must pass these tests:"
    "\n```python\n{tests}\n```"
)
OUTPUT = "{code}\n```\nWhat does f({input}) return? Answer with the value, as a Python literal, in a fenced block."
INPUT = (
    "{code}\n```\nFind arguments for which f returns {output}. Answer with a fenced Python block that assigns them, as "
    "a tuple, to the name arguments."
)
PROGRAM = "{task}\nAnswer with a Python program, in a fenced block, that reads standard input and writes the output."
STARTED = "{task}\nAnswer with a fenced Python block that completes this:\n```python\n{starter}\n```"


@dataclass(frozen=True)
class Suite:
    """``stem`` is the file's path in a data folder, without its ending; ``keep`` says which of its rows belong."""

    stem: str
    problem: Callable[[Row], dict[str, Any]]
    keep: Callable[[Row], bool] = lambda row: True


def first(row: Row, *names: str) -> Any:
    """The first of these fields that the row has. Raises ProblemError where it has none."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ProblemError(f"the row has none of the fields {', '.join(names)}")


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def math(row: Row) -> dict[str, Any]:
    answer = first(row, "answer", "final_answer")
    gold = answer if isinstance(answer, list) else str(answer)
    text = ", ".join(map(str, gold)) if isinstance(gold, list) else gold
    prompt = BOXED.format(problem=first(row, "problem", "question"))
    return {"reward": "math", "prompt": prompt, "answer": gold, "reference": f"\\boxed{{{text}}}"}


def gsm8k(row: Row) -> dict[str, Any]:
    """The published row's answer is the worked solution, with the number behind "####"."""
    number = str(first(row, "answer")).rpartition("####")[2].strip().replace(",", "")
    return math({**row, "answer": number})


def humaneval(row: Row) -> dict[str, Any]:
    """The prompt stands before the response, which may be the function's body alone or the whole function again."""
    prompt, name = first(row, "prompt"), first(row, "entry_point")
    return {
        "reward": "code",
        "prompt": WHOLE_FUNCTION.format(prompt=prompt.strip("\n")),
        "prefix": prompt,
        "tests": f"{first(row, 'tests', 'test')}\ncheck({name})\n",
        "reference": fenced(_whole(prompt, first(row, "reference_solution", "canonical_solution"))),
    }


def _whole(prompt: str, solution: str) -> str:
    return solution if solution.lstrip().startswith(prompt.lstrip()) else prompt + solution


def mbpp(row: Row) -> dict[str, Any]:
    if "test_list" in row:
        tests = "\n".join([row.get("test_setup_code") or "", *row["test_list"]]).strip()
    else:
        tests = first(row, "tests").strip()
    solution = first(row, "reference_solution", "code")
    called = row.get("entry_point") or re.search(r"assert\s+\(*(?:\w+\()*(\w+)\(", tests)
    name = called if isinstance(called, str) else called[1] if called else "as in the tests"
    prompt = TESTED.format(task=first(row, "prompt", "text"), name=name, tests=tests)
    return {"reward": "code", "prompt": prompt, "tests": tests, "reference": fenced(solution)}


def mbpp_test(row: Row) -> bool:
    """MBPP's test split is the tasks 11 to 510."""
    number = re.search(r"\d+$", str(first(row, "task_id", "id")))
    return number is not None and 11 <= int(number[0]) <= 510


def cruxeval_output(row: Row) -> dict[str, Any]:
    prompt = "```python\n" + OUTPUT.format(code=first(row, "code"), input=first(row, "input"))
    output = first(row, "output")
    return {"reward": "literal", "prompt": prompt, "answer": output, "reference": fenced(output)}


def cruxeval_input(row: Row) -> dict[str, Any]:
    code, output = first(row, "code"), first(row, "output")
    return {
        "reward": "code",
        "prompt": "```python\n" + INPUT.format(code=code, output=output),
        "tests": f"{code}\n\nassert f(*arguments) == {output}\n",
        "reference": fenced(f"{code}\n\narguments = (lambda *given: given)({first(row, 'input')})"),
    }


def live_code_bench(row: Row) -> dict[str, Any]:
    task, starter = first(row, "question_content"), row.get("starter_code") or ""
    text = STARTED.format(task=task, starter=starter) if starter.strip() else PROGRAM.format(task=task)
    problem = {"reward": "code", "prompt": text, "tests": livecodebench.tests(row)}
    return {**problem, "reference": fenced(row["reference_solution"])} if "reference_solution" in row else problem


SUITES: Mapping[str, Suite] = {
    "math500": Suite("math/math500", math),
    "aime24": Suite("aime/aime24", math),
    "aime25": Suite("aime/aime25", math),
    "amc23": Suite("amc/amc23", math),
    "gsm8k": Suite("gsm8k/test", gsm8k),
    "olympiadbench": Suite("olympiadbench/test", math),
    "humaneval": Suite("humaneval/humaneval", humaneval),
    "mbpp": Suite("mbpp/mbpp", mbpp, mbpp_test),
    "mbpp-all": Suite("mbpp/mbpp", mbpp),
    "cruxeval-o": Suite("cruxeval/cruxeval", cruxeval_output),
    "cruxeval-i": Suite("cruxeval/cruxeval", cruxeval_input),
    "livecodebench": Suite("livecodebench/test", live_code_bench),
}
GENERATED = {"generated-math": "math", "generated-code": "code"}
"""Problems made from seed 0 on the held-out side of the quickstart's split; they need no data."""


def find(text: str, data: Path) -> tuple[str, list[Problem]]:
    """A suite's name and problems. ``text`` is a problem file, a NAME of the table, or NAME=PATH for rows that lie
    elsewhere than in the ``data`` folder. Raises ProblemError."""
    name, equals, place = text.partition("=")
    known = {_plain(key): key for key in (*SUITES, *GENERATED)}
    if not equals and Path(text).is_file():
        return text, load(Path(text))
    key = known.get(_plain(name))
    if key is None:
        raise ProblemError(
            f"{text}: no such file, and no suite of this name; suites: {', '.join((*SUITES, *GENERATED))}"
        )
    if key in GENERATED:
        lines = curriculum.problems(GENERATED[key], HELD_OUT, 0, held_out=True)
        return key, [from_fields(line, f"{key}: problem {i}") for i, line in enumerate(lines)]
    suite = SUITES[key]
    path = Path(place) if equals else _in_folder(key, suite, data)
    return key, problems(suite, path)


def _plain(name: str) -> str:
    """ "MATH-500" is math500, "AIME 2024" is aime24."""
    return re.sub(r"^(aime|amc)20", r"\1", re.sub(r"[^a-z0-9]", "", name.lower()))


def _in_folder(name: str, suite: Suite, data: Path) -> Path:
    places = [data / f"{stem}{ending}" for stem in (suite.stem, name) for ending in (".jsonl.gz", ".jsonl", "")]
    found = next((path for path in places if path.is_file() or (path / "state.json").is_file()
                  or (path / "dataset_dict.json").is_file()), None)  # fmt: skip
    if found is None:
        raise ProblemError(
            f"{name}: its rows are not in {data}: looked for {', '.join(map(str, places))}. Say where the data folder "
            f"is with --data DIR, or where the rows are with --suite {name}=PATH"
        )
    return found


def problems(suite: Suite, path: Path) -> list[Problem]:
    """The suite's problems from the rows at ``path``. Raises ProblemError naming file and row."""
    found: dict[str, Problem] = {}
    for number, row in enumerate(rows(path), 1):
        place = f"{path}: row {number}"
        try:
            if not suite.keep(row):
                continue
            identity = next((row[key] for key in ("id", "task_id", "unique_id", "question_id") if key in row), number)
            problem = from_fields({"id": identity, **suite.problem(row)}, place)
        except (ProblemError, ValueError, KeyError, TypeError) as error:
            raise ProblemError(f"{place}: {error}") from None
        if problem.id in found:
            raise ProblemError(f"{place}: the id {problem.id!r} was used already")
        found[problem.id] = problem
    if not found:
        raise ProblemError(f"{path}: no row of it belongs to the suite")
    return list(found.values())


def rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file, packed or not, or of a Hugging Face data set on this disk. Raises DataError."""
    if path.is_dir():
        yield from _saved_rows(path)
        return
    for _, row in jsonl.lines(path, "rows"):
        yield row


def _saved_rows(folder: Path) -> Iterator[Row]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise ProblemError(f"{folder}: reading a Hugging Face data set needs: pip install datasets") from None
    try:
        found = load_from_disk(str(folder))
    except FileNotFoundError:
        raise ProblemError(f"{folder}: no data set that Dataset.save_to_disk wrote") from None
    if isinstance(found, DatasetDict):
        split = "test" if "test" in found else next(iter(found))
        if split != "test" and len(found) > 1:
            raise ProblemError(f"{folder}: none of its splits {sorted(found)} is called test")
        found = found[split]
    yield from found
