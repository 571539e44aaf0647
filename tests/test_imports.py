"""Who may import whom, and where heavy packages live."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"rl", "rewards", "model", "sandbox", "jobs"}
ALLOWED = {
    "jobs": OURS,
    "rl": {"rl", "rewards", "model"},
    "rewards": {"rewards", "sandbox"},
    "sandbox": {"sandbox"},
    "model": {"model"},
}
EXCEPTIONS = {"rewards/learned.py": {"model"}}
"""The learned reward is a model, which it imports when it is built."""
HOMES = {
    "ray": {"jobs/cluster.py"},
    "vllm": {"model/vllm_engine.py"},
    "triton": {"model/kernels/"},
    "numba": {"model/loops/"},
    "llvmlite": {"model/loops/"},
    "accelerate": {"model/policy.py"},
    "transformers": {"model/hf.py", "jobs/bench/"},
    "sympy": {"rewards/"},
    "fastapi": {"jobs/"},
    "torch": {"model/", "rl/", "jobs/"},
}
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in OURS for path in (ROOT / folder).rglob("*.py"))


def imported(path: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES)
def test_a_folder_imports_only_what_it_may(path: str) -> None:
    assert imported(path) & OURS <= ALLOWED[path.split("/", maxsplit=1)[0]] | EXCEPTIONS.get(path, set())


@pytest.mark.parametrize("path", FILES)
def test_a_heavy_package_is_imported_in_its_home_alone(path: str) -> None:
    for package in imported(path) & HOMES.keys():
        homes = HOMES[package]
        assert path in homes or any(path.startswith(h) for h in homes if h.endswith("/")), f"{path} imports {package}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("rl", ["ray", "vllm", "triton", "numba"]),
        ("rl.pipeline", ["ray", "vllm"]),
        ("rewards", ["torch", "sympy", "ray"]),
        ("sandbox", ["torch", "sympy"]),
        ("jobs.cli", ["torch", "ray", "sympy"]),
    ],
)
def test_importing_a_part_leaves_heavy_packages_alone(module: str, absent: list[str]) -> None:
    code = f"import {module}, sys; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_step_is_short_enough_to_read() -> None:
    """The functions of one training step, from the loop to the update."""
    for path, name in (("rl/pipeline.py", "_one_step"), ("rl/step.py", "step"), ("rl/rollout.py", "wave")):
        tree = ast.parse((ROOT / path).read_text())
        (node,) = (
            n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == name
        )
        branches = sum(isinstance(n, ast.If | ast.For | ast.While | ast.IfExp | ast.Try) for n in ast.walk(node))
        assert node.end_lineno is not None
        assert node.end_lineno - node.lineno < 40
        assert branches <= 8
