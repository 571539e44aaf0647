"""Hostile responses, each with the value that it deserves: what a policy under pressure writes into a box."""
# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Hostile:
    """A gold answer, a response, and the value that is right."""

    kind: str
    gold: str
    response: str
    value: float


def boxed(text: str) -> str:
    return f"so the answer is \\boxed{{{text}}}"


def cases() -> Iterator[Hostile]:
    """Every one, more than 300."""
    for kind, gold, answers in WRONG:
        for answer in answers:
            yield Hostile(kind, gold, boxed(answer), 0.0)
    for gold, response in HEDGED:
        yield Hostile("hedged", gold, response, 0.0)
    for gold, response in RIGHT:
        yield Hostile("right all the same", gold, response, 1.0)


def _towers() -> list[str]:
    bases = ["9", "10", "2", "99", "x", "0.5", "-3", "\\pi", "e", "i"]
    return [f"{base}^{{9^{{9^{{9}}}}}}" for base in bases] + [
        "^".join(["9"] * depth) if depth < 3 else "9" + "^{9" * depth + "}" * depth for depth in range(2, 32)
    ]


def _factorials() -> list[str]:
    return [f"{number}!" for number in (20, 10**3, 10**5, 10**7, 10**9, 10**15)] + [
        "9!!!!!!!!", "((9!)!)!", "(((3!)!)!)!", "(10^9)!", "(10^{10^{10}})!", "\\frac{(10^9)!}{(10^9-1)!}", "x!!!!", "(-5)!",
        "\\binom{10^9}{10^8}", "\\binom{10^{100}}{10^{99}}", "0.5!", "\\Gamma(10^9)", "(9999999)!+1", "i!",
    ]


def _nested() -> list[str]:
    found = []
    for depth in (100, 1000, 10_000):
        found += [
            "{" * depth + "7" + "}" * depth if depth < 1000 else "{" * depth + "8" + "}" * depth,
            "(" * depth,
            "(" * depth + "8" + ")" * depth,
        ]
        found += [
            "\\sqrt{" * depth + "2" + "}" * depth,
            "\\frac{1}{1+" * depth + "1" + "}" * depth,
            "-" * (2 * depth + 1) + "7",
        ]
        found += [
            "\\left(" * depth,
            "[" * depth + "]" * depth,
            "\\{" * depth + "\\}" * depth,
            "|" * depth,
            "\\text{" * depth + "}" * depth,
        ]
    return [text for text in found if text != "{" * 100 + "7" + "}" * 100]


