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
from collections.abc import Mapping
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
MACRO_DEPTH_MAX = 2  # Two loops over 256 items are 65,536 steps, some 50 ms; three would be 13 s.
MACROS_MAX = 12
ITEMS_MAX = 256  # Per list or object of facts.
NODES_MAX = 20_000  # Of all facts together.
DEPTH_MAX = 12
TEXT_LENGTH_MAX = 10_000

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


def problems(expression: str) -> list[str]:
    """What is wrong with an expression, or nothing.

    Args:
        expression: CEL text over the variables ``study``, ``plan``, ``budgets``, ``claim``,
            ``evidence``, ``settlement``, ``policy`` and ``release``.

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
        f"must use only the names {', '.join(VARIABLES)}; found {name}"
        for name in sorted(names - bound - set(VARIABLES))
    ]
    found += [
        f"must use only known functions; found {name}"
        for name in sorted(functions - _FUNCTIONS)
        if name[:1].isalpha()
    ]
    if bound & set(VARIABLES):
        found.append("must not bind a fact's name in a macro")
    if _macro_depth(bare) > MACRO_DEPTH_MAX:
        found.append(f"must nest macros at most {MACRO_DEPTH_MAX} deep")
    if len(_MACRO.findall(bare)) > MACROS_MAX:
        found.append(f"must use at most {MACROS_MAX} macros")
    if not names & set(VARIABLES):
        found.append("must look at a fact")
    return found


def ask(expression: str, facts: Mapping[str, Any]) -> bool:
    """Whether an expression holds over facts.

    Args:
        expression: CEL text.
        facts: What ``cel_facts`` made.

    Returns:
        Exactly what the expression came to.

    Raises:
        RuleFailed: If it breaks a limit, fails in any way, or comes to anything but a boolean.
    """
    wrong = _checked(expression)
    if wrong:
        raise RuleFailed(wrong[0])
    program = _program(expression)
    try:
        answer = program.execute(dict(facts))
    except BaseException as fault:  # A Rust panic is no Exception; it is a "no" all the same.
        if isinstance(fault, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise RuleFailed(_fault_text(fault)) from None
    if answer is not True and answer is not False:
        raise RuleFailed(f"the rule must come to true or false; found {type(answer).__name__}")
    return answer


def cel_facts(facts: Mapping[str, JSON]) -> dict[str, Any]:
    """Facts as CEL sees them: decimal strings become doubles, except under a name or digest.

    Raises:
        InvalidValue: If they are larger or deeper than a rule may look at, or hold a float.
    """
    budget = [NODES_MAX]
    return {str(key): _value(str(key), item, 1, budget) for key, item in facts.items()}


def _value(key: str, value: JSON, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise InvalidValue("facts", f"must have at most {NODES_MAX} values", "more")
    if depth > DEPTH_MAX:
        raise InvalidValue("facts", f"must nest at most {DEPTH_MAX} deep", "deeper nesting")
    if isinstance(value, str):
        return _text(key, value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) or not isinstance(value, Mapping | list | tuple):
        raise InvalidValue(f"facts.{key}", "must be JSON without floats", type(value).__name__)
    if len(value) > ITEMS_MAX:
        raise InvalidValue(f"facts.{key}", f"must have at most {ITEMS_MAX} items", len(value))
    if isinstance(value, Mapping):
        items = ((str(name), item) for name, item in value.items())
        return {name: _value(name, item, depth + 1, budget) for name, item in items}
    return [_value(key, item, depth + 1, budget) for item in value]


def _text(key: str, value: str) -> str | float:
    if len(value) > TEXT_LENGTH_MAX:
        rule = f"must have at most {TEXT_LENGTH_MAX} characters"
        raise InvalidValue(f"facts.{key}", rule, len(value))
    if key in _TEXT_KEYS or not _DECIMAL.fullmatch(value):
        return value
    number = float(Decimal(value))
    return number if math.isfinite(number) else value


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
def _checked(expression: str) -> tuple[str, ...]:
    return tuple(problems(expression))


@functools.lru_cache(maxsize=1024)
def _program(expression: str) -> Any:
    with warnings.catch_warnings():
        # The package imports its own terminal program, which uses what click has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import cel

    try:
        return cel.compile(expression)
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
