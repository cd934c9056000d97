"""src/hobbit_py/_core.pyi lists what the compiled module has, no more and no less."""

import ast
from pathlib import Path

import llama_cpp  # noqa: F401  (maps the ggml that _core needs)
import pytest

import hobbit_py
from hobbit_py import _core

STUB = ast.parse((Path(hobbit_py.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))


def declared(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for statement in body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            names[statement.name] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names[statement.target.id] = statement
    return names


def compiled(namespace: object) -> set[str]:
    return {name for name in vars(namespace) if not name.startswith("_")}


def test_module() -> None:
    assert set(declared(STUB.body)) == compiled(_core)


@pytest.mark.parametrize("name", [name for name, node in declared(STUB.body).items() if isinstance(node, ast.ClassDef)])
def test_class(name: str) -> None:
    node = declared(STUB.body)[name]
    assert isinstance(node, ast.ClassDef)
    members = declared(node.body)
    cls = getattr(_core, name)
    assert {member for member in members if not member.startswith("_")} == compiled(cls)
    for member, statement in members.items():
        if isinstance(statement, ast.FunctionDef) and not member.startswith("_"):
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in statement.decorator_list)
            assert isinstance(vars(cls)[member], property) == is_property, member
