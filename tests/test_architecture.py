"""Which package may import which, and what it costs to ask for help."""

import subprocess
import sys
from pathlib import Path

import pytest

from reslab.run.config import FLAGS, option_paths

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "reslab"


def test_no_arrow_goes_upward():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    if not lint_imports.exists():
        pytest.skip("import-linter is not installed: pip install -e '.[dev]'")
    result = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_there_is_no_utils():
    assert not [path for path in SOURCE.rglob("*.py") if "util" in path.stem or "helper" in path.stem]


def test_every_flag_has_its_place_in_the_config():
    assert set(FLAGS.values()) <= set(option_paths())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["nonsense"]])
def test_asking_for_help_does_not_import_torch(arguments):
    code = f"import sys; from reslab.cli.main import main\ntry: main({arguments})\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'altair' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
