import asyncio
import json
import subprocess
import sys

import pytest

from jobs.score import lines, stream
from rewards import Score


def run(text, *arguments):
    command = [sys.executable, "-m", "jobs", "score", *arguments]
    data = text if isinstance(text, bytes) else text.encode()
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=300)


def answers(ended):
    return [json.loads(line) for line in ended.stdout.decode().splitlines()]


def line(gold, answer, **fields):
    return json.dumps({"answer": gold, "response": f"\\boxed{{{answer}}}", **fields})


def test_each_line_is_answered_in_order_with_every_field():
    golds = [str(number) if number % 2 else f"{number}x" for number in range(200)]
    ended = run("\n".join(line(gold, gold, id=number) for number, gold in enumerate(golds)), "--reward", "math")
    found = answers(ended)
    assert ended.returncode == 0
    assert [one["id"] for one in found] == list(range(200))
    assert {one["value"] for one in found} == {1.0}
    assert set(found[0]) == {"id", "value", "status", "parts", "detail", "seconds"}


BAD_LINES = [
    b"not json",
    b"[1,2]",
    b"7",
    b"{}",
    b'{"response": 7, "answer": "7"}',
    b'{"answer": "7"}',
    b'{"response": "\\\\boxed{7}"}',
    b"\xff\xfe",
    b'{"response": "\\ud800", "answer": "7"}',
    b"[" * 100_000,
    b'{"response": "' + b"x" * 1_000_000 + b'", "answer": "7"}',
    b'{"id": {"a": 1}, "response": "\\\\boxed{7}", "answer": "7"}',
    b'{"answer": ' + b"9" * 10_000 + b', "response": "\\\\boxed{7}"}',
]


def test_no_line_ends_the_run():
    """Every bad line is answered, and so is the good line after it."""
    good = line("7", "7", id="good").encode()
    ended = run(b"\n".join(part for bad in BAD_LINES for part in (bad, good)) + b"\n\n", "--reward", "math")
    found = answers(ended)
    assert ended.returncode == 0
    assert len(found) == 2 * len(BAD_LINES)
    assert all(one["value"] == 1.0 for one in found[1::2])
    assert all(one["status"] == "error" and one["value"] is None for one in found[:14:2])
    assert "line 1: not JSON" in found[0]["detail"]


def test_what_a_plugin_prints_is_no_answer():
    ended = run(line("7", "7"), "--reward", "tests.rewards.plugins:array")
    assert [one["value"] for one in answers(ended)] == [1.0]
    assert b"scoring\n" in ended.stderr


def test_an_unknown_reward_is_a_bad_call():
    ended = run("", "--reward", "mth")
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"did you mean" in ended.stderr


def test_settings_reach_the_reward_and_wrong_ones_are_a_bad_call():
    ended = run(
        '{"response": "<think>a</think> <answer>4</answer>"}',
        "--reward",
        "format",
        "--settings",
        '{"opening": "response"}',
    )
    assert answers(ended)[0]["value"] == 1.0
    assert run("", "--reward", "format", "--settings", '{"no": 1}').returncode == 2
    assert run("", "--reward", "format", "--settings", "nonsense").returncode == 2


def test_scores_stream_before_the_input_ends():
    command = [sys.executable, "-m", "jobs", "score", "--reward", "math"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write(line("7", "7", id=1).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_closed_output_ends_the_command_quietly():
    command = f"{sys.executable} -m jobs score --reward math | head -1"
    text = "\n".join(line("7", "7", id=number) for number in range(5000))
    ended = subprocess.run(["sh", "-c", command], input=text.encode(), capture_output=True, check=False, timeout=120)
    assert b"Traceback" not in ended.stderr


class Backwards:
    """Finishes later samples first."""

    def __init__(self):
        self.most = self.now = 0

    async def __call__(self, samples):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02 / (1 + int(samples[0].response)))
        self.now -= 1
        return [Score(float(samples[0].response))]


def test_order_is_kept_and_the_window_bounds_what_is_in_flight():
    reward = Backwards()
    found = []

    async def source():
        for number in range(100):
            yield number + 1, json.dumps({"response": str(number)}).encode()

    asyncio.run(stream(reward, source(), found.append, window=8))
    assert [answer["value"] for answer in found] == [float(number) for number in range(100)]
    assert 1 < reward.most <= 8 + 2


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_are_the_same_however_the_bytes_arrive(size):
    text = b"a\nbb\n\n  \nccc\nlast"
    chunks = [text[start : start + size] for start in range(0, len(text), size)]

    async def collect():
        return [one async for one in lines(iter([*chunks, b""]).__next__)]

    assert asyncio.run(collect()) == [(1, b"a"), (2, b"bb"), (5, b"ccc"), (6, b"last")]
