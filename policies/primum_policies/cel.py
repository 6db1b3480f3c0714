"""CEL expressions: the only door to the ``cel`` library. Compile, check, ask; any doubt is a "no".

Limits come first, because nested macros are not bounded by the library: expressions are short,
macros nest two deep, and facts are small. An expression that fails in any way, panics included,
raises ``RuleFailed``; the caller counts that as a denial.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.governance.gates import EXPRESSION_LENGTH_MAX

VARIABLES = (
    "study",
    "plan",
    "budgets",
    "claim",
    "evidence",
    "settlement",
    "policy",
    "release",
)
ADMISSION_VARIABLES = ("object", "oldObject", "request", "namespaceObject", "variables")
MACRO_DEPTH_MAX = 2  # Two loops over 256 items are 65,536 steps, some 50 ms; three would be 13 s.
MACROS_MAX = 12
ITEMS_MAX = 256  # Per list or object of facts.
NODES_MAX = 20_000  # Of all facts together.
DEPTH_MAX = 12
TEXT_LENGTH_MAX = 10_000
# An object of an API server: a pod's arguments may hold a step's context, a template nests deep.
OBJECT_TEXT_LENGTH_MAX = 2**20
OBJECT_DEPTH_MAX = 24

_FUNCTIONS = frozenset(
    [
        "size",
        "double",
        "int",
        "string",
        "startsWith",
        "endsWith",
        "contains",
        "matches",
        "has",
        "min",
        "max",
    ]
)
_MACRO = re.compile(r"\.\s*(all|exists_one|exists|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'')
_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?")
# Names and digests may look like numbers ("1e5" is a DNS label); these stay text.
_TEXT_KEYS = frozenset(
    (
        *("name", "namespace", "purpose", "kind", "endpoint", "datasetRelease", "digest"),
        *("subject", "budget", "algorithm", "model", "attack", "unit", "neighbors", "verdict"),
        *("edges", "voidEdges", "allowedPlugins", "artifacts", "treatments", "roles", "state"),
        *("status", "stage", "accounting", "disclosures", "accountant"),
    )
)


class RuleFailed(Exception):
    """An expression did not come to ``true`` or ``false``. The message names no value."""


def problems(expression: str, *, variables: tuple[str, ...] = VARIABLES) -> list[str]:
    """What is wrong with an expression, or nothing.

    Args:
        expression: CEL text.
        variables: The names it may use: by default those of a gate, ``study``, ``plan``,
            ``budgets``, ``claim``, ``evidence``, ``settlement``, ``policy`` and ``release``.

    Returns:
        Sentences: syntax, unknown names or functions, nesting.
    """
    if len(expression) > EXPRESSION_LENGTH_MAX:
        return [f"must have at most {EXPRESSION_LENGTH_MAX} characters; found {len(expression)}"]
    try:
        program = _program(expression)
        names, functions = set(program.variables()), set(program.functions())
    except RuleFailed as fault:
        return [str(fault)]
    bare = _STRING.sub('""', expression)
    bound = {match.group(2) for match in _MACRO.finditer(bare)}
    found = [
        f"must use only the names {', '.join(variables)}; found {name}"
        for name in sorted(names - bound - set(variables))
    ]
    found += [
        f"must use only known functions; found {name}"
        for name in sorted(functions - _FUNCTIONS)
        if name[:1].isalpha()
    ]
    if bound & set(variables):
        found.append("must not bind a fact's name in a macro")
    if _macro_depth(bare) > MACRO_DEPTH_MAX:
        found.append(f"must nest macros at most {MACRO_DEPTH_MAX} deep")
    if len(_MACRO.findall(bare)) > MACROS_MAX:
        found.append(f"must use at most {MACROS_MAX} macros")
    if not names & set(variables):
        found.append("must look at a fact")
    return found


class Prepared:
    """Facts that are handed to the engine once, for many expressions; handing over costs most.

    Args:
        facts: What ``cel_facts`` or ``cel_object`` made, by name.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.context = _engine().Context()
        for name, value in facts.items():
            self.put(name, value)

    def put(self, name: str, value: Any) -> None:
        """Set a fact, in place of what it was."""
        self.context.add_variable(name, value)


def ask(
    expression: str, facts: Mapping[str, Any] | Prepared, *, variables: tuple[str, ...] = VARIABLES
) -> bool:
    """Whether an expression holds over facts.

    Args:
        expression: CEL text.
        facts: What ``cel_facts`` or ``cel_object`` made, or the same prepared.
        variables: The names it may use.

    Returns:
        Exactly what the expression came to.

    Raises:
        RuleFailed: If it breaks a limit, fails in any way, or comes to anything but a boolean.
    """
    answer = value_of(expression, facts, variables=variables)
    if answer is not True and answer is not False:
        raise RuleFailed(f"the rule must come to true or false; found {type(answer).__name__}")
    return answer


