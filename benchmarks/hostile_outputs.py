"""Inputs made to hang, crash, exhaust or hijack a grader."""

from __future__ import annotations

from pathlib import Path


def hostile_inputs(canary: Path) -> dict[str, str]:
    """Name -> model output. Those of code try to make the file ``canary``."""
    return odd_inputs(canary) | {
        "tower": "\\boxed{9^{9^{9^{9^9}}}}",
        "tower of variables": "\\boxed{x^{x^{x^{x^{x^{9^9}}}}}}",
        "big factorial": "\\boxed{10000000!}",
        "nested factorial": "\\boxed{((9!)!)!}",
        "many factorials": "\\boxed{5" + "!" * 2000 + "}",
        "big binomial": "\\boxed{\\binom{10^9}{10^8}}",
        "big power": "\\boxed{2^{10^9} \\sqrt{2}}",
        "sum to 1e8": "\\boxed{\\sum_{k=1}^{100000000} \\frac{\\sin k}{k}}",
        "product to 1e7": "\\boxed{\\prod_{k=1}^{10000000} k}",
        "nested sums": "\\boxed{" + "".join(f"\\sum_{{k_{n}=1}}^{{50}}" for n in range(12)) + " k_1}",
        "sum over a sum": "\\boxed{\\sum_{i=1}^{\\sum_{j=1}^{9} j!} i^i}",
        "300 sums": "\\boxed{" + "+".join(["\\sum_{k=1}^{390} k^{k}"] * 200) + "}",
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
        "30000 zeros and a percent word": "\\boxed{1" + "0" * 30_000 + " percent}",
        "100000 zeros after the point": "\\boxed{0." + "0" * 100_000 + "1 \\%}",
        "commas that could be thousands": "\\boxed{" + "1,111" * 8_000 + "}",
        "a word that repeats": "\\boxed{\\text{" + "and " * 20_000 + "}}",
        "large power of a sum": "\\boxed{(a+b+c+d+e)^{60}+1}",
        "large power of a sum again": "\\boxed{((a+b+c+d+e)^{60}+1)^{60} - x^{99999}}",
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
    }


def odd_inputs(canary: Path) -> dict[str, str]:
    """Odd characters, nothing at all, and code in every place where a grader might run it."""
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return {
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


PIECES = (
    "\\frac", "\\sqrt", "\\binom", "\\sum_{k=1}^{n}", "\\int_0^1", "\\prod", "\\infty", "\\pi", "\\pm", "\\cup",
    "\\in", "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&", "\\boxed{", "\\text{", "\\left(", "\\right]",
    "\\{", "\\}", "{", "}", "(", ")", "[", "]", "|", "^", "_", "!", "!!", "%", "°", "$", "$$", "####", "A:",
    "the answer is ", "and", "or", ",", ";", "=", "<", "\\le", "\\ne", ":", "+", "-", "*", "/", ".", "\\cdot", "\\sin",
    "\\log_2", "\\lim", "\\mod", "e", "i", "x", "y", "0", "1", "9", "99999999", "0.000001", "1e9", "9^{9^9}",
    "</think>", "<think>", "\n", " ", "\x00", "\ud800", "\u202e", "∑", "٣", "__import__('os')", "lambda:0",
    "().__class__", "eval(", "\\input{/etc/passwd}",
)  # fmt: skip


def made_outputs(count: int, canary: Path, seed: int = 0) -> list[str]:
    """``count`` model outputs made by hypothesis: pieces of LaTeX, code and noise in any order, most of them boxed."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    piece = st.sampled_from((*PIECES, code)) | st.text(max_size=4)
    found: list[str] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(st.lists(piece, min_size=1, max_size=25), st.booleans())
    def make(pieces: list[str], boxed: bool) -> None:
        text = "".join(pieces)
        found.append(f"\\boxed{{{text}}}" if boxed else text)

    make()
    return found
