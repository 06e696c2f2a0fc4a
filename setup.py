"""The build of a wheel compiles the TC programs into it; all else is in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import ExecError


class BuildPy(build_py):
    """Python files as ever, and agent/datapath/zt_wg.o with the hash of its sources beside it.

    An editable install takes both from the tree, where `make setup` puts them.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self._compile_programs()

    def _compile_programs(self) -> None:
        built = Path(self.build_lib, "agent", "datapath", "zt_wg.o").absolute()
        # By force: build/lib may hold an object of another compiler.
        command = [sys.executable, "-m", "agent.datapath.build", "--force", "--output", str(built)]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        if done.returncode != 0:
            raise ExecError(f"the wheel needs the compiled TC programs\n{done.stderr.rstrip()}")


setup(cmdclass={"build_py": BuildPy})
