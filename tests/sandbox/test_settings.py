from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from visual_arft.config import RECIPES, load_recipe
from visual_arft.errors import UserError
from visual_arft.sandbox import Limits
from visual_arft.sandbox.settings import SandboxConfig, UnsafeWarning, open_sandbox

READ = f"print(open({__file__!r}).readline())"


def test_a_recipe_sets_the_limits():
    recipe = load_recipe(RECIPES / "demo-coding.toml", ["sandbox.cpu_s=2", "sandbox.memory_mb=99"])
    with open_sandbox(recipe.sandbox, workers=1) as sandbox:
        assert sandbox.limits == Limits(cpu_s=2, wall_s=15, memory_mb=99)
        assert sandbox.run(READ).status == "error"


def test_without_a_word_code_is_confined():
    with warnings.catch_warnings(action="error"):
        open_sandbox(SandboxConfig(), workers=1).close()


def test_the_unsafe_executor_confines_nothing_and_warns():
    with pytest.warns(UnsafeWarning, match="runs without confinement"):
        sandbox = open_sandbox(SandboxConfig(executor="unsafe"), workers=1)
    with sandbox:
        assert sandbox.run(READ).stdout.startswith("from __future__")
        assert sandbox.run("import os; print(os.getcwd())").status == "ok"


def test_another_executor_is_refused():
    with pytest.raises(UserError, match=r"sandbox\.executor = 'none'; it should be 'sandbox' or"):
        load_recipe(Path(RECIPES / "demo-coding.toml"), ["sandbox.executor=none"])
