"""Rules of the product's sources that a reader should never have to check by eye."""

import ast
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.syntax import Source, last_name, parse, product

# Nothing that runs what it was given. `serve` runs the migration as a process of its own, from one place.
RUNNERS = {"subprocess", "pickle", "shelve", "marshal", "ctypes", "runpy", "code", "pty", "multiprocessing"}
RUNNER_CALLS = {"eval", "exec", "compile", "__import__"}
RUNNER_METHODS = re.compile(
    r"(os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)|.*\b(create_)?subprocess_(exec|shell))"
)
MAY_RUN = {
    "store/schema.py": {"create_subprocess_exec"},
    "edge/workers.py": {"posix_spawn"},
}
# Whose tenant a request is travels in arguments, never in the context of a task.
HIDDEN_STATE = {"ContextVar", "local"}

SECRET_WORDS = {"digest", "secret", "password", "pepper", "mac", "hmac", "signature", "token", "credential"}
# Digests that are recomputed from rows, to find changed ones: there is nothing to guess.
PUBLIC_DIGESTS = {"store/verify.py", "store/retention.py"}
SQL_START = re.compile(
    r"\s*(SELECT|INSERT (OR \w+ )?INTO|UPDATE|DELETE FROM|WITH|CREATE|ALTER|DROP|TRUNCATE|PRAGMA|COPY|LOCK|NOTIFY"
    r"|SET (LOCAL )?\w+|BEGIN|ATTACH)\b"
)
MUTATORS = {
    *("append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "discard", "clear"),
    *("appendleft", "popleft", "sort", "reverse"),
}
CONTAINERS = {
    *("list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"),
    *("WeakKeyDictionary", "WeakValueDictionary", "WeakSet"),
}
# No name makes a constant of these.
STATEFUL = {"Lock", "RLock", "Event", "Queue", "Semaphore", "count", "local", "ContextVar"}
MOST_LINES = 600
# Longer than that, up to 800, for a reason.
LONG_FILES: dict[str, str] = {
    "core/ledger.py": "all rules of money, and the values that they are written in",
    "config/table.py": "the table of all settings, and nothing else",
    "store/tables.py": "the whole schema, and nothing else",
}


def runners(source: Source) -> Iterator[str]:
    allowed = MAY_RUN.get(str(source.path), set())
    for line, name in source.imports():
        if name.partition(".")[0] in RUNNERS - allowed:
            yield source.at(line, f"{name} runs other code")
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = last_name(node.func)
        called = ast.unparse(node.func)
        if called in RUNNER_CALLS or (RUNNER_METHODS.fullmatch(called) and name not in allowed):
            yield source.at(node.lineno, f"{called}() runs other code")
        if name in HIDDEN_STATE:
            yield source.at(node.lineno, f"{name}() is state that nobody sees")


def compared_secrets(source: Source) -> Iterator[str]:
    """`==` takes longer the more of a secret is right: compare by `hmac.compare_digest`, or look up by digest."""
    if str(source.path) in PUBLIC_DIGESTS:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant) for side in sides):
                continue  # empty or not, a kind of token: nothing to guess
            if any(map(is_secret, sides)):
                yield source.at(node.lineno, f"compares a secret with ==: {ast.unparse(node)}")


def is_secret(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return last_name(node.func) in {"digest", "hexdigest"}
    return last_name(node).lower().rsplit("_", 1)[-1] in SECRET_WORDS


def built_sql(source: Source) -> Iterator[str]:
    """SQL put together from anything but constants: names in capitals, and names that are only ever given constants."""
    fixed = fixed_names(source.tree)
    for node in ast.walk(source.tree):
        match node:
            case ast.JoinedStr(values=parts):
                first = parts[0].value if parts and isinstance(parts[0], ast.Constant) else None
                holes = [part.value for part in parts if isinstance(part, ast.FormattedValue)]
            case ast.BinOp(left=left, op=ast.Mod() | ast.Add(), right=right):
                first = left.value if isinstance(left, ast.Constant) else None
                holes = [right]
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=first), attr="format"), args=args):
                holes = [*args, *(keyword.value for keyword in node.keywords)]
            case _:
                continue
        if isinstance(first, str) and SQL_START.match(first) and not all(is_constant(hole, fixed) for hole in holes):
            yield source.at(node.lineno, f"SQL from variables: {ast.unparse(node)[:80]}")


def fixed_names(tree: ast.Module) -> set[str]:
    """Names that get constants, and nothing else, wherever in the file they get anything."""
    given: Counter[str] = Counter()
    constant: Counter[str] = Counter()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                given[name] += 1
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_constant(value, set()):
                constant[name] += 1
    return {name for name, times in constant.items() if given[name] == times}


