"""What the run page is answered with."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jobs.report import PANELS, curves
from jobs.view.index import Filter, SampleIndex

HERE = Path(__file__).parent
PAGE_GROUPS = 40
MOST_POINTS = 600
"""Points of a curve that are sent; a screen shows no more."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


class BadQuery(ValueError):
    """A query string that says nothing sensible; answered with 400."""


class Run:
    """One run directory and what is known of it so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples = SampleIndex(folder / "samples.jsonl")
        self.metrics: list[dict[str, float]] = []
        self.stamp = ""
        self.decode = _decoder(folder)

    def about(self) -> dict[str, Any]:
        recipe = self.folder / "recipe.toml"
        return {"name": self.folder.resolve().name, "recipe": recipe.read_text() if recipe.exists() else ""}

    def curves(self, stamp: str) -> dict[str, Any] | None:
        """Every panel with its curves, and the stamp of this state; None where ``stamp`` is that already."""
        from rl.journal import read

        path = self.folder / "metrics.jsonl"
        if not path.exists():  # a run that has only begun
            return {"stamp": "", "step": 0, "panels": []}
        state = path.stat()
        now = f"{state.st_ino}-{state.st_size}"
        if stamp == now:
            return None
        if self.stamp != now:
            self.metrics, self.stamp = list(read(path)), now
        return {"stamp": now, "step": self.metrics[-1]["step"] if self.metrics else 0, "panels": panels(self.metrics)}

    def groups(self, wanted: Filter, page: int) -> dict[str, Any]:
        """One page of the groups that pass a filter, newest first."""
        self.samples.refresh()
        found = self.samples.find(wanted)
        shown = found[page * PAGE_GROUPS : (page + 1) * PAGE_GROUPS]
        return {"total": len(found), "page": page, "size": PAGE_GROUPS, "groups": [self._summary(g) for g in shown]}

    def _summary(self, number: int) -> dict[str, Any]:
        first = self.samples.first(number)
        return {
            "group": number,
            "step": first["step"],
            "problem": first["problem"],
            "prompt": first["prompt"],
            "scores": self.samples.scores_of(number),
            "tokens": self.samples.tokens_of(number),
        }

    def group(self, number: int) -> dict[str, Any]:
        """The samples of a group, each with its text cut into tokens where the tokenizer is at hand."""
        self.samples.refresh()
        if not 0 <= number < len(self.samples.names):
            raise BadQuery(f"there is no group {number}")
        members = self.samples.group(number)
        for sample in members:
            ids = sample.pop("token_ids", [])
            sample["pieces"] = pieces(ids, self.decode) if self.decode else []
        return {"name": self.samples.names[number], "samples": members}


def panels(metrics: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """The report's panels, then one for each metric that is in none of them."""
    found, shown = [], {"step"}
    for title, names in PANELS:
        lines = curves(metrics, names)
        shown |= lines.keys()
        if lines:
            found.append(_panel(title, lines))
    rest = dict.fromkeys(name for line in metrics for name in line if name not in shown)
    return found + [_panel(name, {name: lines[name]}) for name in rest if (lines := curves(metrics, [name]))]


def _panel(title: str, lines: Mapping[str, tuple[list[float], list[float]]]) -> dict[str, Any]:
    return {
        "title": title,
        "lines": [
            {"name": n, "steps": thinned(steps), "values": thinned(values)} for n, (steps, values) in lines.items()
        ],
    }


def thinned(values: list[float]) -> list[float]:
    """At most `MOST_POINTS` + 1 of the values, evenly, the last one always."""
    stride = -(-len(values) // MOST_POINTS)
    return values if stride <= 1 else [*values[:-1:stride], values[-1]]


def pieces(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text of each token. Where several tokens make one character, its text stands at the last of them."""
    found: list[str] = []
    open_from = 0
    for i in range(len(ids)):
        text = decode(ids[open_from : i + 1])
        whole = not text.endswith("\ufffd") or i - open_from >= 3
        found.append(text if whole else "")
        if whole:
            open_from = i + 1
    return found


def _decoder(folder: Path) -> Callable[[Sequence[int]], str] | None:
    """The run's tokenizer, from its base or its own last checkpoint; None where neither is there any more."""
    from model import tokenizer
    from model.config import ConfigError

    recipe = folder / "recipe.toml"
    base = tomllib.loads(recipe.read_text()).get("base") if recipe.exists() else None
    places = [Path(base)] if base else []
    for place in [*places, *sorted((folder / "checkpoints").glob("step-*"))]:
        with contextlib.suppress(ConfigError):
            return tokenizer.load(place).decode
    return None


def wanted(query: Mapping[str, str]) -> Filter:
    """A filter from a query string. Raises BadQuery."""
    given: dict[str, Any] = {}
    for field in fields(Filter):
        text = query.get(field.name, "")
        try:
            given[field.name] = text if field.type == "str" else float(text) if text else None
        except ValueError:
            raise BadQuery(f"{field.name} must be a number, not {text!r}") from None
    if given["status"] not in ("", "ok", "error", "timeout"):
        raise BadQuery(f"status is ok, error or timeout, not {given['status']!r}")
    return Filter(**given)


def whole_number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "0")
    if not text.isdecimal():
        raise BadQuery(f"{name} must be a whole number, not {text!r}")
    return int(text)


def create_app(run: Run, hosts: Sequence[str]) -> Any:
    """The ASGI application. ``hosts`` are the names that a browser may call it by, so that a page elsewhere cannot read
    it through a name of its own."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def answers(make: Callable[[Mapping[str, str]], Any]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            try:
                found = make(request.query_params)
            except BadQuery as error:
                return JSONResponse({"detail": str(error)}, 400, HEADERS)
            return Response(status_code=204, headers=HEADERS) if found is None else JSONResponse(found, 200, HEADERS)

        return endpoint

    def file(name: str, kind: str) -> Callable[[Request], Response]:
        return lambda request: Response((HERE / name).read_text(), media_type=kind, headers=HEADERS)

    api: dict[str, Callable[[Mapping[str, str]], Any]] = {
        "/api/run": lambda query: run.about(),
        "/api/curves": lambda query: run.curves(query.get("stamp", "")),
        "/api/groups": lambda query: run.groups(wanted(query), whole_number(query, "page")),
        "/api/group": lambda query: run.group(whole_number(query, "group")),
    }
    return Starlette(
        routes=[
            *(Route(path, file(*what)) for path, what in FILES.items()),
            *(Route(path, answers(make)) for path, make in api.items()),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )
