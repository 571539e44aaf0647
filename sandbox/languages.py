"""The table of languages: how each is compiled and run, where its toolchain is, and what to install when it is missing.

Commands name programs by their path on the host, which the jail shows read-only at the same place. ``{memory_mb}`` and
``{stack_mb}`` stand for the run's limits. Programs run in /tmp, where the source and what the compiler made lie.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.verdict import InvalidTests


@dataclass(frozen=True, slots=True)
class Language:
    """One row. A command's first word is one of ``tools``, found at run time."""

    name: str
    source: str
    """The file that the solution is written to."""
    tools: tuple[tuple[str, ...], ...]
    """Programs that are needed; each is a tuple of alternatives, the preferred one first."""
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    install: str = ""
    aliases: tuple[str, ...] = ()
    home: Callable[[str], str] | None = None
    """The toolchain's folder, from the path of its first tool; by default that program's prefix."""


def _rust_sysroot(rustc: str) -> str:
    """rustup's ``rustc`` is a switch; the compiler lies in the toolchain that it names."""
    answer = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.strip() or os.path.dirname(os.path.dirname(rustc))


_JAVA = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")

LANGUAGES = (
    Language("python", "solution.py", (), (), aliases=("py", "python3")),
    Language(
        "c",
        "solution.c",
        (("gcc", "cc", "clang"),),
        ("./program",),
        ("gcc", "-O2", "-std=gnu17", "-o", "program", "solution.c", "-lm", "-pthread"),
        "a C compiler (Debian: apt install gcc libc6-dev)",
    ),
    Language(
        "cpp",
        "solution.cpp",
        (("g++", "c++", "clang++"),),
        ("./program",),
        ("g++", "-O2", "-std=gnu++20", "-o", "program", "solution.cpp", "-pthread"),
        "a C++ compiler (Debian: apt install g++)",
        ("c++", "cxx"),
    ),
    Language(
        "javascript",
        "solution.js",
        (("node", "nodejs"),),
        ("node", "--max-old-space-size={memory_mb}", "--stack-size=3900", "solution.js"),
        install="Node.js (Debian: apt install nodejs)",
        aliases=("js", "node", "nodejs"),
    ),
    Language("bash", "solution.sh", (("bash",),), ("bash", "solution.sh"), install="bash", aliases=("sh",)),
    Language(
        "java",
        "Main.java",
        (("javac",), ("java",)),
        ("java", *_JAVA, "-Xmx{memory_mb}m", "-Xss{stack_mb}m", "-cp", ".", "Main"),
        ("javac", "-J-XX:+UseSerialGC", "-J-XX:TieredStopAtLevel=1", "-encoding", "UTF-8", "Main.java"),
        "a JDK (Debian: apt install default-jdk-headless)",
    ),
    Language(
        "go",
        "solution.go",
        (("go",),),
        ("./program",),
        ("go", "build", "-o", "program", "solution.go"),
        "Go (Debian: apt install golang-go)",
        ("golang",),
    ),
    Language(
        "rust",
        "solution.rs",
        (("rustc",), ("cc", "gcc", "clang")),
        ("./program",),
        ("rustc", "-O", "--edition", "2021", "-o", "program", "solution.rs"),
        "Rust and a linker (Debian: apt install rustc gcc)",
        ("rs",),
        _rust_sysroot,
    ),
)
ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108
    "LANG": "C.UTF-8",
    "GOCACHE": "/tmp/.cache",  # noqa: S108
    "GOFLAGS": "-mod=mod",
    "GOTOOLCHAIN": "local",
    "CGO_ENABLED": "0",
}
_BY_NAME = {name: language for language in LANGUAGES for name in (language.name, *language.aliases)}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A language as it was found on this machine."""

    language: Language
    programs: dict[str, str]
    """Command words and the paths they stand for."""
    directories: tuple[str, ...]
    """What the jail has to show for it, beyond the system's folders."""

    def command(self, words: tuple[str, ...], memory_mb: int, stack_mb: int) -> list[str]:
        filled = [word.format(memory_mb=memory_mb, stack_mb=stack_mb) for word in words]
        return [self.programs.get(filled[0], filled[0]), *filled[1:]] if filled else []


def known(name: str) -> Language:
    """The row of a language or one of its aliases. Raises InvalidTests with the known names."""
    try:
        return _BY_NAME[name.lower()]
    except KeyError:
        names = ", ".join(language.name for language in LANGUAGES)
        raise InvalidTests(f"unknown language {name!r}; known: {names}") from None


@functools.cache
def find(name: str) -> Toolchain:
    """The toolchain of a language. Raises InvalidTests that says what to install."""
    language = known(name)
    programs: dict[str, str] = {}
    directories: set[str] = set()
    for number, alternatives in enumerate(language.tools):
        path = next((found for tool in alternatives if (found := shutil.which(tool))), None)
        if path is None:
            raise InvalidTests(f"{language.name} needs {language.install}: no {' or '.join(alternatives)} on PATH")
        home = language.home(path) if language.home and number == 0 else _prefix(path)
        if language.home and number == 0:
            path = os.path.join(home, "bin", os.path.basename(path))
        programs |= dict.fromkeys(alternatives, path)
        directories |= {home, *_configuration(home)}
    return Toolchain(language, programs, tuple(sorted(directories - {"/usr", "/"})))


def _prefix(path: str) -> str:
    """The folder above ``bin``, of the program that a link points to."""
    return os.path.dirname(os.path.dirname(os.path.realpath(path)))


def _configuration(home: str) -> set[str]:
    """Folders in /etc that a toolchain links to (Debian keeps a JDK's settings there)."""
    found = set()
    for folder in ("", "conf", "lib", "lib/security"):
        try:
            entries = os.scandir(os.path.join(home, folder))
        except OSError:
            continue
        for entry in entries:
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if target.startswith("/etc/") and os.path.exists(target):
                found.add("/".join(target.split("/")[:3]))
    return found if "/usr/lib/jvm" in home else set()


def available() -> dict[str, str]:
    """Each language and, where it is missing, what to install."""
    answer = {}
    for language in LANGUAGES:
        try:
            find(language.name)
            answer[language.name] = ""
        except InvalidTests as error:
            answer[language.name] = str(error)
    return answer


def all_directories() -> tuple[str, ...]:
    """What a jail shows so that every language found can be used."""
    found: set[str] = set()
    for name, missing in available().items():
        if not missing:
            found |= set(find(name).directories)
    return tuple(sorted(found))