def is_constant(node: ast.AST, fixed: set[str]) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.BinOp(left=left, right=right) | ast.IfExp(body=left, orelse=right):
            return is_constant(left, fixed) and is_constant(right, fixed)
        case ast.Call(func=ast.Attribute(value=ast.Constant()), args=args):
            return all(is_constant(arg, fixed) for arg in args)
        case ast.Name(id=name):
            return name.isupper() or name in fixed
        case ast.Attribute(attr=name):
            return name.isupper()
    return False


def module_state(source: Source) -> Iterator[str]:
    """Anything that outlives a call and is not made in `app.build()`."""
    constants = set()
    for statement in source.tree.body:
        match statement:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                targets = [target]
            case _:
                continue
        for name in map(last_name, targets):
            if name.isupper() and is_container(value):
                constants.add(name)
            elif not name.startswith("__") and (is_container(value) or last_name(value) in STATEFUL):
                yield source.at(statement.lineno, f"module-level state: {name}")
    for node in ast.walk(source.tree):
        match node:
            case ast.Global():
                yield source.at(node.lineno, f"global {', '.join(node.names)}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)):
                if name in constants and method in MUTATORS:
                    yield source.at(node.lineno, f"changes the constant {name}")
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                if name in constants:
                    yield source.at(node.lineno, f"changes the constant {name}")


def is_container(value: ast.expr) -> bool:
    displays = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    return isinstance(value, displays) or (isinstance(value, ast.Call) and last_name(value.func) in CONTAINERS)


def too_long(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > 800 or (lines > MOST_LINES and str(source.path) not in LONG_FILES):
        yield source.at(lines, f"{lines} lines: split it by direction, or give a reason in LONG_FILES")


def unfinished(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError", line):
            yield source.at(number, "finish it, or file an issue")


RULES = (runners, compared_secrets, built_sql, module_state, too_long, unfinished)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rule(rule: object) -> None:
    assert callable(rule)
    assert [complaint for source in product() for complaint in rule(source)] == []


def test_no_exception_outlives_its_file() -> None:
    paths = {str(source.path) for source in product()}
    assert set(LONG_FILES) <= paths
    assert set(MAY_RUN) | PUBLIC_DIGESTS <= paths


@pytest.mark.parametrize(
    "text",
    ["import subprocess", "from pickle import loads", "x = eval(y)", "os.system(y)", "import ctypes.util"],
)
def test_what_runs_other_code_is_found(text: str) -> None:
    assert list(runners(parse("services/keys.py", text)))
    assert not list(runners(parse("services/keys.py", "x = re.compile(y)")))


@pytest.mark.parametrize("text", ["ok = key.digest == digest", "ok = row.password != hash(x)", "a.secret == b"])
def test_a_compared_secret_is_found(text: str) -> None:
    assert list(compared_secrets(parse("services/keys.py", text)))
    assert not list(compared_secrets(parse("services/keys.py", "ok = max_tokens == n or digest == b''")))


@pytest.mark.parametrize(
    "text",
    [
        'f"SELECT * FROM hold WHERE id = {key}"',
        '"DELETE FROM hold WHERE id = %s" % key',
        '"UPDATE account SET name = \'" + name',
        '"SELECT {} FROM hold".format(column)',
        'f"SELECT * FROM hold{tail}"; tail = given',
    ],
)
def test_sql_from_variables_is_found(text: str) -> None:
    assert list(built_sql(parse("store/keys.py", f"sql = {text}")))


@pytest.mark.parametrize(
    "text",
    [
        'f"SELECT {COLUMNS} FROM hold"',
        """f"INSERT INTO hold VALUES ({', '.join('?' * 9)})\"""",
        'f"SELECT * FROM hold{lock}"; lock = " FOR UPDATE" if postgres else ""',
    ],
)
def test_sql_from_constants_is_not_mistaken(text: str) -> None:
    assert not list(built_sql(parse("store/keys.py", f"sql = {text}")))


@pytest.mark.parametrize(
    "text",
    [
        "cache = {}",
        "LOCK = threading.Lock()",
        "_seen: set[int] = set()",
        "CACHE = {}\ndef f(k, v):\n    CACHE[k] = v",
        "NAMES = []\ndef f(v):\n    NAMES.append(v)",
        "n = 0\ndef f():\n    global n\n    n += 1",
    ],
)
def test_module_state_is_found(text: str) -> None:
    assert list(module_state(parse("services/keys.py", text)))
    assert not list(module_state(parse("services/keys.py", "TABLE = {'a': 1}\nx = TABLE['a']")))


def test_a_long_file_is_found() -> None:
    assert list(too_long(parse("core/rules.py", "x = 1\n" * 601)))
