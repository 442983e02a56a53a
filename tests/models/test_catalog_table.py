"""catalog.json, which `reslab models` prints, is what counting the networks gives."""

import json
import subprocess
import sys

from reslab.cli.main import main
from reslab.models.catalog import MODELS, list_models
from reslab.models.table import catalog_rows, describe_model


def test_the_table_is_what_counting_gives():
    assert catalog_rows() == [describe_model(name) for name in MODELS]


def test_patterns_are_those_of_list_models():
    assert [row["name"] for row in catalog_rows("*50*")] == list_models("*50*")


def test_a_network_by_number_is_counted_too(capsys):
    assert main(["models", "plain26", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["models"][0]
    assert (row["depth"], row["num_parameters"], row["shortcut"]) == (26, 366_938, "none")


def test_an_unknown_name_gets_its_closest_match(capsys):
    assert main(["models", "resnt50"]) == 2
    assert "resnet50" in capsys.readouterr().err


def test_listing_does_not_import_torch():
    code = "import sys; from reslab.cli.main import main; main(['models', '*']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
