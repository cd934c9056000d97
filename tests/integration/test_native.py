"""Builds the native tests (plain with warnings as errors, ASan+UBSan, TSan) and runs them through ctest.

The build folders, ``build/native-<kind>``, and the downloaded headers are kept, so that a second run builds only
what changed.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hobbit_py.cores import n_usable_cores

pytestmark = pytest.mark.alone

PROJECT_DIR = Path(__file__).resolve().parents[2]
BUILD_DIR = PROJECT_DIR / "build"

# Sanitized code compiled at -O2 takes three times as long to build and finds nothing more.
LIGHT = ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -g1"]
KINDS = {
    "plain": ["-DHOBBIT_WERROR=ON", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1"],
    "address": ["-DHOBBIT_SANITIZE=address", *LIGHT],
    "thread": ["-DHOBBIT_SANITIZE=thread", *LIGHT],
}
# All threads of ours are below ggml, which is not built for TSan: it would see nothing in the tests that need it.
WITHOUT_GGML = {"thread": "hobbit_tests_core"}


# cmake and ninja may come from this environment's own packages, activated or not.
SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def run(command: list[str], cwd: Path) -> None:
    program = shutil.which(command[0], path=SEARCH_PATH)
    assert program is not None, f"{command[0]} is not installed"
    result = subprocess.run(
        [program, *command[1:]], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        pytest.fail(f"{' '.join(command)} exited with {result.returncode}:\n{result.stdout}", pytrace=False)


def ggml_lib_dir() -> Path:
    """Folder of the ggml libraries that llama-cpp-python installed; the package itself is not imported."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None, "llama-cpp-python is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "lib"


@pytest.mark.parametrize("kind", KINDS)
def test_native(kind: str) -> None:
    build_dir = BUILD_DIR / f"native-{kind}"
    build_dir.mkdir(parents=True, exist_ok=True)
    ninja = shutil.which("ninja", path=SEARCH_PATH)
    # A kept build folder remembers the ninja of an environment that may be gone, so name this one's.
    generator = ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    run(
        [
            "cmake",
            f"-S{PROJECT_DIR}",
            f"-B{build_dir}",
            *generator,
            "-DHOBBIT_BUILD_TESTS=ON",
            "-DHOBBIT_BUILD_PYTHON=OFF",
            f"-DHOBBIT_DOWNLOAD_DIR={BUILD_DIR}",
            f"-DHOBBIT_GGML_LIB_DIR={'' if kind in WITHOUT_GGML else ggml_lib_dir()}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            *KINDS[kind],
        ],
        cwd=PROJECT_DIR,
    )
    run(["cmake", "--build", str(build_dir), "--target", WITHOUT_GGML.get(kind, "all")], cwd=PROJECT_DIR)
    run(["ctest", "--output-on-failure", "--no-tests=error", f"-j{n_usable_cores()}"], cwd=build_dir)
