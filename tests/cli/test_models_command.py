"""``reslab models``: the table and its filters, the tree, the picture; and what each refuses."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from reslab.cli import models
from reslab.cli.models import (
    COLUMNS,
    DROPPED_FIRST,
    columns_that_fit,
    in_counting_order,
    parse_count,
    print_table,
    print_tree,
)
from reslab.errors import RequestError
from reslab.models.table import catalog_rows
from reslab.report.structure import MAX_WIDTH, draw_structure
from reslab.report.tree import format_tree

RESLAB = Path(sys.executable).with_name("reslab")

structure_of = functools.cache(models.structure_of)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([RESLAB, "models", *arguments], capture_output=True, text=True, check=False, env=env)


def names(answer) -> list[str]:
    return [row["name"] for row in json.loads(answer.out)["models"]]


# ---- the table


def test_the_table_needs_no_torch():
    script = (
        "import sys\nfrom reslab.cli.main import main\n"
        "main(['models', 'res*', '--max-params', '30M', '--block', 'basic', '--sort', 'macs'])\n"
        "print(*sorted({'torch', 'altair', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "\n"
    assert done.stdout.startswith("name")


def test_costs_are_short_and_absent_ones_a_dash(reslab):
    def line(name: str) -> str:
        return next(line for line in reslab("models", name).out.splitlines() if line.startswith(f"{name} "))

    assert re.match(r"resnet50 +25,557,032 +4\.09 G +11\.1 M +50 +Bottleneck 3-4-6-3 +projection ", line("resnet50"))
    assert re.match(r"mobilenet_v2 +3,504,872 +\S+ M +\S+ M +- +inverted residual +identity ", line("mobilenet_v2"))


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_the_table_never_wraps(width):
    screen = Console(width=width, record=True, file=io.StringIO())
    print_table(catalog_rows(), screen)
    lines = screen.export_text().splitlines()
    assert len(lines) == 1 + len(catalog_rows())
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width


def test_the_least_important_columns_go_first():
    everything = columns_that_fit(catalog_rows(), 1000)
    assert everything == list(COLUMNS)
    assert columns_that_fit(catalog_rows(), 1) == ["name", "parameters"]
    assert set(DROPPED_FIRST) == set(everything) - {"name", "parameters"}
    assert {"name", "parameters", "MACs", "activations", "blocks", "shortcut"} <= set(
        columns_that_fit(catalog_rows(), 100)
    )


def test_filters_and_order(reslab):
    rows = {row["name"]: row for row in catalog_rows()}
    small = names(reslab("models", "--max-params", "1M", "--max-macs", "100M", "--sort", "params", "--json"))
    assert "resnet20" in small
    sizes = [rows[name]["num_parameters"] for name in small]
    assert sizes == sorted(sizes)
    assert max(sizes) <= 1_000_000
    assert set(small) == {
        name for name, row in rows.items() if row["num_parameters"] <= 1_000_000 and row["macs"] <= 100_000_000
    }
    macs = [rows[name]["macs"] for name in names(reslab("models", "*50*", "--sort", "macs", "--json"))]
    assert macs == sorted(macs)
    plain = names(reslab("models", "--shortcut", "none", "--block", "bottleneck", "--json"))
    assert set(plain) >= {"plain50", "plain101"}
    assert not [name for name in plain if name.startswith("resnet")]
    assert plain == names(reslab("models", "--shortcut", "none", "--block", "Bottleneck", "--json"))
    assert names(reslab("models", "--block", "inverted_residual", "--json"))[0].startswith("mobilenet")
    by_name = names(reslab("models", "resnet[12]*", "--sort", "name", "--json"))
    assert by_name.index("resnet18") < by_name.index("resnet20") < by_name.index("resnet110")
    assert sorted(by_name, key=in_counting_order) == by_name


@pytest.mark.parametrize(
    ("text", "count"), [("5M", 5e6), ("1.5g", 1.5e9), ("800 k", 8e5), ("269_722", 269_722), ("1e6", 1e6), ("0", 0)]
)
def test_counts_as_people_write_them(text, count):
    assert parse_count(text, flag="--max-params") == count


@pytest.mark.parametrize("text", ["", "lots", "-5M", "5MB", "M", "nan", "inf", "1,5M"])
def test_other_counts_are_refused(text):
    with pytest.raises(RequestError, match=r"--max-params takes a count such as"):
        parse_count(text, flag="--max-params")


# ---- the tree


def test_a_tree_adds_up_and_folds(reslab):
    lines = reslab("models", "resnet56", "--tree").out.splitlines()
    assert lines[0] == "resnet56  853,018 parameters, 125 M MACs, 56 layers, input 3x32x32"
    assert any(
        re.match(r"├─ layer1 +BasicBlock x9 \[3x3 16, 3x3 16\] \+ identity +16x32x32 +42,048$", line) for line in lines
    )
    stages = [line for line in lines if re.match(r"[├└]", line)]
    assert sum(int(line.split()[-1].replace(",", "")) for line in stages) == 853_018
    runs = [line for line in lines if line.startswith("│")]
    assert [re.search(r"x\d+", line)[0] for line in runs] == ["x1", "x8", "x1", "x8"]
    assert "+ zero-pad /2" in runs[0]
    assert len({len(line) for line in lines[1:]}) == 1  # the last column is aligned


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize(
    "name", ["resnet20", "plain56", "preresnet110", "seresnext50_32x4d", "mobilenet_v2", "vgg11_bn"]
)
def test_a_tree_fits_the_terminal_and_loses_nothing(name, width):
    record = structure_of(name)
    lines = format_tree(record, width=width)
    assert max(map(len, lines)) <= width
    assert "\N{NO-BREAK SPACE}" not in "".join(lines)
    told = " ".join(re.sub("[│├└─]", "", line) for line in lines)
    for stage in record.stages:
        assert stage.name in told
        assert f"{stage.num_parameters:,}" in told


@pytest.mark.parametrize("name", ["resnet18", "resnet56"])
def test_a_run_of_basic_blocks_stands_on_one_line_of_80_letters(name):
    runs = [line for line in format_tree(structure_of(name), width=80) if "BasicBlock" in line]
    assert runs
    assert all("] + " in line for line in runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [row["name"] for row in catalog_rows()] + ["resnet38", "plain26"])
def test_every_network_has_a_tree_and_a_picture(name):
    record = structure_of(name)
    assert max(map(len, format_tree(record, width=80))) <= 80
    assert float(ElementTree.fromstring(draw_structure(record)).attrib["width"]) <= MAX_WIDTH


def test_a_plain_tree_says_that_nothing_goes_past(reslab):
    out = reslab("models", "plain20", "--tree").out
    assert out.count("no shortcut") == 5
    assert "identity" not in out


def test_a_terminal_without_lines_gets_letters():
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    print_tree(structure_of("resnet20"), Console(file=printed, width=80))
    printed.seek(0)
    text = printed.read()
    assert "\n|- layer1 " in text
    assert "\n|  `- x2 " in text
    assert "\n`- head " in text


def test_a_tree_as_json_is_the_record(reslab):
    found = json.loads(reslab("models", "resnet20", "--tree", "--json").out)
    assert (found["name"], found["depth"], found["num_parameters"]) == ("resnet20", 20, 269_722)
    assert [stage["name"] for stage in found["stages"]] == ["stem", "layer1", "layer2", "layer3", "head"]
    assert found["stages"][2]["blocks"][0]["shortcut"] == "zero_pad"


def test_networks_that_go_by_number_have_a_tree_too(reslab):
    assert reslab("models", "resnet38", "--tree").out.startswith("resnet38  561,370 parameters")


# ---- the picture


def test_a_picture_is_written_and_named(tmp_path):
    path = tmp_path / "net.svg"
    done = run("resnet20", "--graph", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: resnet20, 20 layers\n"
    root = ElementTree.parse(path).getroot()
    assert root.find("{http://www.w3.org/2000/svg}title").text == "resnet20"


def test_tree_and_picture_go_together(reslab, tmp_path):
    path = tmp_path / "net.png"
    answer = reslab("models", "plain20", "--tree", "--graph", path)
    assert answer.out.startswith("plain20  269,722 parameters")
    assert path.read_bytes().startswith(b"\x89PNG")
    found = json.loads(reslab("models", "plain20", "--graph", path, "--json").out)
    assert (found["graph"], found["name"]) == (str(path), "plain20")


# ---- bad input

CASES = {
    "several networks": (
        ["*t20", "--tree"],
        r"--tree shows one network, and '\*t20' matches \d+: resnet20.*Name one",
    ),
    "all networks": (["--graph", "all.svg"], r"--graph shows one network, and '\*' matches \d+"),
    "no such network": (["resnet57", "--tree"], r"Unknown model 'resnet57'"),
    "another suffix": (["resnet20", "--graph", "net.pdf"], r"Can't draw into 'net\.pdf'.*\.svg or \.png"),
    "absent folder": (["resnet20", "--graph", "no/such/net.svg"], r"There is no folder no/such to write net\.svg into"),
    "a folder": (["resnet20", "--graph", "folder.svg"], r"folder\.svg is a folder"),
    "a bad count": (["--max-params", "lots"], r"--max-params takes a count such as 800k, 5M or 1\.5G, got 'lots'"),
    "a bad count of MACs": (["--max-macs", "-1"], r"--max-macs takes a count|expected 1 argument|--max-macs"),
    "nothing so small": (
        ["resnet*", "--max-params", "5k"],
        r"None of the \d+ networks fits --max-params 5k\. The smallest has",
    ),
    "not so small": (["resnet20", "--max-params", "5k"], r"resnet20 doesn't fit --max-params 5k\. It has 270 k"),
    "no such block": (["--block", "bottlneck"], r"Unknown block 'bottlneck'. Did you mean 'bottleneck'"),
    "no such shortcut": (["--shortcut", "zeropad"], r"Unknown shortcut 'zeropad'. Did you mean 'zero_pad'"),
    "filters that exclude each other": (["plain*", "--shortcut", "projection"], r"fits --shortcut projection"),
    "no such order": (["--sort", "size"], r"invalid choice 'size'"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, reslab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    arguments, message = CASES[case]
    answer = reslab("models", *arguments)
    assert answer.code == 2
    assert re.search(message, answer.err, re.DOTALL)
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_bad_input_under_json_is_an_object(reslab):
    answer = reslab("models", "resnet*", "--tree", "--json")
    assert json.loads(answer.out)["exit_code"] == answer.code == 2
