"""The part of CEL that validation rules of CRDs use: a parser and an evaluator of it.

What is not here is refused with 501 when the definition is created, by name of the function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.apistandin.celfunctions import FUNCTIONS, METHODS
from tests.apistandin.failure import not_implemented

Scope = Mapping[str, Any]
Node = Callable[[Scope], Any]


class SyntaxProblem(Exception):
    """The text is no expression."""


class EvaluationProblem(Exception):
    """The expression has no value for this object: a field is absent, or types do not fit."""


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>\d+\.\d+|\d+)
    | (?P<text>r?"(?:[^"\\]|\\.)*"|r?'(?:[^'\\]|\\.)*')
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>==|!=|<=|>=|&&|\|\||[-+*/%!<>?:.,()\[\]{}])
    )""",
    re.VERBOSE,
)


@dataclass(slots=True)
class _Tokens:
    items: list[tuple[str, str]]
    at: int = 0

    def peek(self) -> str:
        return self.items[self.at][1] if self.at < len(self.items) else ""

    def kind(self) -> str:
        return self.items[self.at][0] if self.at < len(self.items) else "end"

    def take(self) -> tuple[str, str]:
        if self.at >= len(self.items):
            raise SyntaxProblem("it ends too early")
        self.at += 1
        return self.items[self.at - 1]

    def accept(self, *signs: str) -> str:
        if self.kind() in ("sign", "word") and self.peek() in signs:
            return self.take()[1]
        return ""

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            raise SyntaxProblem(f"expected {sign!r}, found {self.peek() or 'the end'!r}")


def compile_rule(text: str) -> Node:
    """An expression as a function of its variables.

    Raises:
        SyntaxProblem: it is none.
        Failure: 501, it uses what is not implemented here.
    """
    items: list[tuple[str, str]] = []
    position = 0
    text = text.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found or not found.lastgroup:
            raise SyntaxProblem(f"no token at {text[position:]!r}")
        items.append((found.lastgroup, found[found.lastgroup]))
        position = found.end()
    tokens = _Tokens(items)
    node = _ternary(tokens)
    if tokens.kind() != "end":
        raise SyntaxProblem(f"unexpected {tokens.peek()!r}")
    return node


def _ternary(tokens: _Tokens) -> Node:
    condition = _either(tokens)
    if not tokens.accept("?"):
        return condition
    then = _ternary(tokens)
    tokens.expect(":")
    otherwise = _ternary(tokens)
    return lambda scope: then(scope) if _truth(condition(scope)) else otherwise(scope)


def _either(tokens: _Tokens) -> Node:
    node = _both(tokens)
    while tokens.accept("||"):
        node = _logical(node, _both(tokens), decides=True)
    return node


def _both(tokens: _Tokens) -> Node:
    node = _relation(tokens)
    while tokens.accept("&&"):
        node = _logical(node, _relation(tokens), decides=False)
    return node


def _logical(left: Node, right: Node, *, decides: bool) -> Node:
    """CEL's && and ||: an error on one side is forgotten if the other side decides."""

    def evaluate(scope: Scope) -> bool:
        try:
            if _truth(left(scope)) is decides:
                return decides
        except EvaluationProblem:
            if _truth(right(scope)) is decides:
                return decides
            raise
        return _truth(right(scope))

    return evaluate


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise EvaluationProblem("no such overload: a condition is no boolean")
    return value


def _relation(tokens: _Tokens) -> Node:
    node = _sum(tokens)
    while sign := tokens.accept("==", "!=", "<=", ">=", "<", ">", "in"):
        node = _binary(sign, node, _sum(tokens))
    return node


def _sum(tokens: _Tokens) -> Node:
    node = _product(tokens)
    while sign := tokens.accept("+", "-"):
        node = _binary(sign, node, _product(tokens))
    return node


def _product(tokens: _Tokens) -> Node:
    node = _unary(tokens)
    while sign := tokens.accept("*", "/", "%"):
        node = _binary(sign, node, _unary(tokens))
    return node


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "in": lambda a, b: a in b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    # Integer division of CEL truncates towards zero.
    "/": lambda a, b: int(a / b) if isinstance(a, int) and isinstance(b, int) else a / b,
    "%": lambda a, b: a - b * int(a / b),
}


def _binary(sign: str, left: Node, right: Node) -> Node:
    operate = _OPERATORS[sign]

    def evaluate(scope: Scope) -> Any:
        try:
            return operate(left(scope), right(scope))
        except (TypeError, ZeroDivisionError) as problem:
            raise EvaluationProblem(f"no such overload: {sign}: {problem}") from None

    return evaluate


def _unary(tokens: _Tokens) -> Node:
    if tokens.accept("!"):
        node = _unary(tokens)
        return lambda scope: not _truth(node(scope))
    if tokens.accept("-"):
        node = _unary(tokens)
        return lambda scope: -node(scope)
    return _postfix(tokens)


