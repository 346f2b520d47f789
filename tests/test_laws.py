"""Laws that the source itself must keep: rooms, devices, pickles, missing weights."""

import ast
from pathlib import Path

import pytest

import hjepa

ROOT = Path(hjepa.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ROOMS = [
    "errors", "clock", "config", "device", "nn", "objective", "latent", "level", "hierarchy", "data", "train", "envs",
    "evaluate", "pictures", "query", "report", "cli",
]  # fmt: skip


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path):
    """Rooms that a file imports when it is loaded or run, except for type checking alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hjepa"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_above_it(path):
    if path == ROOT / "__init__.py" or path.name == "__main__.py":
        return
    here = ROOMS.index(room(path))
    for other in imported_rooms(path):
        assert ROOMS.index(other) <= here, f"{room(path)} imports {other}"


def literals(path):
    return [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_devices_are_found_never_named(path):
    if room(path) != "device":
        assert not {"cuda", "cuda:0", "mps", "xpu"} & {x for x in literals(path) if isinstance(x, str)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_loads_pickles_or_half_a_model(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("torch.load", "pickle.load", "pickle.loads", "torch.save"), name
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                assert not (keyword.arg == "strict" and value is False and "load" in name)
                assert not (keyword.arg == "allow_pickle" and value is True)


def test_functions_and_files_stay_small():
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 90, f"{path}: {node.name}"
