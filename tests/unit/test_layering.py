"""Which stage of the C++ core may know which: the table of docs/design.md."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

PROJECT_DIR = Path(__file__).resolve().parents[2]
CSRC_DIR = PROJECT_DIR / "csrc"

# A stage may also include itself and base.
MAY_INCLUDE = {
    "base": set(),
    "io": set(),
    "cache": set(),
    "policy": set(),
    "store": set(),
    "loader": {"io", "cache", "policy"},
    "predict": {"loader", "cache", "policy"},
    "tier": {"cache", "policy"},
    "feedback": set(),
    "kernels": set(),
    "moe": {"predict", "loader", "tier", "cache", "policy", "kernels"},
    "device": {"moe"},
    "engine": {"io", "cache", "policy", "store", "loader", "predict", "tier", "moe", "device"},
    "bindings": {"io", "cache", "policy", "store", "loader", "predict", "tier", "moe", "device", "engine", "feedback"},
}
# ggml's types stop below these: what they hold can be tested without it.
WITHOUT_GGML = {"base", "io", "cache", "policy", "loader", "predict", "tier", "feedback", "kernels"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)


def included(path: Path) -> list[str]:
    return [quoted or angled for quoted, angled in INCLUDE.findall(path.read_text(encoding="utf-8"))]


def sources_of(stage: str) -> list[Path]:
    return sorted(path for path in (CSRC_DIR / stage).rglob("*") if path.suffix in (".h", ".cpp"))


def test_every_folder_is_a_stage() -> None:
    assert {path.name for path in CSRC_DIR.iterdir() if path.is_dir()} == set(MAY_INCLUDE)


@pytest.mark.parametrize("stage", MAY_INCLUDE)
def test_includes(stage: str) -> None:
    sources = sources_of(stage)
    assert sources
    allowed = MAY_INCLUDE[stage] | {stage, "base"}
    for path in sources:
        for header in included(path):
            other = header.partition("/")[0]
            where = f"{path.relative_to(PROJECT_DIR)} includes {header}"
            assert other not in MAY_INCLUDE or other in allowed, where
            assert stage == "bindings" or not header.startswith("pybind11/"), where
            assert stage not in WITHOUT_GGML or not header.startswith(("ggml", "gguf", "llama")), where


def test_the_table_has_no_cycle() -> None:
    remaining = dict(MAY_INCLUDE)
    while remaining:
        bottom = {stage for stage, lower in remaining.items() if not lower & set(remaining)}
        assert bottom, f"a cycle among {sorted(remaining)}"
        remaining = {stage: lower for stage, lower in remaining.items() if stage not in bottom}


# import-linter cannot see a compiled module, so who may use it is said here.
MAY_IMPORT_CORE = {
    "_expert_setup.py",
    "_host.py",
    "_memory_plan.py",
    "_native_policies.py",
    "_native_prefetch.py",
    "_native_stats.py",
    "_open_engine.py",
    "llama.py",
    "pack/feedback.py",
    "pack/source.py",
    "planning/needs.py",
    "simulate/record.py",
    "simulate/replay.py",
    "train_predictor.py",
    "trained.py",
}


def imports_core(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        name.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [*node.names, ast.alias(getattr(node, "module", None) or "")]
    ]
    return any(name.rpartition(".")[2] == "_core" for name in names)


def test_who_imports_the_native_core() -> None:
    package = PROJECT_DIR / "src" / "hobbit_py"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if imports_core(path)}
    assert {"_host.py", "llama.py"} <= found
    assert found <= MAY_IMPORT_CORE


def test_the_repository_stands_alone() -> None:
    """No tracked file points beside the repository."""
    if not (PROJECT_DIR / ".git").exists():
        pytest.skip("not a clone: there is no list of tracked files")
    needle = "../" + "shared"
    found = subprocess.run(
        ["git", "grep", "--fixed-strings", "--files-with-matches", needle],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1, found.stdout + found.stderr