def _postfix(tokens: _Tokens) -> Node:
    node = _primary(tokens)
    while True:
        if tokens.accept("."):
            kind, name = tokens.take()
            if kind != "word":
                raise SyntaxProblem(f"no name of a field: {name!r}")
            if tokens.accept("("):
                node = _method(name, node, tokens)
            else:
                node = _select(node, unescape(name))
        elif tokens.accept("["):
            node = _index(node, _ternary(tokens))
            tokens.expect("]")
        else:
            return node


def unescape(name: str) -> str:
    """A field's name as CEL has to write it, as it is in the object."""
    for mark, sign in (("__dash__", "-"), ("__dot__", "."), ("__slash__", "/")):
        name = name.replace(mark, sign)
    found = re.fullmatch(r"__(\w+)__", name)
    return found[1] if found else name


def _select(node: Node, name: str) -> Node:
    def evaluate(scope: Scope) -> Any:
        value = node(scope)
        if not isinstance(value, dict) or name not in value:
            raise EvaluationProblem(f"no such key: {name}")
        return value[name]

    return evaluate


def _index(node: Node, at: Node) -> Node:
    def evaluate(scope: Scope) -> Any:
        try:
            return node(scope)[at(scope)]
        except (KeyError, IndexError, TypeError) as problem:
            raise EvaluationProblem(f"no such key: {problem}") from None

    return evaluate


_WORDS = {"true": True, "false": False, "null": None}


def _primary(tokens: _Tokens) -> Node:
    if tokens.accept("("):
        node = _ternary(tokens)
        tokens.expect(")")
        return node
    if tokens.accept("["):
        items = _arguments(tokens, "]")
        return lambda scope: [item(scope) for item in items]
    kind, text = tokens.take()
    if kind == "number":
        number = float(text) if "." in text else int(text)
        return lambda _scope: number
    if kind == "text":
        literal = _literal(text)
        return lambda _scope: literal
    if kind != "word":
        raise SyntaxProblem(f"unexpected {text!r}")
    if text in _WORDS:
        return lambda _scope: _WORDS[text]
    if tokens.accept("("):
        return _function(text, tokens)

    def variable(scope: Scope) -> Any:
        if text not in scope:
            raise EvaluationProblem(f"undeclared reference to {text}")
        return scope[text]

    return variable


def _literal(text: str) -> str:
    if text.startswith("r"):
        return text[2:-1]
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), text[1:-1])


def _arguments(tokens: _Tokens, end: str) -> list[Node]:
    items: list[Node] = []
    if tokens.accept(end):
        return items
    while True:
        items.append(_ternary(tokens))
        if tokens.accept(end):
            return items
        tokens.expect(",")


def _function(name: str, tokens: _Tokens) -> Node:
    arguments = _arguments(tokens, ")")
    if name == "has":
        return _has(arguments)
    if name not in FUNCTIONS:
        raise not_implemented(f"the CEL function {name}()")
    return _call(name, FUNCTIONS[name], arguments)


def _has(arguments: Sequence[Node]) -> Node:
    def evaluate(scope: Scope) -> bool:
        try:
            arguments[0](scope)
        except EvaluationProblem as problem:
            if "no such key" in str(problem):
                return False
            raise
        return True

    return evaluate


def _call(name: str, function: Callable[..., Any], arguments: Sequence[Node]) -> Node:
    def evaluate(scope: Scope) -> Any:
        try:
            return function(*(argument(scope) for argument in arguments))
        except (TypeError, ValueError, AttributeError, KeyError) as problem:
            raise EvaluationProblem(f"{name}(): {problem}") from None

    return evaluate


_MACROS = ("all", "exists", "exists_one", "map", "filter")


def _method(name: str, target: Node, tokens: _Tokens) -> Node:
    if name in _MACROS:
        kind, variable = tokens.take()
        if kind != "word":
            raise SyntaxProblem(f"{name}() wants the name of a variable, not {variable!r}")
        tokens.expect(",")
        body = _ternary(tokens)
        tokens.expect(")")
        return _macro(name, target, variable, body)
    arguments = _arguments(tokens, ")")
    if name not in METHODS:
        raise not_implemented(f"the CEL method {name}()")
    return _call(name, METHODS[name], [target, *arguments])


def _macro(name: str, target: Node, variable: str, body: Node) -> Node:
    def evaluate(scope: Scope) -> Any:
        items = target(scope)
        if not isinstance(items, dict | list):
            raise EvaluationProblem(f"no such overload: {name}() of no list")
        values = [(item, body({**scope, variable: item})) for item in items]
        if name == "all":
            return all(_truth(value) for _, value in values)
        if name == "exists":
            return any(_truth(value) for _, value in values)
        if name == "exists_one":
            return sum(_truth(value) for _, value in values) == 1
        if name == "map":
            return [value for _, value in values]
        return [item for item, value in values if _truth(value)]

    return evaluate
