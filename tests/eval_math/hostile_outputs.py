"""Inputs made to hang, crash, exhaust or hijack a grader."""

from __future__ import annotations

from pathlib import Path


def hostile_inputs(canary: Path) -> dict[str, str]:
    """Name -> model output. Those of code try to make the file ``canary``."""
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return {
        "tower": "\\boxed{9^{9^{9^{9^9}}}}",
        "tower of variables": "\\boxed{x^{x^{x^{x^{x^{9^9}}}}}}",
        "big factorial": "\\boxed{10000000!}",
        "nested factorial": "\\boxed{((9!)!)!}",
        "many factorials": "\\boxed{5" + "!" * 2000 + "}",
        "big binomial": "\\boxed{\\binom{10^9}{10^8}}",
        "big power": "\\boxed{2^{10^9} \\sqrt{2}}",
        "sum to 1e8": "\\boxed{\\sum_{k=1}^{100000000} \\frac{\\sin k}{k}}",
        "product to 1e7": "\\boxed{\\prod_{k=1}^{10000000} k}",
        "unsolvable integral": "\\boxed{\\int_0^1 \\frac{e^{\\sin(x^x)}}{\\ln(1+\\tan x)} dx}",
        "determinant": "\\boxed{\\begin{vmatrix}"
        + "\\\\".join("&".join(f"x_{{{i}}}^{{{j}}}" for j in range(9)) for i in range(9))
        + "\\end{vmatrix}}",
        "set of 20000": "\\boxed{\\{" + ",".join(map(str, range(20_000))) + "\\}}",
        "list of 400 roots": "\\boxed{" + ", ".join(f"\\sqrt{{{n}}}" for n in range(2, 402)) + "}",
        "nested braces": "\\boxed{" + "{" * 50_000 + "1" + "}" * 50_000 + "}",
        "nested parentheses": "(" * 100_000,
        "nested roots": "\\boxed{" + "\\sqrt{" * 3_000 + "2" + "}" * 3_000 + "}",
        "nested boxes": "\\boxed{" * 10_000 + "1" + "}" * 10_000,
        "a megabyte of digits": "the answer is " + "7" * 1_000_000,
        "5000 digits": "\\boxed{" + "7" * 5_000 + "}",
        "tiny decimal": "\\boxed{0." + "0" * 4_000 + "1}",
        "unclosed box": "\\boxed{1 + " + "x " * 12_000,
        "5000 boxes": ", ".join("\\boxed{1}" for _ in range(5_000)),
        "20000 unclosed boxes": "\\boxed{" * 20_000,
        "20000 unclosed spans": "\\( 1 " * 20_000 + "$ a " * 20_001,
        "20000 phrases": "the answer is " * 20_000,
        "spaces": "\\boxed{1" + " " * 15_000 + "2}",
        "commas": "\\boxed{" + "1,000" * 3_000 + ",}",
        "long sum": "\\boxed{" + "+".join(["\\sin(x)"] * 700) + "}",
        "powers over primes": "\\boxed{"
        + "+".join(f"\\frac{{7^{{3000}}}}{{{n}^{{900}}}}" for n in range(3, 120))
        + "}",
        "backslashes": "\\" * 30_000,
        "dollars": "$" * 50_001,
        "NUL": "\\boxed{\x0042\x00}",
        "lone surrogate": "\\boxed{\ud800}",
        "bidirectional marks": "\\boxed{\u202e42\u202c}",
        "empty": "",
        "blanks": " \n\t ",
        "empty box": "\\boxed{}",
        "code": f"\\boxed{{{code}}}",
        "code as a list": f"\\boxed{{[{code}, 1]}}",
        "code as text": f"\\boxed{{\\text{{{code}}}}}",
        "code after a phrase": f"The answer is {code}",
        "lambda": f"\\boxed{{(lambda: {code})()}}",
        "attribute": "\\boxed{().__class__.__bases__[0].__subclasses__()}",
        "exec": f"\\boxed{{exec({code!r})}}",
    }