def _long() -> list[str]:
    megabyte = 1_000_000
    return [
        "8" * megabyte, "x" * megabyte, "+".join(["1"] * (megabyte // 2)), " " * megabyte + "8", "\\frac" * (megabyte // 5),
        "{}" * (megabyte // 2), "7," * (megabyte // 2), "a^" * (megabyte // 2), "\\sin" * (megabyte // 4), "7\n" * (megabyte // 2),
        "é" * megabyte, "√" * megabyte, "½" * 100_000, "1" * 4000, "1+" * 1999 + "1", "x" * 3999, "\\sqrt" * 700 + "2", "7=" * 1500 + "8",
        "\\pm" * 1000 + "7", "\\pm 1" * 500, "7;" * 1999, "(1,2)," * 600, "\\{" + "7," * 1500 + "8\\}", "$" * 3999, "\\$" * 1999,
        "\\\\" * 1999, "&" * 3999, "|x" * 1500, "1e" * 1500, "." * 3999, "7." * 1999, "_" * 3999, "^" * 3999, "!" * 3999, "7" + "!" * 3000,
        "7" + "'" * 3000, "\\text{" + "a" * 3900 + "}", "and " * 990 + "7 or 8", "\\begin{pmatrix}" * 200, "\\over" * 700, "7:" * 1500 + "7",
    ]


def _code() -> list[str]:
    return [
        "__import__('os').system('touch /tmp/pwned')", "exec(\"print(7)\")", "eval('7')", "lambda: 7", "[x for x in ().__class__.__bases__]",
        "open('/etc/passwd').read()", "import os; os._exit(0)", "().__class__.__mro__[1].__subclasses__()", "print(7)", "while True: pass",
        "\\input{/etc/passwd}", "\\write18{rm -rf /}", "\\def\\x{7}\\x", "\\csname 7\\endcsname", "#{8}", "{{8*1}}", "<script>7</script>",
        "'; DROP TABLE answers; --", "7 if True else 8", "True", "None", "null", "float('nan')", "os.environ", "exit()", "sympy.Integer(7)",
        "\\catcode`\\{=1", "\\loop\\iftrue\\repeat", "%s%s%s%n", "7\\x00", "\x00", "\ud7ff", "7\u202e8", "\\u0037\\u0038",
    ]


WRONG: list[tuple[str, str, list[str]]] = [
    ("a tower of powers", "7", _towers()),
    ("a factorial", "7", _factorials()),
    ("nesting", "7", _nested()),
    ("length", "7", _long()),
    ("code", "7", _code()),
    (
        "no number",
        "7",
        ["NaN", "nan", "\\text{NaN}", "\\infty", "-\\infty", "inf", "Infinity", "0/0", "\\frac{0}{0}", "1/0", "\\frac{7}{0}", "0^0", "\\infty-\\infty",
         "\\frac{\\infty}{\\infty}", "0\\cdot\\infty", "7+\\infty", "\\log 0", "\\ln(-1)", "\\tan\\frac{\\pi}{2}", "0^{-1}", "\\arcsin 2",
         "1e999999999", "1e-999999999", "-1e999999999", "10^{10^{18}}", "10^{-10^{18}}", "\\sqrt[0]{7}", "\\log_1 7", "\\log_0 7", "7/(1-1)",
         "\\emptyset", "\\{\\}", "", " ", "\\ ", "?", "...", "\\ldots", "\\text{}", "\\text{I don't know}", "\\text{none}", "-", "+", "=", "\\frac{}{}"],
    ),
    (
        "heavy to evaluate",
        "7",
        ["\\sum_{k=1}^{10^{12}} k", "\\prod_{k=1}^{10^{12}} k", "\\sum_{k=1}^{2000} k^k", "\\sin(10^{10^{10}})", "\\cos(9^{9^9})", "\\lfloor 9^{9^9}\\rfloor",
         "\\gcd(9^{9^9},7)", "e^{e^{e^{e}}}", "\\exp(\\exp(\\exp(10)))", "2^{10^9}-2^{10^9}+8", "\\sqrt{2}^{10^{12}}", "(1+10^{-9})^{10^{12}}",
         "\\log_{1.0000000001} 10^{100}", "x^{10^{12}}", "(x+1)^{1000}", "\\tan^{1000} x", "\\sum_{a=1}^{2000}\\sum_{b=1}^{2000}\\sum_{c=1}^{2000} abc",
         "\\binom{2000}{1000}", "3 \\bmod 9^{9^9}", "9^{9^9} \\bmod 10", "\\sqrt[10^9]{10^{10^9}}", "1.1^{10^{14}}"],
    ),
    (
        "a near miss in disguise",
        "7",
        ["7\\%0", "7^2", "7_2", "7_8", "7!", "-7", "7i", "7x", "7,000", "7.0000001", "6.9999999", "07.1", "7\\pm1", "\\pm7", "7\\text{ or }8", "7, 8", "\\{7,8\\}",
         "[7,8]", "x>7", "x\\ne7", "7<x", "\\text{not }7", "7\\text{ is wrong}", "7e1", "7e-1", "0x7f", "7/1/2", "7\\cdot 7", "77", "7 7", "(7,7)", "7:1 7",
         "\\text{between 6 and 8}", "7?8", "\\approx 7.2", "\\ge 7", "7\\ldots", "\\overline{7}7", "0.7\\times1", "7^{-1}"],
    ),
    ("everything at once", "7", [", ".join(map(str, range(count))) for count in (8, 9, 20, 100, 900)]),
    ("everything at once", "7", [" or ".join(map(str, range(count))) for count in (8, 9, 20)]),
    ("an expression for an expression", "x^2+1", ["x^2", "x^2+1+10^{-9}x", "x^{2.0000001}+1", "(x+1)^2", "x^2+y", "x^2+1=0", "y=x^2", "x^2-1", "x^{2^{2^{99}}}"]),
    ("a set for a set", "(-\\infty,3)", ["(-\\infty,3]", "(-\\infty,3.0000001)", "(-\\infty,9^{9^9})", "x<3\\text{ or }x>3", "\\mathbb{R}", "(3,-\\infty)", "[3]"]),
]

HEDGED: list[tuple[str, str]] = [
    ("7", r"\boxed{7} or \boxed{8}"),
    ("8", r"\boxed{7} or \boxed{8}"),
    ("7", r"\boxed{7}\boxed{8}"),
    ("8", r"\boxed{7} \boxed{8}"),
    ("8", r"\boxed{7}, \boxed{8}"),
    ("8", r"The answer is \boxed{7}. The answer is \boxed{8}."),
    ("7", r"The answer is \boxed{7}. The answer is \boxed{8}."),
    ("8", r"\boxed{7} Alternatively \boxed{8}"),
    ("8", r"either \boxed{6}, \boxed{7} or \boxed{8}"),
    ("7", r"\boxed{7 \text{ or } 8}"),
    ("7", r"\boxed{7, 8, 9}"),
    ("7", r"\boxed{7/8}"),
    ("7", r"\boxed{\boxed{7}, \boxed{8}}"),
    ("7", r"<answer>7 or 8</answer>"),
    ("7", r"<answer>7</answer> <answer>8</answer>"),
    ("7", r"\boxed{7"),
    ("7", r"\boxed 8 7"),
    ("7", r"\boxed{} 7"),
    ("7", r"the answer is 7"),
    ("7", r"\boxed{8} I mean 7"),
    ("7", r"<think>\boxed{7}</think> \boxed{8}"),
    ("7", r"\fbox{8} and 7"),
    ("7", r"\boxed{\text{the answer is in } \{1,\ldots,9\}}"),
    ("7", " ".join(rf"\boxed{{{number}}}" for number in range(10))),
    ("7", "\\boxed{8}" * 20_000 + "\\boxed{7}"),
    ("7", "\\boxed{" * 20_000 + "7"),
    ("7", "\\boxed" * 150_000),
    ("7", "<answer>" * 100_000 + "7"),
    ("7", "</think>" * 100_000 + "7"),
    ("A", r"\boxed{A, B, C, D}"),
    ("A", r"\boxed{A \text{ or } B}"),
    ("A", r"\boxed{ABCD}"),
    ("(1,2)", r"\boxed{(1,2),(2,1)}"),
    ("1,2", r"\boxed{1,2,3}"),
    ("1,2", r"\boxed{1}, \boxed{2}, \boxed{3}"),
    ("x=1", r"\boxed{x=1 \text{ or } x=2}"),
]

RIGHT: list[tuple[str, str]] = [
    ("7", "x" * 1_000_000 + r"\boxed{7}"),
    ("7", r"\boxed{7}" + " " * 1_000_000),
    ("7", "{" * 100_000 + r" \boxed{7}"),
    ("7", r"\boxed{" + "{" * 40 + "7" + "}" * 40 + "}"),
    ("7", r"\boxed{٧}"),
    ("7", r"\boxed{７}"),
    ("7", r"\boxed{𝟕}"),
    ("7", r"\boxed{７．０}"),
    ("-7", r"\boxed{−7}"),
    ("7", r"\boxed{" + "--" * 10 + "7}"),
    ("7", r"\boxed{7" + "+0" * 300 + "}"),
    ("7", r"\boxed{\frac{7!}{6!}}"),
    ("7", r"\boxed{7^{1^{9^{9^{9}}}}}"),
    ("1", r"\boxed{(-1)^{2^{20}}}"),
    ("0", r"\boxed{0\cdot 9^{99}}"),
    ("7", r"\boxed{\log_9 9^7}"),
    ("7", r"\boxed{7+9^{99}-9^{99}}"),
    ("7", r"<think>\boxed{6} or \boxed{8}</think> \boxed{7}"),
    ("7", r"\boxed{7} \boxed{7} \boxed{7}"),
    ("7", "\\boxed{7}" * 20_000),
    ("9^{9^{9^9}}", r"\boxed{9^{9^{9^{9}}}}"),
    ("2^{1000000}+1", r"\boxed{1+4^{500000}}"),
    ("7", r"\boxed{\text{７}}"),
    ("1/2", r"\boxed{½}"),
    (r"\emptyset", r"\boxed{\{\}}"),
    (r"\infty", r"\boxed{+\infty}"),
]
