"""Does every doubt about an expression end in a "no", and are the engine's loops bounded?"""

from __future__ import annotations

import time

import pytest

from primum.domain.errors import InvalidValue
from primum_policies import cel

FACTS = cel.cel_facts({"study": {"name": "1e5", "kind": "Train"}, "plan": {"epsilon": "3.0"}})


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("plan.epsilon <= 3.0", True),
        ("plan.epsilon < 3", False),
        ('study.name == "1e5"', True),
        ("has(plan.delta)", False),
    ],
)
def test_booleans_are_answers(expression, expected):
    assert cel.ask(expression, FACTS) is expected


@pytest.mark.parametrize(
    "expression",
    [
        "plan.delta < 1.0",  # a missing key
        "plan.epsilon",  # not a boolean
        "size(study.name)",
        "plan.epsilon / 0.0 > study.name",  # types
        "study.kind > 1.0",
        "1 / 0 == plan.epsilon",
        "plan.epsilon <= ",  # syntax
        "unknown.name == 1",
        "launch(plan.epsilon)",
        "true",  # looks at nothing
        "1 == 1",
        "(" * 500 + "plan.epsilon > 0.0" + ")" * 500,
        "plan.epsilon > 0.0" + " " * 3000,
        "evidence.all(study, study == 1)",  # shadows a fact
    ],
)
def test_everything_else_is_a_fault(expression):
    with pytest.raises(cel.RuleFailed):
        cel.ask(expression, FACTS)


def test_faults_quote_no_fact():
    facts = cel.cel_facts({"study": {"name": "Jane Doe, born 1970"}})
    for expression in ("study.name > 1.0", "study.name + 1 == 2", "int(study.name) > 1"):
        with pytest.raises(cel.RuleFailed) as caught:
            cel.ask(expression, facts)
        assert "Jane" not in str(caught.value)


def nested(depth):
    inner = "budgets.size() > 0"
    for level in range(depth):
        inner = f"budgets.all(x{level}, {inner})"
    return inner


def test_nested_macros_are_bounded():
    assert cel.problems(nested(2)) == []
    assert "nest macros" in cel.problems(nested(3))[0]
    assert any(
        "nest macros" in text for text in cel.problems(nested(3).replace(".all(", ". all ("))
    )


def test_macros_side_by_side_are_not_nested():
    expression = " && ".join("budgets.all(b, b > 0)" for _ in range(5))
    assert cel.problems(expression) == []
    assert cel.problems(" && ".join("budgets.all(b, b > 0)" for _ in range(13)))


def test_macros_in_text_do_not_count():
    assert cel.problems('study.name != "a.all(b, c.all(d, e.all(f, g)))"') == []


def test_the_worst_permitted_loop_is_quick():
    facts = cel.cel_facts({"budgets": list(range(cel.ITEMS_MAX))})
    started = time.perf_counter()
    assert cel.ask("budgets.all(a, budgets.all(b, a + b >= 0))", facts)
    assert time.perf_counter() - started < 5  # Measured: some 0.03 s.


def deep(levels):
    return {"a": deep(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    "facts",
    [
        {"budgets": list(range(cel.ITEMS_MAX + 1))},
        {"plan": deep(20)},
        {"study": {"name": "x" * 20_000}},
        {"evidence": [[0] * 200 for _ in range(200)]},
        {"plan": {"epsilon": 3.0}},
        {"plan": {"epsilon": object()}},
    ],
)
def test_facts_are_bounded_and_exact(facts):
    with pytest.raises(InvalidValue):
        cel.cel_facts(facts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.0", 3.0),
        ("1E-5", 1e-5),
        ("-2", -2.0),
        ("3.", "3."),
        (".5", ".5"),
        ("1_000", "1_000"),
        (" 3", " 3"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("1e9999", "1e9999"),
        ("٣", "٣"),
        ("0x10", "0x10"),
    ],
)
def test_only_strict_decimals_become_numbers(text, expected):
    found = cel.cel_facts({"plan": {"value": text}})["plan"]["value"]
    assert found == expected
    assert type(found) is type(expected)


def test_an_infinite_figure_denies():
    facts = cel.cel_facts({"plan": {"epsilon": "inf"}})
    with pytest.raises(cel.RuleFailed):
        cel.ask("plan.epsilon > 1.0", facts)


def test_objects_of_an_api_server_stay_as_they_are():
    found = {"name": "1e5", "replicas": 2, "cpus": 0.5, "on": True, "none": None, "list": ["3.0"]}
    assert cel.cel_object("object", found) == found


@pytest.mark.parametrize(
    "found",
    [
        "x" * (cel.OBJECT_TEXT_LENGTH_MAX + 1),
        [0] * (cel.ITEMS_MAX + 1),
        [[0] * 200] * 200,
        {1, 2},
    ],
    ids=["text", "items", "nodes", "type"],
)
def test_objects_beyond_a_limit_are_refused(found):
    with pytest.raises(InvalidValue):
        cel.cel_object("object", found)


def test_objects_nest_deeper_than_facts_and_not_without_end():
    nested: dict = {}
    for _ in range(cel.OBJECT_DEPTH_MAX - 1):
        nested = {"x": nested}
    assert cel.cel_object("object", nested) == nested
    with pytest.raises(InvalidValue):
        cel.cel_object("object", {"x": nested})
    with pytest.raises(InvalidValue):
        cel.cel_facts({"plan": nested})


def test_prepared_facts_answer_like_the_facts_and_can_be_replaced():
    prepared = cel.Prepared(FACTS)
    assert cel.ask("plan.epsilon <= 3.0", prepared)
    prepared.put("plan", {"epsilon": 4.0})
    assert not cel.ask("plan.epsilon <= 3.0", prepared)
    with pytest.raises(cel.RuleFailed):
        cel.ask("plan.delta < 1.0", prepared)


def test_expressions_use_the_variables_they_are_given():
    names = cel.ADMISSION_VARIABLES
    assert cel.value_of("object.a + 1", {"object": {"a": 1}}, variables=names) == 2
    assert cel.problems("plan.epsilon > 1.0", variables=names)
    assert cel.problems("object.a > 1")
