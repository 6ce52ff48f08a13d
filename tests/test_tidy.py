"""Style is a test: the import arrows of docs/ARCHITECTURE.md, and the shape of files and functions."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("keelfs", "metaserver", "raft", "protos", "fuseclient")
MODULES = sorted(
    path
    for package in (*PACKAGES, "bench")
    for path in (ROOT / package).rglob("*.py")
    if "_pb2" not in path.name and "__pycache__" not in path.parts
)

#: A package (or folder) may import these of our own packages, besides itself.
MAY_IMPORT = {
    "protos": set(),
    "raft": {"protos"},
    "metaserver/core": set(),
    "metaserver/store": {"metaserver.core"},
    "metaserver": {"raft", "protos"},
    "fuseclient": {"protos"},
    "keelfs": {"metaserver", "fuseclient", "protos", "raft"},
    "bench": {"fuseclient", "protos", "metaserver", "raft", "keelfs"},
}

#: A foreign package that only one place may import: there its exceptions and types are translated.
ONLY_IN = {
    "pysyncobj": ("raft/",),
    "lmdb": ("metaserver/store/lmdb_store.py", "metaserver/store/"),
    "boto3": ("fuseclient/data/",),
    "botocore": ("fuseclient/data/",),
    "pyfuse3": ("fuseclient/pyfuse3_driver.py",),
    "typer": ("keelfs/",),
    "rich": ("keelfs/", "bench/"),
}

#: The state machine reads no clock, randomness, environment or I/O.
IMPURE = {
    "time",
    "random",
    "os",
    "secrets",
    "datetime",
    "socket",
    "io",
    "pathlib",
    "threading",
    "asyncio",
    "uuid",
    "subprocess",
}

VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 800


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.Module) -> set[str]:
    """Every absolute module name that the file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows"
            module = node.module or ""
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def place_of(name: str) -> str:
    """The most specific row of MAY_IMPORT that the file belongs to."""
    return max((place for place in MAY_IMPORT if name.startswith(f"{place}/")), key=len)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_follow_the_arrows(path: Path) -> None:
    name = relative(path)
    place = place_of(name)
    allowed = MAY_IMPORT[place] | {place.replace("/", ".")}
    for module in imports(ast.parse(path.read_text())):
        top = module.split(".")[0]
        if top in (*PACKAGES, "bench"):
            assert any(module == a or module.startswith(f"{a}.") for a in allowed), f"{name} may not import {module}"
        if top in ONLY_IN:
            assert name.startswith(ONLY_IN[top]), f"{name} may not import {module}"
        assert top != "pickle", f"{name}: no pickle"


@pytest.mark.parametrize("path", [p for p in MODULES if relative(p).startswith("metaserver/core/")], ids=relative)
def test_the_state_machine_is_pure(path: Path) -> None:
    for module in imports(ast.parse(path.read_text())):
        top = module.split(".")[0]
        assert top in sys.stdlib_module_names or module.startswith("metaserver.core") or module == "metaserver", module
        assert top not in IMPURE, f"the state machine may not import {top}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_files_and_functions_keep_their_shape(path: Path) -> None:
    name = relative(path)
    text = path.read_text()
    tree = ast.parse(text)
    assert path.stem not in VAGUE, f"{name}: name the noun it owns"
    assert ast.get_docstring(tree), f"{name} does not say what it owns"
    assert len(text.splitlines()) <= MODULE_LINES_MAX, f"{name} holds more than one noun"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{name}:{node.lineno} {node.name} is {lines} lines long"


def test_nothing_names_a_private_machine() -> None:
    """Files that are committed speak of the project alone."""
    forbidden = ("/work/" + "main", "/work/" + "shared", "pythonhosted" + ".org", "pypi" + ".org/simple")
    for path in ROOT.rglob("*"):
        if not path.is_file() or {".git", ".venv", "__pycache__"} & set(path.parts) or path.stat().st_size > 1 << 20:
            continue
        if path.suffix in {".py", ".md", ".toml", ".lock", ".sh", ".proto", ".txt", ".c"} or path.name == "Makefile":
            text = path.read_text(errors="replace")
            for word in forbidden:
                assert word not in text, f"{path.relative_to(ROOT)} names {word}"
