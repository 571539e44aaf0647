"""Standard error as a person sees it: one rich console, one look for errors, one progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


def error(message: str) -> None:
    console.print(f"[bold red]error:[/] {_plain(message)}", soft_wrap=True)


def say(message: str) -> None:
    console.print(_plain(message), soft_wrap=True)


def progress() -> Progress:
    """A progress display; its tasks may carry a field ``note`` that is shown behind the times."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
