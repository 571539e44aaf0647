"""Standard error as a person sees it: one rich console, one look for errors, one progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


class Interrupted(RuntimeError):
    """The user ended a run before its end; what was done is saved. ``remedy`` says how it goes on."""

    exit_status = 130

    def __init__(self, step: int, total: int, remedy: str = "continue with --resume") -> None:
        super().__init__(f"stopped after step {step} of {total}; everything is saved, {remedy}")
        self.step, self.total = step, total


def error(message: str) -> None:
    console.print(f"[bold red]error:[/] {_plain(message)}", soft_wrap=True)


def say(message: str) -> None:
    console.print(_plain(message), soft_wrap=True)


def tell(description: str, step: int, total: int, note: str, *, every: int) -> None:
    """Where there is no terminal to draw a bar on (a log, a job), a line every so many steps."""
    if not console.is_terminal and (step % every == 0 or step == total):
        say(f"{description} {step}/{total}  {note}")


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
