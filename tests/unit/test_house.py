"""The house rules that no linter knows."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cluster", "manager", "scheduler", "gateway", "worker", "clusterctl")
RARELY = 0.05


def _sources() -> list[Path]:
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [path for path in found if not path.is_relative_to(ROOT / "cluster" / "v1")]


def _test_files() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_generated_code_matches_the_protos() -> None:
    """Generating cluster/v1 again changes nothing."""
    command = [sys.executable, str(ROOT / "scripts" / "generate_protos.py"), "--check"]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


def test_generator_runs_with_the_grpc_that_is_installed() -> None:
    """The lock pins grpcio-tools to the version of grpcio."""
    lock = (ROOT / "requirements.lock").read_text()
    grpcio, tools = (re.findall(rf"^{name}==(\S+)", lock, re.MULTILINE) for name in ("grpcio", "grpcio-tools"))
    assert grpcio == tools != []


def test_no_init_module_shadows_a_process() -> None:
    """Folders of tests are no packages, so that `import manager` finds the real one."""
    allowed = {ROOT / "tests" / "testbed", ROOT / "tests" / "bench"}
    inits = [path for path in (ROOT / "tests").rglob("__init__.py") if not allowed & set(path.parents)]
    assert inits == []


def test_every_test_states_its_behaviour() -> None:
    """Each test function has a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in _test_files()
        for function in _functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []


def test_only_the_testbed_skips_a_test() -> None:
    """Whatever a test needs is a real part, so that CI knows of each that is missing."""
    ways = {"skip", "skipif", "importorskip", "SkipTest", "skipTest"}
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert [str(path.relative_to(ROOT)) for path in files if ways & _words(path)] == ["tests/testbed/requirement.py"]


def test_what_the_testbed_looks_for_can_be_installed() -> None:
    """Every program that the tests find on the host is one that `make setup-real` brings."""
    offered = (ROOT / "scripts" / "install_real_parts.sh").read_text()
    sought = {name for path in (ROOT / "tests").rglob("*.py") for name in _programs_sought(path)}
    assert {"as", "ld", "qemu-system-x86_64", "mkfs.ext4"} <= sought
    assert sorted(name for name in sought if f"[{name}]=" not in offered) == []


def _words(path: Path) -> set[str]:
    """Every name and attribute that a file speaks of."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def _programs_sought(path: Path) -> Iterator[str]:
    """The words that a file gives to `find` and `lacking` of `testbed.commands`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("find", "lacking"):
            words = [word for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            yield from (str(word.value) for word in words)


def test_files_are_rarely_long() -> None:
    """At most one file in twenty has more than 400 lines."""
    files = _sources()
    long = [f"{path.relative_to(ROOT)}" for path in files if len(path.read_text().splitlines()) > 400]
    assert len(long) <= RARELY * len(files), long


def test_functions_are_rarely_long() -> None:
    """At most one function in twenty has more than 50 lines."""
    functions = [(path, function) for path in _sources() for function in _functions(path)]
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path, function in functions
        if (function.end_lineno or 0) - function.lineno >= 50
    ]
    assert len(long) <= RARELY * len(functions), long


def test_modules_are_named_after_what_they_hold() -> None:
    """No module is called utils, helpers, common or misc."""
    vague = {"utils", "util", "helpers", "common", "misc"}
    assert [str(path.relative_to(ROOT)) for path in _sources() if path.stem in vague] == []


def test_nothing_is_left_to_do() -> None:
    """No source carries a mark for unfinished work."""
    mark = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
    files = [*_sources(), *_test_files(), *(ROOT / "protos").rglob("*.proto"), *(ROOT / "scripts").iterdir()]
    assert [str(path.relative_to(ROOT)) for path in files if path.is_file() and mark.search(path.read_text())] == []


def test_no_registry_is_named_in_what_is_committed() -> None:
    """Locks and settings name packages and hashes, and leave the registry to the machine."""
    hosts = re.compile(r"--(extra-)?index-url|registry\.npmjs|pypi\.org/simple|files\.pythonhosted|\"resolved\":")
    files = [ROOT / name for name in ("requirements.lock", "pyproject.toml", "package.json", "Makefile")]
    files += [*(ROOT / "tests").rglob("pom.xml"), *(path for path in (ROOT / "scripts").rglob("*") if path.is_file())]
    assert [str(path.relative_to(ROOT)) for path in files if hosts.search(path.read_text())] == []


def test_every_package_is_shipped_with_its_types() -> None:
    """The wheel lists every package that exists, and each carries py.typed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    existing = [package for package in PACKAGES if (ROOT / package / "__init__.py").exists()]
    assert set(existing) <= set(shipped)
    assert [package for package in existing if not (ROOT / package / "py.typed").exists()] == []


def test_the_tests_that_the_readme_names_are_there() -> None:
    """A promise that names its test names one that exists."""
    promises = (ROOT / "README.md").read_text().split("## What it promises")[1].split("\n## ")[0]
    files = {path.name for path in _test_files()}
    functions = {node.name for path in _test_files() for node in _functions(path)}
    named = set(re.findall(r"`(?:tests/\S+/)?(test_\w+\.py)`", promises)), set(re.findall(r"`(test_\w+)`", promises))
    assert named[0]
    assert named[1]
    assert (named[0] - files, named[1] - functions) == (set(), set())
