"""The public face: which names each package exports, and that documents and packages use no others."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reslab

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "reslab"
PUBLIC = {
    "reslab": """
        RequestError WorkFailed __version__ create_model diagnose
        list_models load load_weights train watch
    """,
    "reslab.records": "EpochRecord Evaluation ReadingRecord RunFolder RunRecord Score StepRecord StudyRecord",
    "reslab.layers": "CONNECTIONS Connection GatedAdd SHORTCUT_KINDS make_shortcut",
    "reslab.models": "Architecture ResNet inflate read_structure",
    "reslab.weights": "BundleCard open_weights read_bundle write_bundle",
    "reslab.data": "Data DataOptions Loader Preprocess Source find_source prepare",
    "reslab.tasks": "Classification Classify Metrics Step Task",
    "reslab.training": """
        Recorder TrainOptions adamw constant cosine evaluate fit
        lamb lr_range_test multistep muon one_cycle sgd warm_up
    """,
    "reslab.report": """
        Figure gradient_flow learning_curves result_rows step_curves
        structure_figure study_means write_diagnosis_page write_run_page write_study_page
    """,
    "reslab.probe": "Diagnosis StepReadings diagnose_step step_readings",
    "reslab.run": "Answer Bundle Run RunConfig run_training",
    "reslab.studies": "STUDIES StudySpec create_study run_locally",
}


def imports_of(code):
    """Every ``from reslab.x import name`` of a program, as (module, name)."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "reslab":
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("reslab."))


def programs():
    """What users read: the Python blocks of README and docs, and the examples."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
        yield pytest.param("".join(blocks), id=page.name)
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield pytest.param(path.read_text(encoding="utf-8"), id=path.name)


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_exports_these_names_and_no_others(package):
    module = importlib.import_module(package)
    assert module.__all__ == PUBLIC[package].split()
    assert dir(module) == module.__all__
    for name in module.__all__:
        exported = getattr(module, name)
        assert not (callable(exported) and not exported.__doc__), f"{package}.{name} has no docstring"
    with pytest.raises(AttributeError, match="it has"):
        _ = module.no_such_name


def test_every_package_is_in_the_list():
    packages = {f"reslab.{path.parent.name}" for path in SOURCE.glob("*/__init__.py")}
    assert packages - {"reslab.cli", "reslab.recipes"} == PUBLIC.keys() - {"reslab"}


@pytest.mark.parametrize("program", list(programs()))
def test_documents_use_public_names_only(program):
    for module, name in imports_of(program):
        assert name in PUBLIC.get(module, "").split(), f"from {module} import {name}"


@pytest.mark.parametrize("package", sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")))
def test_a_private_file_is_imported_in_its_own_package_only(package):
    for path in (SOURCE / package).rglob("*.py"):
        for module, name in imports_of(path.read_text(encoding="utf-8")):
            owner, *rest = module.split(".")[1:] or [name]
            private = any(part.startswith("_") for part in [*rest, name] if not part.startswith("__"))
            assert owner == package or not private, f"{path.name} imports {module}.{name}"


def test_importing_the_packages_does_not_import_torch():
    code = "import sys\n" + "".join(f"import {package}\n" for package in PUBLIC) + "assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_help_of_reslab_is_a_table_of_contents():
    described = set(re.findall(r"^(\w+) {2,}", reslab.__doc__, re.M))
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"recipes"} <= described
    assert all(name in reslab.__doc__ for name in reslab.__all__ if name.islower() and "_" not in name[:1])
