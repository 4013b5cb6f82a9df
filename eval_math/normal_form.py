"""String tier: bring an answer into a normal form by string work alone, linear in its length."""

from __future__ import annotations

import re

from .notation import FUNCTIONS, ONES, SHORT_WORDS, TENS, UNITS

LONGEST_CHARACTERS = 20_000
"""Longer answers are only compared character by character."""

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ",
        "÷": "/", "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ",
        "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ",
        "º": r"^\circ ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ",
        "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}", "ℝ": r"\mathbb{R}", "€": "", "£": "", "¥": "", "₹": "", "％": "%", "，": ",", "：": ":",
        "（": "(", "）": ")", "＝": "=", "＋": "+", "．": ".", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
        "\u2061": "", "\u200b": "", "\ufeff": "", "\u2062": "", "\u200e": "", "\u200f": "", "\x00": "",
    }
)  # fmt: skip

_SIMPLE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\\\(?=(?:left|right|[dt]?frac|sqrt|pi|text|cdot|times|infty|begin|end)(?![A-Za-z]))", r"\\"),
        (r"(?<=\d)(?:,\\[!,]|\s?\{,\s?\}|\\,|\\[!])\s*(?=\d{3}(?!\d))", ""),
        (r"\\[$](?:\s|\\ )*|(?<!\\)\$", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![A-Za-z])\.?", ""),
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|boxed|fbox)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"(?<!\\)\\[!]", ""),
        (r"(?<!\\)\\(?:[,;: ]|q?quad|hspace\s*\{[^{}]*\})|~", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])", "°"),
        (
            r"(?<=\d)\s*(?:\^\s*\{\s*\\(?:text|mathrm)\s*\{(?:st|nd|rd|th)\}\s*\}"
            r"|\^?\s*\\(?:text|mathrm)\s*\{(?:st|nd|rd|th)\}|(?:st|nd|rd|th)\b)",
            "",
        ),
        (r"\\%|(?<=[\d}])\s*(?:percentage|percent|pct)\b", "%"),
        (r"\\(?:begin|end)\s*\{(?:align|aligned|equation|gather|gathered)\*?\}", " "),
        (r"\\(?:lbrace|\{)", r"\\{"),
        (r"\\(?:rbrace|\})", r"\\}"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\(?:leqslant|leq)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geqslant|geq)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:colon)(?![A-Za-z])", ":"),
        (r"^(\s*[A-Za-z](?:_\w+)?\s*)(?:\\approx(?![A-Za-z])|≈)", r"\1="),
        (r"(?<=[\w})])\s*(?:\\approx(?![A-Za-z])|≈)[^=,;]*$", ""),
        (
            r"\\(?:overline|vec|hat|bar|widehat|overrightarrow|mathcal|boldsymbol|bf|it)\s*(?=\{\s*[A-Za-z]|[A-Za-z]\b)",
            "",
        ),
        (r"\\(?:triangle|angle|phantom)(?![A-Za-z])", ""),
    )
)

_LEADING = re.compile(r"^(?:[ ,;:=]|\.(?!\d)|\\(?:approx|equiv|sim)(?![A-Za-z]))+")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|rm)\s*\{([^{}]*)\}")
_CONNECTIVE = re.compile(r"[\s,;]*\b(and|or)\b[\s,;]*")
_UNIT_POWER = re.compile(r"\s*(?:\^\s*(?:\{\s*-?\d\s*\}|-?\d))")


def clean(text: str) -> str:
    """The answer without wrappers, sizing, units, currency and thousands separators; whitespace collapsed."""
    text = text[:LONGEST_CHARACTERS].translate(_UNICODE)
    for pattern, replacement in _SIMPLE:
        text = pattern.sub(replacement, text)
    text = _unwrap_text(text)
    text = _join_thousands(text)
    text = _LEADING.sub("", " ".join(text.split()).rstrip(" .,;:"))
    return _drop_units(text)


