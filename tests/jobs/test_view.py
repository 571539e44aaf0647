"""The run page, in a real browser and under it."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.view.index import Filter, SampleIndex
from jobs.view.server import Run, create_app, panels, pieces
from model.engine import Completion
from rewards import Score
from rl.journal import Journal
from rl.rollout import Group
from tests.fakes import tiny_tokenizer
from tests.jobs.conftest import Zeroth
from tests.rl.makers import group

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


def told(name: str, texts: list[str], scores: list[Score]) -> Group:
    """A group of these texts, token by token."""
    tokenizer = tiny_tokenizer()
    completions = []
    for text in texts:
        ids = (*tokenizer.encode(text), tokenizer.eos)
        completions.append(Completion(ids, (-0.7,) * len(ids), (0,) * len(ids), "stop", text))
    made = group([[1]] * len(texts), [0.0] * len(texts), name=name)
    return replace(made, completions=tuple(completions), scores=tuple(scores))


FAILED = Score(
    0.0,
    parts={"accuracy": 0.0},
    detail="accuracy: wrong_answer: 1 of 2 tests passed\ntest 1: passed\ntest 2: wrong_answer: 4",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    journal = Journal(tmp_path, keep=1)
    tiny_tokenizer().save(tmp_path)
    (tmp_path / "recipe.toml").write_text(f'base = "{tmp_path}"\n')
    for step in range(1, 4):
        journal.metrics(step, {"reward": 0.1 * step, "held_out/greedy/math": 0.2 * step, "own_metric": 1.0})
        journal.samples(
            step, [told(f"sum-{step}", ["right", HOSTILE], [Score(1.0, detail="equal"), FAILED])], trained=True
        )
    journal.samples(
        3, [told("unjudged", ["a", "b"], [Score(None, "timeout", detail="too slow"), Score(0.5)])], trained=True
    )
    return tmp_path


def test_groups_are_found_newest_first(run: Path) -> None:
    index = SampleIndex(run / "samples.jsonl")
    index.refresh()
    assert [index.first(g)["problem"] for g in index.find(Filter())] == ["unjudged", "sum-3", "sum-2", "sum-1"]


@pytest.mark.parametrize(
    ("wanted", "problems"),
    [
        (Filter(step_from=2, step_to=2), ["sum-2"]),
        (Filter(score_from=0.9), ["sum-3", "sum-2", "sum-1"]),
        (Filter(score_from=0.4, score_to=0.6), ["unjudged"]),
        (Filter(tokens_to=2), ["unjudged"]),
        (Filter(problem="um-1"), ["sum-1"]),
        (Filter(status="timeout"), ["unjudged"]),
        (Filter(step_from=9), []),
    ],
)
def test_a_filter_keeps_groups_with_a_wanted_sample(run: Path, wanted: Filter, problems: list[str]) -> None:
    index = SampleIndex(run / "samples.jsonl")
    index.refresh()
    assert [index.first(g)["problem"] for g in index.find(wanted)] == problems


def test_the_index_grows_with_the_file_and_leaves_half_a_line(run: Path) -> None:
    index = SampleIndex(run / "samples.jsonl")
    index.refresh()
    before = len(index)
    Journal(run, keep=1).samples(4, [told("later", ["a", "b"], [Score(1.0), Score(0.0)])], trained=True)
    with (run / "samples.jsonl").open("a") as file:
        file.write('{"half')
    index.refresh()
    assert len(index) == before + 2
    assert [s["text"] for s in index.group(index.find(Filter())[0])] == ["a", "b"]


def test_a_file_that_a_resumed_run_rewrote_is_read_anew(run: Path) -> None:
    index = SampleIndex(run / "samples.jsonl")
    index.refresh()
    Journal(run, keep=1).forget_after(1)
    index.refresh()
    assert [index.first(g)["problem"] for g in index.find(Filter())] == ["sum-1"]


def test_pieces_are_the_text_even_where_a_character_is_several_tokens() -> None:
    tokenizer = tiny_tokenizer()
    text = "naïve 1+2 € 漢字 🙂 end"
    ids = tokenizer.encode(text)
    cut = pieces(ids, tokenizer.decode)
    assert len(cut) == len(ids)
    assert "".join(cut) == text


def test_every_metric_has_a_panel() -> None:
    made = panels([{"step": 1, "reward": 0.5, "something/new": 2.0}])
    assert {line["name"] for panel in made for line in panel["lines"]} == {"reward", "something/new"}


def test_a_long_run_is_thinned_and_keeps_its_last_step() -> None:
    (panel,) = panels([{"step": i, "reward": 0.5} for i in range(5000)])
    steps = panel["lines"][0]["steps"]
    assert len(steps) < 700
    assert (steps[0], steps[-1]) == (0, 4999)


def client(run: Path) -> Any:
    from starlette.testclient import TestClient

    return TestClient(create_app(Run(run), ["localhost"]), base_url="http://localhost")


def test_a_run_that_has_only_begun_has_no_curves_yet(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    assert client(tmp_path).get("/api/curves").json()["panels"] == []


def test_curves_are_sent_once_for_each_state(run: Path) -> None:
    web = client(run)
    first = web.get("/api/curves").json()
    assert web.get("/api/curves", params={"stamp": first["stamp"]}).status_code == 204
    Journal(run, keep=1).metrics(4, {"reward": 0.9})
    assert web.get("/api/curves", params={"stamp": first["stamp"]}).json()["step"] == 4


@pytest.mark.parametrize("query", [{"score_from": "high"}, {"status": "odd"}, {"page": "-1"}])
def test_a_bad_filter_is_a_clear_400(run: Path, query: dict[str, str]) -> None:
    answer = client(run).get("/api/groups", params=query)
    assert answer.status_code == 400
    assert next(iter(query)) in answer.json()["detail"]


def test_a_page_under_another_name_is_refused(run: Path) -> None:
    assert client(run).get("/api/run", headers={"host": "evil.example"}).status_code == 400


def test_a_group_without_its_tokenizer_still_has_its_text(run: Path) -> None:
    (run / "tokenizer.json").unlink()
    assert client(run).get("/api/group", params={"group": 0}).json()["samples"][0]["pieces"] == []


@pytest.fixture
def address(run: Path) -> Iterator[str]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(create_app(Run(run), ["127.0.0.1"]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium, or a Chrome on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        tab = browser.new_page()
        tab.set_default_timeout(60_000)
        problems: list[str] = []
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on(
            "request",
            lambda request: (
                problems.append(request.url)
                if "127.0.0.1" not in request.url and not request.url.startswith("data:")
                else None
            ),
        )
        yield tab
        browser.close()
        assert problems == []


@pytest.mark.slow
def test_every_view_in_a_browser(run: Path, address: str, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(address)
    page.wait_for_selector("figure svg .curve")
    assert page.title() == run.name
    assert "held-out accuracy" in page.inner_text("main")
    assert "own_metric" in page.inner_text("main")

    page.click("#to-rollouts")
    page.fill("input[name=problem]", "sum-")
    page.fill("input[name=step_to]", "2")
    page.click("form button")
    expect(page.locator("tr.row")).to_have_count(2)
    assert "step_to=2" in page.url

    page.click("text=sum-2")
    page.wait_for_selector("article.sample")
    assert page.locator("article.sample").count() == 2
    assert "test 2" in page.locator(".tests li.wrong_answer").inner_text()
    assert HOSTILE in "".join(page.locator("article.sample .text").nth(1).all_inner_texts())
    assert "log-probability -0.7" in page.locator(".text span").first.get_attribute("title")
    assert page.title() == run.name

    page.click("#to-recipe")
    page.wait_for_selector("pre.recipe")
    assert str(run) in page.inner_text("pre.recipe")


@pytest.mark.slow
def test_the_page_follows_a_run(run: Path, address: str, page: Any) -> None:
    from playwright.sync_api import expect

    page.goto(address)
    expect(page.locator("#state")).to_have_text("step 3")
    Journal(run, keep=1).metrics(4, {"reward": 0.9})
    expect(page.locator("#state")).to_have_text("step 4", timeout=60_000)


def test_a_folder_that_is_no_run_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["view", str(tmp_path)])
    assert stopped.value.code == 2
    assert "recipe.toml" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_without_a_traceback(tmp_path: Path, zeroth: Zeroth) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = zeroth("view", tmp_path, "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--port names another port" in done.stderr
