"""No float touches money: where rules of money are written there is none at all, elsewhere none meets a money name."""

import ast
import re
from collections.abc import Iterator

import pytest
from tests.syntax import Source, last_name, parse, product

STRICT = {"core/money.py", "core/pricing.py", "core/ledger.py"}
MONEY_WORDS = {
    *("amount", "amounts", "balance", "charge", "charged", "cost", "credit", "granted", "held", "nano", "pico"),
    *("posted", "price", "prices", "spent", "usd"),
}
# Column types that round. SQLite's INTEGER and PostgreSQL's bigint are what amounts are stored in.
ROUNDING_COLUMNS = re.compile(r"\b(REAL|FLOAT|FLOAT4|FLOAT8|DOUBLE PRECISION|NUMERIC|DECIMAL|MONEY)\b")
ROUNDING_TYPES = {"Float", "REAL", "Double", "DOUBLE", "DOUBLE_PRECISION", "Numeric", "NUMERIC", "DECIMAL", "MONEY"}
ROUNDING_CALLS = {"float", "round", "fsum", "sqrt", "pow"}


def is_float(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=float() | complex()):
            return True
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            return True
        case ast.Name(id="float"):
            return True
        case ast.Call(func=function):
            return last_name(function) in ROUNDING_CALLS
    return False


def is_money(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
            words = name.lower().strip("_").split("_")
            # `price_version` and `cost_header` name no amount: the last word says what a thing is.
            return words[-1] in MONEY_WORDS or {"nano", "pico", "usd"} & set(words) != set()
    return False


def floats(source: Source) -> Iterator[str]:
    """All of them, in a file where there must be none."""
    for node in ast.walk(source.tree):
        if is_float(node):
            yield source.at(getattr(node, "lineno", 0), f"no float here: {ast.unparse(node)}")


def mixtures(source: Source) -> Iterator[str]:
    """Calculations, comparisons, assignments and arguments in which a float meets an amount of money."""
    if source.unit == "limits":
        return  # its amounts are counts of requests and tokens: money is only in the database
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.BinOp | ast.Compare | ast.arg):
            inside = list(calculation(node))
            if any(map(is_float, inside)) and any(map(is_money, inside)):
                yield source.at(node.lineno, f"a float meets money: {ast.unparse(node)[:100]}")


def calculation(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what its value is made of: not what stands in arguments, lists and subscripts."""
    yield node
    if not isinstance(node, ast.Call | ast.Subscript | ast.Attribute | ast.List | ast.Tuple | ast.Dict | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from calculation(child)


def rounding_columns(source: Source) -> Iterator[str]:
    if source.unit != "store":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ROUNDING_COLUMNS.search(node.value):
            yield source.at(node.lineno, "a column type that rounds, in SQL")
        elif isinstance(node, ast.Name | ast.Attribute) and last_name(node) in ROUNDING_TYPES:
            yield source.at(node.lineno, f"a column type that rounds: {last_name(node)}")


def test_there_is_no_float_where_the_rules_of_money_are_written() -> None:
    strict = [source for source in product() if str(source.path) in STRICT]
    assert {str(source.path) for source in strict} == STRICT
    assert [complaint for source in strict for complaint in floats(source)] == []


def test_no_float_meets_an_amount_of_money() -> None:
    assert [complaint for source in product() for complaint in mixtures(source)] == []


def test_no_column_of_the_store_rounds() -> None:
    assert [complaint for source in product() for complaint in rounding_columns(source)] == []


@pytest.mark.parametrize(
    "text",
    ["x = 0.5", "x = float(y)", "x = a / b", "x /= 2", "x: float = y", "def f(x: float) -> int: ...", "x = round(y)"],
)
def test_a_float_is_found(text: str) -> None:
    assert list(floats(parse("core/money.py", text)))


def test_integer_arithmetic_is_not_mistaken_for_float() -> None:
    assert not list(floats(parse("core/money.py", "x = -(-tokens * price // 1000) % 7")))


@pytest.mark.parametrize(
    "text",
    [
        "amount = 0.5 * tokens",
        "x = balance_nano / 1_000_000_000",
        "def f(charge: float) -> None: ...",
        "class A:\n    posted: float = 0",
        "ok = row.held > 0.0",
    ],
)
def test_a_float_that_meets_money_is_found(text: str) -> None:
    assert list(mixtures(parse("gateway/settlement.py", text)))


def test_seconds_may_be_floats() -> None:
    assert not list(mixtures(parse("store/db.py", "timeout: float = 0.25\nwait(timeout / 2)")))


@pytest.mark.parametrize("text", ["SQL = 'amount REAL NOT NULL'", "c = Column('amount', sa.Numeric(18, 9))"])
def test_a_column_that_rounds_is_found(text: str) -> None:
    assert list(rounding_columns(parse("store/tables.py", text)))
