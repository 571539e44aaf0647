"""Assert-style tests, compiled outside the process that runs them, so that no run carries a parser."""

from __future__ import annotations

import ast
import builtins
import sys
import types
from typing import Any

from sandbox.asserts import COUNT, FILE

_ALIASES = {"np": "numpy", "pd": "pandas"}
_PACKAGES = ("numpy", "pandas", "scipy", "sympy")


class _Counted(ast.NodeTransformer):
    """After each assert, a call that counts it: reached only when the assert held."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        count = ast.Expr(ast.Call(ast.Name(COUNT, ast.Load()), [], []))
        return [node, ast.copy_location(count, node)]


def parse(source: str) -> ast.Module:
    """The tests. Raises SyntaxError."""
    return ast.parse(source, FILE)


def prepare(source: str) -> dict[str, Any]:
    """What ``asserts.run`` takes: the tests' source, the number of asserts written in them, the names they need from
    the candidate, the modules they use unnamed, and each top-level statement's line and code."""
    tree = parse(source)
    return {
        "source": source,
        "written": sum(isinstance(node, ast.Assert) for node in ast.walk(tree)),
        **_needed_names(tree),
        "modules": _modules(tree),
        "statements": [(statement.lineno, _compiled(statement)) for statement in tree.body],
    }


def _compiled(statement: ast.stmt) -> types.CodeType:
    """The statement with its asserts counted; one that cannot stand where it stands (``return``) raises why."""
    line = statement.lineno
    counted = _Counted().visit(statement)
    module = ast.Module(counted if isinstance(counted, list) else [counted], [])
    try:
        return compile(ast.fix_missing_locations(module), FILE, "exec")
    except (SyntaxError, ValueError) as error:
        return compile(ast.increment_lineno(ast.parse(f"raise SyntaxError({str(error)!r})"), line - 1), FILE, "exec")


def _needed_names(tree: ast.Module) -> dict[str, list[str]]:
    """Names that the tests use, and neither define nor get from the language: the candidate's.

    A candidate cannot replace a built-in function that the tests use (``abs``, ``len``), except where the tests use
    no other name of its: then the function under test is itself called ``sum``, say.
    """
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    loaded = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    defined = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)}
    defined |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    builtin = set(dir(builtins))
    return {"names": sorted(loaded - defined - builtin), "builtins": sorted(loaded & builtin - defined)}


def _modules(tree: ast.Module) -> dict[str, str]:
    """Modules that the tests use (``math.isclose``) without importing them: the solution's import usually served both.
    They are imported beside the tests and never asked of the candidate, who could have replaced their functions."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = _ALIASES.get(node.value.id, node.value.id)
            if name in sys.stdlib_module_names or name in _PACKAGES:
                modules[node.value.id] = name
    return modules
