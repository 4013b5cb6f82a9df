"""Read a cleaned answer into a tree: a recursive-descent parser for the LaTeX that answers are written in.

Nothing is evaluated here and nothing is passed to another parser. Tokens and depth are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from .notation import CONSTANTS, FUNCTIONS, GREEK, INVERSES, MATH_WORDS, RELATIONS
from .tree import Node, Unreadable, number

MOST_MARKS = 3000
DEEPEST = 60


_MARK = re.compile(
    r"\s*(?:(\d+\.\d*(?=\s*\\overline)|\d+(?:\.\d+)?|\.\d+)"
    r"|(\\begin\s*\{array\}\s*(?:\{[^{}]*\})?|\\(?:begin|end)\s*\{[a-z]+\*?\}|\\mathbb\s*\{?\s*[A-Z]\s*\}?|\\[A-Za-z]+|\\.)"
    r"|([A-Za-z]+)|(\S))"
)
_SEPARATORS = frozenset({",", ";", "and", "or"})
_OPENERS = frozenset(
    {"(", "[", "{", "\\{", "|", "\\frac", "\\sqrt", "sqrt", "\\binom", "\\lfloor", "\\lceil", "\\sum", "\\prod"}
)


def parse(text: str) -> Node:
    """The tree of a cleaned answer.

    Raises:
        Unreadable: outside the grammar, too long or too deep.
    """
    parser = _Parser(_marks(text))
    node = parser.listing()
    if parser.peek():
        raise Unreadable(f"unexpected {parser.peek()!r}")
    return node


def _marks(text: str) -> list[str]:
    marks: list[str] = []
    for match in _MARK.finditer(text):
        number, command, letters, other = match.groups()
        if letters and letters not in MATH_WORDS and letters not in CONSTANTS:
            marks.extend(letters)
        elif number or command or letters or other:
            marks.append(number or (re.sub(r"\s", "", command) if command else letters or other))
        if len(marks) > MOST_MARKS:
            raise Unreadable(f"more than {MOST_MARKS} symbols")
    if not marks:
        raise Unreadable("nothing to read")
    return marks


class _Parser:
    """State of one parse: the marks, the place, the depth, and how many ``|`` are open here."""

    def __init__(self, marks: list[str]) -> None:
        self.marks = marks
        self.at = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.marks[place] if place < len(self.marks) else ""

    def take(self) -> str:
        mark = self.peek()
        if not mark:
            raise Unreadable("ends too early")
        self.at += 1
        return mark

    def expect(self, mark: str) -> None:
        if self.take() != mark:
            raise Unreadable(f"{mark!r} expected, found {self.marks[self.at - 1]!r}")

    def listing(self) -> Node:
        """Items joined by comma, semicolon, "and" or "or"; a single item is itself.

        Where semicolons part lists with commas, the result is a list of lists.
        """
        parts: list[list[Node]] = [[self.relation()]]
        while self.peek() in _SEPARATORS:
            new_part = False
            while self.peek() in _SEPARATORS:
                new_part |= self.take() == ";"
            if new_part:
                parts.append([])
            parts[-1].append(self.relation())
        if len(parts) > 1 and any(len(part) > 1 for part in parts):
            return Node("list", tuple(_listed(part) for part in parts))
        return _listed([node for part in parts for node in part])

    def relation(self) -> Node:
        args, operators = [self.union()], []
        while self.peek() in RELATIONS:
            operators.append(RELATIONS[self.take()])
            args.append(self.union())
        return Node("rel", tuple(args), " ".join(operators)) if operators else args[0]

    def union(self) -> Node:
        return self.chain("union", {"\\cup"}, self.ratio)

    def ratio(self) -> Node:
        return self.chain("ratio", {":"}, self.sum)

    def chain(self, kind: str, separators: set[str], part: Callable[[], Node]) -> Node:
        args = [part()]
        while self.peek() in separators:
            self.take()
            args.append(part())
        return args[0] if len(args) == 1 else Node(kind, tuple(args))

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("nested too deeply")
        terms = [self.signed()]
        while self.peek() in {"+", "-", "\\pm", "\\mp"}:
            sign = self.take()
            right = self.signed() if self.peek() in {"+", "-"} else self.term()
            if sign in {"\\pm", "\\mp"}:
                right = Node("pm", (right,), sign[1:])
            terms.append(Node("neg", (right,)) if sign == "-" else right)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def signed(self) -> Node:
        sign = ""
        while self.peek() in {"+", "-", "\\pm", "\\mp"}:
            mark = self.take()
            if mark != "+":
                sign = ("" if sign == "-" else "-") if mark == "-" else mark
        node = self.term()
        if sign in {"\\pm", "\\mp"}:
            return Node("pm", (node,), sign[1:])
        return Node("neg", (node,)) if sign else node

    def term(self) -> Node:
        factors, divisions = [self.mixed() or self.power()], 0
        while True:
            mark = self.peek()
            if mark in {"*", "\\cdot", "\\times"}:
                self.take()
                factors.append(self.factor())
            elif mark in {"/", "\\div"}:
                self.take()
                factors[-1] = Node("div", (factors[-1], self.factor()))
                divisions += 1
            elif self.starts_atom(mark):
                factors.append(self.power())
            else:
                return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))
            if divisions > DEEPEST:
                raise Unreadable("too many divisions in a row")

    def factor(self) -> Node:
        """A power, maybe with a minus sign: ``2 \\cdot -3``."""
        negative = False
        while self.peek() in {"-", "+"}:
            negative ^= self.take() == "-"
        node = self.power()
        return Node("neg", (node,)) if negative else node

    def mixed(self) -> Node | None:
        """A mixed number ``1 1/2`` or ``1\\frac{4}{5}``, if one starts here."""
        whole, start = self.peek(), self.at
        if not whole.isdecimal():
            return None
        if self.peek(1).isdecimal() and self.peek(2) == "/" and self.peek(3).isdecimal():
            self.at += 4
            part = Node("div", (number(self.marks[start + 1]), number(self.marks[start + 3])))
            return Node("add", (number(whole), part))
        if self.peek(1) != "\\frac":
            return None
        self.take()
        part = self.power()
        if part.kind == "div" and all(n.kind == "num" for n in part.args) and part.args[0].value < part.args[1].value:
            return Node("add", (number(whole), part))
        self.at = start
        return None

    def starts_atom(self, mark: str) -> bool:
        if not mark or mark == "|":
            return mark == "|" and self.bars == 0
        if mark in _OPENERS or mark in CONSTANTS or mark[0].isdecimal() or (mark[0] == "." and len(mark) > 1):
            return True
        if mark[0] == "\\":
            name = mark[1:]
            return name in GREEK or name in FUNCTIONS or name.startswith(("begin", "mathbb"))
        return mark.isalpha() and mark not in {"and", "or"}

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.peek() == "^":
            self.take()
            if self.peek() in {"\\prime", "'"}:
                raise Unreadable("a derivative")
            node = self.postfix(Node("pow", (node, self.exponent())))
        return node

    def exponent(self) -> Node:
        if self.peek() == "{":
            return self.braced()
        negative = self.peek() == "-"
        if negative:
            self.take()
        node = self.power() if self.peek()[:1] == "\\" else self.atom()
        return Node("neg", (node,)) if negative else node

    def postfix(self, node: Node) -> Node:
        for _ in range(DEEPEST):
            if self.peek() not in {"!", "%", "°", "_"}:
                break
            mark = self.take()
            if mark == "_":
                node = self.subscript(node)
            else:
                node = Node({"!": "fact", "%": "percent", "°": "deg"}[mark], (node,))
        return node

    def subscript(self, node: Node) -> Node:
        start = self.at
        if self.peek() == "{":
            self.braced()
        else:
            self.take()
        label = "".join(t for t in self.marks[start : self.at] if t not in {"{", "}"})
        if node.kind == "sym" or (node.kind == "const" and node.name in {"e", "i"}):
            return Node("sym", name=f"{node.name}_{label}")
        if node.kind == "num" and label.isdecimal() and 2 <= int(label[:3]) <= 36:
            return node if label == "10" else Node("base", name=label, value=node.value)
        raise Unreadable("a subscript on an expression")

    def braced(self) -> Node:
        self.expect("{")
        bars, self.bars = self.bars, 0
        node = self.listing()
        self.bars = bars
        self.expect("}")
        return node

    def atom(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("nested too deeply")
        node = self.atom_of(self.take())
        self.depth -= 1
        return node

    def atom_of(self, mark: str) -> Node:
        if mark[0].isdecimal() or (mark[0] == "." and len(mark) > 1):
            return self.repeating(mark) if self.peek() == "\\overline" else number(mark)
        if mark in CONSTANTS:
            return Node("const", name=CONSTANTS[mark])
        name = mark.removeprefix("\\")
        if name in FUNCTIONS:
            return self.function(FUNCTIONS[name])
        if mark.startswith("\\begin"):
            return self.matrix(mark)
        if mark in {"(", "[", "{", "\\{"}:
            return self.bracket(mark)
        if mark in {"\\frac", "\\binom"}:
            top, bottom = self.argument(), self.argument()
            return Node("div", (top, bottom)) if mark == "\\frac" else Node("fn", (top, bottom), "binom")
        if name == "sqrt":
            return self.root()
        if mark in {"\\sum", "\\prod"}:
            return self.series(name)
        if mark in {"|", "\\lfloor", "\\lceil"}:
            return self.enclosed(mark)
        if mark.startswith("\\mathbb"):
            return Node("sym", name=mark.replace("{", "").replace("}", ""))
        if name in GREEK or (len(mark) == 1 and mark.isalpha()):
            return Node("sym", name=name)
        raise Unreadable(f"unexpected {mark!r}")

    def repeating(self, mark: str) -> Node:
        self.take()
        self.expect("{")
        period = self.take()
        self.expect("}")
        if not period.isdecimal() or len(period) > 50 or "." not in mark:
            raise Unreadable("a repeating part that is no digits")
        start = number(mark.rstrip(".") or "0")
        places = len(mark) - mark.index(".") - 1
        value = start.value + Fraction(int(period), (10 ** len(period) - 1) * 10**places)
        return Node("num", value=value)

    def argument(self) -> Node:
        """One LaTeX argument: braces, or a single digit or symbol."""
        mark = self.peek()
        if mark == "{":
            return self.braced()
        if mark.isdecimal() and len(mark) > 1:
            self.marks[self.at] = mark[1:]
            return number(mark[0])
        return self.atom()

    def root(self) -> Node:
        degree = Node("num", value=Fraction(2))
        if self.peek() == "[":
            self.take()
            degree = self.listing()
            self.expect("]")
        inside = self.braced() if self.peek() == "{" else self.atom()
        return Node("fn", (inside, degree), "root")

    def series(self, name: str) -> Node:
        """A sum or product with both limits; its body reaches to the next plus or minus."""
        self.expect("_")
        lower = self.braced()
        self.expect("^")
        upper = self.exponent()
        return Node("series", (lower, upper, self.term()), name)

    def enclosed(self, mark: str) -> Node:
        close, name = {"|": ("|", "abs"), "\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil")}[mark]
        bars, self.bars = self.bars, 1 if mark == "|" else 0
        node = self.sum()
        self.bars = bars
        self.expect(close)
        return Node("fn", (node,), name)

    def bracket(self, opener: str) -> Node:
        closers = {"(": {")", "]"}, "[": {"]", ")"}, "{": {"}"}, "\\{": {"\\}"}}[opener]
        bars, self.bars = self.bars, 0
        inner = self.listing()
        self.bars = bars
        closer = self.take()
        if closer not in closers:
            raise Unreadable(f"{opener!r} closed by {closer!r}")
        if opener == "\\{" or (opener == "{" and inner.kind == "list"):
            return Node("set", inner.args if inner.kind == "list" else (inner,))
        if inner.kind != "list":
            return inner
        return Node("group", inner.args, opener + closer)

    def function(self, name: str) -> Node:
        exponent, base = None, None
        while self.peek() in {"^", "_"}:
            if self.take() == "^":
                exponent = self.exponent()
            else:
                base = self.argument()
        argument = self.function_argument()
        if exponent is not None and exponent == Node("neg", (number("1"),)) and f"a{name}" in INVERSES:
            name, exponent = f"a{name}", None
        node = Node("fn", (argument,) if base is None else (argument, base), name)
        return node if exponent is None else Node("pow", (node, exponent))

    def function_argument(self) -> Node:
        if self.peek() in {"(", "{", "["}:
            return self.atom()
        factors = [self.power()]
        while self.starts_atom(self.peek()) and self.peek() != "(":
            if self.peek().removeprefix("\\") in FUNCTIONS:
                break
            factors.append(self.power())
        return factors[0] if len(factors) == 1 else Node("mul", tuple(factors))

    def matrix(self, opener: str) -> Node:
        kind = opener[opener.index("{") + 1 : opener.index("}")]
        if kind not in {"pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix"}:
            raise Unreadable(f"environment {kind!r}")
        rows: list[list[Node]] = [[]]
        while not self.peek().startswith("\\end"):
            if self.peek() in {"&", "\\\\", "\\hline"}:
                if self.take() == "\\\\" and not self.peek().startswith("\\end"):
                    rows.append([])
                continue
            rows[-1].append(self.relation())
        self.take()
        return Node("matrix", tuple(Node("row", tuple(row)) for row in rows if row))


def _listed(items: list[Node]) -> Node:
    return items[0] if len(items) == 1 else Node("list", tuple(items))
