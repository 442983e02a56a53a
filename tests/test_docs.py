"""What the documents show is run: docstring examples, README blocks, example files."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reslab

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(reslab.__path__, "reslab.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_give_what_they_show(name):
    module = importlib.import_module(name)
    result = doctest.testmod(
        module, extraglobs=vars(importlib.import_module("torch")) and {"torch": __import__("torch")}
    )
    assert result.failed == 0


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```(?:\n+```(?:text)?\n(.*?)```)?", path.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readme_snippets_print_what_they_show(name, tmp_path):
    blocks = python_blocks(ROOT / name)
    assert blocks
    for code, shown in blocks:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == shown.strip()


def outline(name):
    """Levels of a README's headings and rows of its tables, and its code without comments."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.S)
    plain = re.sub(r"```.*?```", "", text, flags=re.S)
    code = [
        [re.sub(r"\s+#.*", "", line) for line in block.splitlines()] for kind, block in blocks if "src/" not in block
    ]
    tables = [re.findall(r"[\d,.]+(?: %)?", line) for line in plain.splitlines() if line.startswith("|")]
    return re.findall(r"^#+(?= )", plain, re.M), code, tables, sorted(re.findall(r"\]\((?!README)(.*?)\)", plain))


def test_chinese_readme_is_in_step_with_the_english_one():
    assert outline("README.zh-CN.md") == outline("README.md")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(path, tmp_path):
    result = subprocess.run(
        [sys.executable, path, "--quick"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert len(path.read_text().splitlines()) < 100


def test_generated_pages_are_up_to_date():
    result = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
