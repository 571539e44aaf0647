# ruff: noqa: E501 - a program is one line where it can be
"""Every language whose toolchain is here; the others say what to install."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox import InvalidTests, client, languages
from tests.sandbox.conftest import Bench
from tests.sandbox.programs import SMALL

TESTS = [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "10 -4\n", "stdout": "6\n"}]
ADD = {
    "c": '#include <stdio.h>\nint main(){int a,b;scanf("%d %d",&a,&b);printf("%d\\n",a+b);return 0;}',
    "cpp": "#include <iostream>\nint main(){int a,b;std::cin>>a>>b;std::cout<<a+b<<std::endl;}",
    "javascript": 'const [a,b]=require("fs").readFileSync(0,"utf8").split(" ").map(Number);console.log(a+b)',
    "bash": "read a b\necho $((a+b))",
    "java": (
        "import java.util.*;public class Main{public static void main(String[] x){"
        "Scanner s=new Scanner(System.in);System.out.println(s.nextInt()+s.nextInt());}}"
    ),
    "go": 'package main\nimport "fmt"\nfunc main(){var a,b int;fmt.Scan(&a,&b);fmt.Println(a+b)}',
    "rust": (
        "use std::io::*;fn main(){let mut s=String::new();stdin().read_to_string(&mut s).unwrap();"
        'let v:Vec<i32>=s.split_whitespace().map(|x|x.parse().unwrap()).collect();println!("{}",v[0]+v[1]);}'
    ),
    "python": "a,b=map(int,input().split())\nprint(a+b)",
}
ROOMY = replace(SMALL, wall_seconds=60.0, cpu_seconds=60.0, compile_seconds=120.0, memory_mb=512, processes=64)


def _needs(language: str) -> None:
    missing = languages.available()[language]
    if missing:
        pytest.skip(missing)


@pytest.mark.parametrize("language", ADD)
def test_program_passes(language: str, bench: Bench) -> None:
    _needs(language)
    before = bench.holdings()
    verdict = bench.judge(ADD[language], TESTS, ROOMY, language)
    assert (verdict.status, verdict.passed) == ("passed", 2), verdict
    assert bench.holdings() == before


@pytest.mark.parametrize("language", ["c", "cpp", "java", "go", "rust"])
def test_what_does_not_compile_is_a_compile_error(language: str, bench: Bench) -> None:
    _needs(language)
    verdict = bench.judge("this is no program (", TESTS, ROOMY, language)
    assert (verdict.status, verdict.total) == ("compile_error", 2)
    assert verdict.detail


def test_compiler_is_jailed(bench: Bench) -> None:
    _needs("c")
    verdict = bench.judge('#include "/etc/shadow"\n#include "/root/.bashrc"\nint main(){}', TESTS, ROOMY, "c")
    assert verdict.status == "compile_error"
    assert "No such file" in verdict.detail + verdict.stderr


def test_compiler_bomb_is_stopped(bench: Bench) -> None:
    _needs("c")
    limits = replace(ROOMY, compile_seconds=2.0)
    verdict = bench.judge('#include "/dev/zero"\nint main(){}', TESTS, limits, "c")
    assert verdict.status == "compile_error"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("#include <stdlib.h>\nint main(){abort();}", "runtime_error"),
        ("int main(){volatile int*p=0;return *p;}", "runtime_error"),
        ("int main(){for(;;);}", "time_limit"),
        ("#include <stdlib.h>\n#include <string.h>\nint main(){for(;;)memset(malloc(1<<20),1,1<<20);}", "memory_limit"),
        ("#include <unistd.h>\nint main(){for(;;)if(fork()<0)return 1;}", "process_limit"),
        ("#include <stdio.h>\nint main(){for(;;)puts(\"xxxxxxxxxxxxxxxx\");}", "output_limit"),
        ("#include <sys/ptrace.h>\nint main(){ptrace(PTRACE_TRACEME,0,0,0);}", "denied"),
        ("#include <stdio.h>\nint main(){FILE*f=fopen(\"/tmp/x\",\"w\");for(;;)if(fputs(\"xxxxxxx\",f)<0)return 1;}", "runtime_error"),
        ("#include <stdio.h>\nint main(){puts(\"8\");return 0;}", "wrong_answer"),
    ],
)  # fmt: skip
def test_verdicts_of_c_programs(code: str, status: str, bench: Bench) -> None:
    _needs("c")
    assert bench.judge(code, TESTS[:1], SMALL, "c").status == status


def test_aliases_and_unknown_names() -> None:
    assert languages.known("C++") is languages.known("cpp")
    assert languages.known("node") is languages.known("javascript")
    with pytest.raises(InvalidTests, match=r"unknown language 'cobol'.*known: python, c, cpp"):
        languages.find("cobol")


def test_missing_toolchain_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    languages.find.cache_clear()
    try:
        with pytest.raises(InvalidTests, match=r"rust needs Rust and a linker.*apt install"):
            languages.find("rust")
    finally:
        languages.find.cache_clear()


def test_calls_and_asserts_are_for_python() -> None:
    for tests in ("assert f()", [{"function": "f", "expected": 1}]):
        with pytest.raises(InvalidTests, match="Python"):
            client.request("", tests, "bash", SMALL)  # type: ignore[arg-type]