def compact(text: str) -> str:
    """Key of the string tier: a cleaned answer without whitespace, with ``\\frac12`` and ``\\sqrt2`` written out."""
    text = "".join(text.split())
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt(\d|[a-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return text.rstrip("°%") if re.fullmatch(r"-?[\d.]+[°%]", text) else text


def is_word(text: str) -> bool:
    """True for an answer in words: letters only, with a run of three that is no function."""
    runs = re.findall(r"[A-Za-z]+", text)
    if re.search(r"[\\^_={}+*/<>|]", text) or not runs:
        return False
    longest = max(runs, key=len)
    return len(longest) >= 3 and longest not in FUNCTIONS and (len(longest) >= 4 or longest.lower() in SHORT_WORDS)


def number_word(text: str) -> int | None:
    """0 to 99 spelled out, else None."""
    parts = text.lower().replace("-", " ").split()
    values = {**{w: n for n, w in enumerate(ONES)}, **{w: 10 * n for n, w in enumerate(TENS, 2)}}
    if len(parts) == 1:
        return values.get(parts[0])
    if len(parts) == 2 and parts[0] in TENS and parts[1] in ONES[1:10]:
        return values[parts[0]] + values[parts[1]]
    return None


def word_key(text: str) -> str:
    """Words without case, spaces and full stops."""
    return re.sub(r"[\s.\"'`,]", "", text).casefold()


def _unwrap_text(text: str) -> str:
    """Replace text commands by what they mean: a connective, a name, a word; a unit after something vanishes."""
    if "\\" not in text:
        return text
    parts: list[str] = []
    at = 0
    for match in _TEXT.finditer(text):
        parts.append(text[at : match.start()])
        before = "".join(parts[-2:]).strip()
        content, at = match.group(1).strip(), match.end()
        connective = _CONNECTIVE.fullmatch(match.group(1))
        if connective or not content:
            parts.append(" and " if connective else " ")
        elif content.lstrip("\\") in FUNCTIONS or content == "sqrt":
            parts.append("\\" + content.lstrip("\\") + " ")
        elif len(content) == 1 or not re.search(r"[\d})\]%°]$|\\pi$", before) or re.match(r"\s*[({_]", text[at:]):
            parts.append(f" {content} " if len(content) > 1 else content)
        else:
            power = _UNIT_POWER.match(text, at)
            at = power.end() if power else at
            parts.append(" ")
    parts.append(text[at:])
    return "".join(parts)


_COMMA_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_SPACE_THOUSANDS = re.compile(r"(?<![\d.}])[1-9]\d{0,2}(?: \d{3})+(?![\d/])")


def _join_thousands(text: str) -> str:
    """Drop separators in ``1,000`` and ``1 000``; within brackets a comma stays a comma."""
    text = _SPACE_THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)
    if "," not in text:
        return text
    depth, done, parts = 0, 0, []
    for match in _COMMA_THOUSANDS.finditer(text):
        between = text[done : match.start()]
        depth += between.count("(") + between.count("[") - between.count(")") - between.count("]")
        depth += between.count("\\{") - between.count("\\}")
        parts += [between, match.group() if depth > 0 else match.group().replace(",", "")]
        done = match.end()
    return "".join(parts) + text[done:]


_TAIL = re.compile(r"(?<=[\d})\]%°!])\s*([A-Za-z][A-Za-z .'/-]*?)\s*(?:\^\s*\{?-?\d\}?)?(?:\s*\([a-z ]*\))?$")


def _drop_units(text: str) -> str:
    """Cut plain words at the end that follow a number: ``5 cm^2``, ``10 units``."""
    start = max(0, len(text) - 80)
    match = _TAIL.search(text, start)
    if match is None:
        return text
    words = re.findall(r"[A-Za-z]+", match.group(1))
    known = all(w.lower() in UNITS or (len(w) >= 4 and re.search("[aeiouy]", w)) for w in words)
    if not known or words[0] in FUNCTIONS or words[0] in {"and", "or"}:
        return text
    return text[: match.start()].rstrip()