def value_of(
    expression: str, facts: Mapping[str, Any] | Prepared, *, variables: tuple[str, ...] = VARIABLES
) -> Any:
    """What an expression comes to over facts: of a composed variable, any value.

    Raises:
        RuleFailed: If it breaks a limit or fails in any way.
    """
    wrong = _checked(expression, variables)
    if wrong:
        raise RuleFailed(wrong[0])
    program = _program(expression)
    try:
        return program.execute(facts.context if isinstance(facts, Prepared) else dict(facts))
    except BaseException as fault:  # A Rust panic is no Exception; it is a "no" all the same.
        if isinstance(fault, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise RuleFailed(_fault_text(fault)) from None


def cel_facts(facts: Mapping[str, JSON]) -> dict[str, Any]:
    """Facts as CEL sees them: decimal strings become doubles, except under a name or digest.

    Raises:
        InvalidValue: If they are larger or deeper than a rule may look at, or hold a float.
    """
    reader = _Reader(_number_or_text, DEPTH_MAX)
    return {str(key): reader.read(str(key), item, 1) for key, item in facts.items()}


def cel_object(name: str, value: JSON) -> Any:
    """An object of an API server as CEL sees it: unchanged, within the same limits of size.

    Raises:
        InvalidValue: If it is larger or deeper than a rule may look at.
    """
    return _Reader(_text_as_it_is, OBJECT_DEPTH_MAX, floats=True).read(name, value, 1)


class _Reader:
    """Walks facts and counts them; what becomes of a text is the caller's choice."""

    def __init__(
        self, text: Callable[[str, str], str | float], depth_max: int, *, floats: bool = False
    ) -> None:
        self._text = text
        self._depth_max = depth_max
        self._scalars = (bool, int, float) if floats else (bool, int)
        self._left = NODES_MAX

    def read(self, key: str, value: JSON, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise InvalidValue("facts", f"must have at most {NODES_MAX} values", "more")
        if depth > self._depth_max:
            rule = f"must nest at most {self._depth_max} deep"
            raise InvalidValue("facts", rule, "deeper nesting")
        if isinstance(value, str):
            return self._text(key, value)
        if value is None or isinstance(value, self._scalars):
            return value
        if not isinstance(value, Mapping | list | tuple):
            raise InvalidValue(f"facts.{key}", "must be JSON without floats", type(value).__name__)
        if len(value) > ITEMS_MAX:
            raise InvalidValue(f"facts.{key}", f"must have at most {ITEMS_MAX} items", len(value))
        if isinstance(value, Mapping):
            items = ((str(name), item) for name, item in value.items())
            return {name: self.read(name, item, depth + 1) for name, item in items}
        return [self.read(key, item, depth + 1) for item in value]


def _number_or_text(key: str, value: str) -> str | float:
    _check_length(key, value, TEXT_LENGTH_MAX)
    if key in _TEXT_KEYS or not _DECIMAL.fullmatch(value):
        return value
    number = float(Decimal(value))
    return number if math.isfinite(number) else value


def _text_as_it_is(key: str, value: str) -> str:
    _check_length(key, value, OBJECT_TEXT_LENGTH_MAX)
    return value


def _check_length(key: str, value: str, length_max: int) -> None:
    if len(value) > length_max:
        rule = f"must have at most {length_max} characters"
        raise InvalidValue(f"facts.{key}", rule, len(value))


def _macro_depth(expression: str) -> int:
    openings = {match.end() - 1: match for match in _MACRO.finditer(expression)}
    starts = {expression.index("(", match.start()) for match in openings.values()}
    depth = deepest = 0
    stack: list[bool] = []
    for position, character in enumerate(expression):
        if character == "(":
            stack.append(position in starts)
            depth += stack[-1]
            deepest = max(deepest, depth)
        elif character == ")" and stack:
            depth -= stack.pop()
    return deepest


@functools.lru_cache(maxsize=1024)
def _checked(expression: str, variables: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(problems(expression, variables=variables))


@functools.cache
def _engine() -> Any:
    with warnings.catch_warnings():
        # The package imports its own terminal program, which uses what click has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import cel

    return cel


@functools.lru_cache(maxsize=1024)
def _program(expression: str) -> Any:
    try:
        return _engine().compile(expression)
    except BaseException as fault:
        if isinstance(fault, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise RuleFailed(f"must be a CEL expression; found {_first_line(fault)}") from None


def _fault_text(fault: BaseException) -> str:
    # A missing key's name is the rule's own text; any other message could quote a fact.
    if isinstance(fault, KeyError):
        return f"no such fact: {_first_line(fault)}"
    return f"the rule failed with {type(fault).__name__}"


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0][:160]
