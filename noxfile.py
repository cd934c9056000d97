"""The checks one by one, each in an environment of its own: `nox -l` lists them, `nox -s lint` runs one.

`scripts/test` runs all of lint, types and tests in one environment, which is what a change needs.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def lint(session: nox.Session) -> None:
    """Style and imports of Python, formatting of C++."""
    session.install("ruff>=0.15", "import-linter>=2.1", "clang-format")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "src"})
    command = "find csrc tests/native -name '*.h' -o -name '*.cpp' | xargs clang-format --dry-run --Werror"
    session.run("sh", "-c", command, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    session.install("mypy>=1.13", "numpy", "click", "rich", "prompt-toolkit")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; arguments after -- go to pytest. Compiles llama-cpp-python once, for about ten minutes."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The command blocks of the documentation and the examples."""
    session.install(".[test]")
    session.run("pytest", "tests/unit/test_docs_agree.py", "tests/e2e/test_docs.py", "tests/e2e/test_examples.py")


@nox.session(venv_backend="none")
def aarch64(session: nox.Session) -> None:
    """The C++ core compiled for aarch64, its tests under qemu."""
    session.run("scripts/test_aarch64", *session.posargs, external=True)


@nox.session
def build(session: nox.Session) -> None:
    """The sdist, and a wheel made from it."""
    session.install("build")
    session.run("python", "-m", "build")
