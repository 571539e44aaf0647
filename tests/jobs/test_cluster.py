"""The same recipe on a real local Ray: trainer, rollout workers and reward workers in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress as Bar

from jobs import cluster, config
from jobs import grpo as grpo_command
from jobs.bench.publishes import groups_of, hashes_of
from jobs.config import GrpoRecipe
from model import checkpoint
from model.engine import Request, Sampling
from rewards import Sample, Score
from tests.fakes import LOADABLE, tiny_policy
from tests.jobs.conftest import Workspace, Zeroth
from tests.rl.makers import completion

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def grpo(workspace: Workspace, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", "grpo", str(workspace.recipe), *arguments],
        cwd=workspace.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    """Its standard error, once it has ended well."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return errors


def steps(workspace: Workspace) -> list[int]:
    path = workspace.run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def samples(workspace: Workspace) -> list[str]:
    return [json.loads(line)["id"] for line in (workspace.run / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6])
def test_what_is_dealt_out_comes_back_in_order(count: int) -> None:
    parts = cluster.deal(range(count), 3)
    assert len(parts) == min(count, 3)
    assert cluster.joined(parts) == list(range(count))


def test_a_run_is_whole_with_a_plugin_from_the_working_directory(workspace: Workspace) -> None:
    problems = [json.loads(line) for line in workspace.problems.read_text().splitlines()]
    workspace.write_problems([{**p, "reward": "my_rewards:digits"} if i % 2 else p for i, p in enumerate(problems)])
    errors = finished(grpo(workspace, "cluster.trainers=2", "cluster.rollout_workers=2", "rollout.lag=1"))
    assert steps(workspace) == [0, 1, 2, 3, 4]
    assert len(samples(workspace)) == len(set(samples(workspace))) == 4 * 3 * 2
    assert {p.name for p in (workspace.run / "checkpoints").iterdir()} == {"step-2", "step-4"}
    assert str(workspace.run / "report.html") in " ".join(errors.split())
    assert list(workspace.run.glob("events.out.tfevents.*"))
    last = json.loads((workspace.run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["lag_max"] == 1
    assert "held_out/greedy/math" in last
    assert "held_out/greedy/my_rewards:digits" in last


ON_ONE_GPU = ["cluster.gpus_per_trainer=0.5", "cluster.gpus_per_rollout_worker=0.5", "precision.train=bf16"]
NATIVE = ["precision.rollout=bf16", "precision.exact=true", "rollout.lag=0"]
VLLM = [
    "precision.rollout=bf16", "rollout.engine=vllm", "rollout.routes=replay", "rollout.vllm.enforce_eager=true",
    "rollout.vllm.gpu_memory_utilization=0.3",
]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("engine", [NATIVE, pytest.param(VLLM, marks=pytest.mark.vllm)], ids=["native", "vllm"])
def test_a_run_on_one_gpu_is_whole(workspace: Workspace, engine: list[str]) -> None:
    """Of a model whose shape the kernels of both engines take."""
    policy = tiny_policy(
        hidden_size=256, intermediate_size=256, moe_intermediate_size=128, num_attention_heads=16, q_lora_rank=128,
        kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
    )  # fmt: skip
    checkpoint.save(policy.model, policy.tokenizer, workspace.base)
    finished(grpo(workspace, *ON_ONE_GPU, *engine))
    assert steps(workspace) == [0, 1, 2, 3, 4]
    trained = [json.loads(line) for line in (workspace.run / "metrics.jsonl").read_text().splitlines()][1:]
    if engine is NATIVE:
        assert [line["logprob_gap_max"] for line in trained] == [0.0] * 4
    else:
        assert max(line["routes_differ"] for line in trained) < 0.5


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_trainers_on_two_gpus_share_steps(workspace: Workspace) -> None:
    """Each with log-probabilities that are the engine's to the bit."""
    policy = tiny_policy(
        hidden_size=256, intermediate_size=256, moe_intermediate_size=128, num_attention_heads=4, q_lora_rank=128,
        kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=64, v_head_dim=64,
    )  # fmt: skip
    checkpoint.save(policy.model, policy.tokenizer, workspace.base)
    gpus = ["cluster.trainers=2", "cluster.gpus_per_trainer=0.6", "cluster.gpus_per_rollout_worker=0.4"]
    finished(grpo(workspace, *gpus, "precision.train=bf16", *NATIVE))
    trained = [json.loads(line) for line in (workspace.run / "metrics.jsonl").read_text().splitlines()][1:]
    assert [line["logprob_gap_max"] for line in trained] == [0.0] * 4
    assert all(line["updates"] for line in trained)


@pytest.mark.usefixtures("on_local")
def test_ctrl_c_saves_and_says_how_to_go_on(workspace: Workspace, zeroth: Zeroth) -> None:
    def press() -> None:
        wait_until(lambda: 3 in steps(workspace) or over.is_set())
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pressing = pool.submit(press)
        done = zeroth("grpo", workspace.recipe, "train.steps=500")
        over.set()
        pressing.result()
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "--resume" in done.stderr
    saved = max(int(p.name.removeprefix("step-")) for p in (workspace.run / "checkpoints").iterdir())
    assert saved == steps(workspace)[-1]
    assert not list((workspace.run / "checkpoints").glob(".*"))


@pytest.mark.vllm
def test_a_run_with_vllm_is_resumed_amid_its_samples(
    workspace: Workspace, local: cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one engine, which takes half a minute to start: as `zeroth grpo` drives it, and with --resume."""
    pytest.importorskip("vllm", reason="needs vLLM")
    policy = tiny_policy(**LOADABLE)
    checkpoint.save(policy.model, policy.tokenizer, workspace.base)
    monkeypatch.chdir(workspace.folder)
    vllm = ["rollout.engine=vllm", "precision.rollout=fp32", "rollout.step_tokens=4", "rollout.max_tokens=10"]

    async def close() -> None:
        """Later."""

    with Bar(disable=True) as bar:
        recipe = config.read(workspace.recipe, GrpoRecipe, [*vllm, "train.steps=2"])
        engine = local.engine(recipe)
        monkeypatch.setattr(engine, "close", close)
        for until in (2, 5):
            recipe = config.read(workspace.recipe, GrpoRecipe, [*vllm, f"train.steps={until}"])
            ready = grpo_command.checked(recipe, resume=until == 5)
            reward = local.reward(ready.make_judge, 1)
            assert asyncio.run(grpo_command.drive(recipe, ready, local.trainer(recipe), engine, reward, bar)) == until
        monkeypatch.undo()
        asyncio.run(engine.close())
    assert steps(workspace) == list(range(6))
    lines = [json.loads(line) for line in (workspace.run / "samples.jsonl").read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines) == 5 * 3 * 2
    # The second run's weights are of version 2 and later.
    assert any(line["step"] > 2 and line["versions"][0][0] < 2 <= line["versions"][-1][0] for line in lines)


def test_gpus_that_are_not_there_are_refused_and_not_waited_for(local: cluster.Cluster) -> None:
    with pytest.raises(cluster.ClusterError, match=r"1000 GPUs where there are \d+: lower"):
        local.require(3, 1000)
    local.require(3, 0)


def test_a_part_that_cannot_start_says_why(local: cluster.Cluster) -> None:
    def broken() -> None:
        raise ValueError("no such part")

    with pytest.raises(cluster.ClusterError, match="could not start: ValueError: no such part"):
        asyncio.run(local.reward(broken, 1)([Sample({}, "")]))


class Fragile:
    """Ends its process as often as it is told, counted in a file once that is there."""

    def __init__(self, times: int, count: Path) -> None:
        self.times, self.count = times, count

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        if self.count.exists() and len(done := self.count.read_text()) < self.times:
            self.count.write_text(done + "x")
            os.kill(os.getpid(), signal.SIGKILL)
        return [Score(1.0) for _ in samples]

    async def close(self) -> None: ...


def test_a_reward_worker_that_dies_scores_again_and_is_told_of(
    local: cluster.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = local.reward(partial(Fragile, 1, tmp_path / "count"), 1)
    asyncio.run(reward([Sample({}, "")]))
    (tmp_path / "count").touch()
    assert asyncio.run(reward([Sample({}, "")])) == [Score(1.0)]
    assert "reward worker 0 died and was started again" in capsys.readouterr().err


def test_a_reward_worker_that_dies_of_the_same_samples_ends_the_run(local: cluster.Cluster, tmp_path: Path) -> None:
    (tmp_path / "count").touch()
    with pytest.raises(cluster.ClusterError, match="reward worker 0 died"):
        asyncio.run(local.reward(partial(Fragile, 99, tmp_path / "count"), 1)([Sample({}, "")]))
    assert len((tmp_path / "count").read_text()) == 1 + cluster.RETRIES


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_in_its_next_call(actor: Any) -> None:
    """A function of a rollout worker's object."""
    actor.engine.sample = die


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rollout_worker_that_dies_is_replaced_by_one_that_gives_its_samples(
    workspace: Workspace, local: cluster.Cluster, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """Those of the weights that it was asked under, though newer ones were on their way to it."""
    recipe = config.read(workspace.recipe, GrpoRecipe, [f"cluster.rollout_workers={workers}"])
    trainer = local.trainer(recipe)
    engine = local.engine(recipe, trainer)
    requests, sampling = [Request((5 + i, 6), (2 * i, 2 * i + 1)) for i in range(3)], Sampling(max_tokens=8)

    async def run() -> None:
        await engine.publish(old := await trainer.publish())
        expected = await engine.generate(requests, sampling)
        await trainer.update(groups_of(requests, expected))
        new = await trainer.publish()
        await cluster.inside(engine.actors[-1], dying_in_its_next_call)
        again, _ = await asyncio.gather(engine.generate(requests, sampling), engine.publish(new))
        assert again == expected
        newer = await engine.generate(requests, sampling)
        assert {v for group in newer for c in group for v in c.versions} == {new.version} != {old.version}

    asyncio.run(run())
    assert capsys.readouterr().err.count(f"rollout worker {workers - 1} died and was started again") == 1


def test_trainers_share_steps_and_one_that_dies_ends_the_run(
    workspace: Workspace, tmp_path: Path, local: cluster.Cluster
) -> None:
    recipe = config.read(workspace.recipe, GrpoRecipe, ["cluster.trainers=2"])
    trainer = local.trainer(recipe)
    requests = [Request((5 + i, 6), (0, 1)) for i in range(3)]
    groups = groups_of(requests, [[completion([7, 8 + i]), completion([9, 1])] for i in range(3)])

    async def hashes() -> list[torch.Tensor]:
        find = [cluster.inside(a, lambda a: hashes_of(a.trainer.policy.model)) for a in trainer.actors.values()]
        return await asyncio.gather(*find)

    async def run() -> None:
        (tmp_path / "saved").mkdir()
        await trainer.save(tmp_path / "saved")
        before, _ = await hashes()
        metrics = await trainer.update(groups)
        assert metrics["tokens_trained"] == sum(len(c.token_ids) for g in groups for c in g.completions)
        first, second = await hashes()
        assert torch.equal(first, second)
        assert not torch.equal(first, before)
        await trainer.restore(tmp_path / "saved")
        assert all(torch.equal(found, before) for found in await hashes())
        await asyncio.gather(cluster.inside(trainer.actors["trainer 1"], die), return_exceptions=True)
        with pytest.raises(cluster.ClusterError, match=r"^trainer 1 died.*--resume"):
            await trainer.update(groups)

    asyncio.run(run())


def test_a_rollout_worker_that_dies_each_time_ends_the_run(tmp_path: Path, local: cluster.Cluster) -> None:
    class Doomed:
        def generate(self, *_: object) -> None:
            with (tmp_path / "deaths").open("a") as file:
                file.write("x")
            die()

    engine = cluster.RemoteEngine(partial(cluster._place, Doomed, 1, 0), 1)
    with pytest.raises(cluster.ClusterError, match=r"^rollout worker 0 died.*--resume.*max_rows.*$"):
        asyncio.run(engine.generate([Request((1,), (0,))], Sampling()))
    assert len((tmp_path / "deaths").read_text()) == 1 + cluster.RETRIES


def test_workers_have_the_priority_of_the_process_that_starts_them(local: cluster.Cluster) -> None:
    class Priority:
        async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
            return [Score(float(os.nice(0))) for _ in samples]

        async def close(self) -> None: ...

    (score,) = asyncio.run(local.reward(Priority, 1)([Sample({}, "")]))
    assert score.value == os.nice(0)


PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
         "runtime-env-agent-port", "metrics-export-port")  # fmt: skip


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def job_server() -> Iterator[dict[str, str]]:
    """A head node with a job server on the loopback address and token authentication, on ports of its own so that
    other Rays of this machine are left alone; yields the environment that reaches it."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    # Ray puts Unix sockets below its folder, whose paths must stay short.
    folder = tempfile.mkdtemp(prefix="zr", dir="/tmp")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
         "--dashboard-host=127.0.0.1", "--num-cpus=4", "--disable-usage-stats", f"--temp-dir={folder}",
         *(f"--{name}={port}" for name, port in ports.items())],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    server = {
        **environment,
        "JOBS": f"http://127.0.0.1:{ports['dashboard-port']}",
        "HEAD": f"127.0.0.1:{ports['port']}",
    }
    # Ray's job agent takes a while to come up: until then it is not there, or leaves a request without an answer.
    wait_until(lambda: submitted(server, "--no-wait", "--", "true").returncode == 0)
    yield server
    head.terminate()
    head.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def submitted(server: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", server["JOBS"], *arguments],
        env=server, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def submit(
    server: dict[str, str], workspace: Workspace, *arguments: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Submits and, without --no-wait, waits for the end."""
    command = [sys.executable, "-m", "jobs", "grpo", str(workspace.recipe), *arguments]
    return submitted(server, "--working-dir", str(workspace.folder), *options, "--", *command)


ARGUMENTS = ("train.steps=24", "rollout.lag=0", "rollout.step_tokens=4", "evaluate.every=8")


def rewarded(workspace: Workspace) -> Workspace:
    """With a reward that tells samples apart, of a plugin that travels with the job."""
    workspace.write_problems([{"id": str(i), "prompt": f"{i}+1", "reward": "my_rewards:digits"} for i in range(8)])
    return workspace


@pytest.fixture(scope="module")
def untouched(
    tmp_path_factory: pytest.TempPathFactory, job_server: dict[str, str]
) -> tuple[Workspace, subprocess.CompletedProcess[str]]:
    """A run that was submitted and came to its end."""
    workspace = rewarded(Workspace(tmp_path_factory.mktemp("untouched")))
    done = submit(job_server, workspace, *ARGUMENTS)
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace, done


def test_the_same_recipe_runs_under_ray_job_submit(
    untouched: tuple[Workspace, subprocess.CompletedProcess[str]], job_server: dict[str, str]
) -> None:
    workspace, done = untouched
    assert steps(workspace) == list(range(25))
    assert job_server["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr


def test_a_job_without_the_token_is_refused(workspace: Workspace, job_server: dict[str, str]) -> None:
    done = submit({**job_server, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, workspace)
    assert done.returncode != 0
    assert not workspace.run.exists()


PATIENT = {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""Ray kills a stopped job after 3 seconds unless its environment says otherwise."""


def made(workspace: Workspace) -> tuple[list[dict[str, float]], bytes]:
    """What a run is held to: its held-out accuracy all along, and its last weights."""
    lines = [json.loads(line) for line in (workspace.run / "metrics.jsonl").read_text().splitlines()]
    held_out = [{name: v for name, v in line.items() if name.startswith("held_out/")} for line in lines]
    return held_out, (workspace.run / "checkpoints" / "step-24" / "model.safetensors").read_bytes()


def drivers(workspace: Workspace) -> list[int]:
    """The process that Ray has started for this workspace's recipe."""
    wanted = [b"-m", b"jobs", b"grpo", os.fsencode(workspace.recipe)]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().split(b"\0")[1:5] == wanted:
                found.append(int(folder.name))
    return found


END_AT_STEP = """
import os, signal, sys, time
from pathlib import Path
from ray.job_submission import JobStatus, JobSubmissionClient

step, server, job, metrics, driver = sys.argv[1:]
client = JobSubmissionClient(server)
while not (Path(metrics).exists() and f'"step": {step},' in Path(metrics).read_text()):
    time.sleep(0.05)
os.kill(int(driver), signal.SIGKILL) if int(driver) else client.stop_job(job)
while client.get_job_status(job) not in (JobStatus.STOPPED, JobStatus.FAILED):
    time.sleep(0.1)
"""
"""In a process of its own, since Ray keeps the first token that a process has seen."""


def end(workspace: Workspace, server: dict[str, str], job: str, step: int, *, kill: bool) -> int:
    """Submits a job for this workspace and ends it once that step is done; returns the last step that it told of."""
    options = ["--no-wait", "--submission-id", job, "--runtime-env-json", json.dumps({"env_vars": PATIENT})]
    resume = ["--resume"] if workspace.run.exists() else []
    started = submit(server, workspace, *ARGUMENTS, *resume, options=options)
    assert started.returncode == 0, started.stdout + started.stderr
    driver = 0
    if kill:
        wait_until(lambda: bool(drivers(workspace)))
        (driver,) = drivers(workspace)
    metrics = workspace.run / "metrics.jsonl"
    end = [sys.executable, "-c", END_AT_STEP, str(step), server["JOBS"], job, str(metrics), str(driver)]
    subprocess.run(end, env=server, check=True, timeout=240)
    return steps(workspace)[-1]


def test_a_job_that_was_killed_and_then_stopped_goes_on_to_where_an_untouched_run_ends(
    workspace: Workspace, untouched: tuple[Workspace, subprocess.CompletedProcess[str]], job_server: dict[str, str]
) -> None:
    """Without losing or repeating a sample, though samples go on from step to step."""
    assert end(rewarded(workspace), job_server, "killed", 3, kill=True) < 12
    reached = end(workspace, job_server, "stopped", 12, kill=False)
    assert reached < 24
    assert (workspace.run / "checkpoints" / f"step-{reached}").is_dir()
    there = {**job_server, "RAY_ADDRESS": job_server["HEAD"]}
    finished(grpo(workspace, *ARGUMENTS, "--resume", env=there))
    assert made(workspace) == made(untouched[0])
    assert len(samples(workspace)) == len(set(samples(workspace))) == 24 * 3 * 2
