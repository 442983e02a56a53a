"""The ledger: words follow from the numbers, and change with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reslab.cli.main import main
from reslab.errors import RequestError
from reslab.records import StudyRecord
from reslab.records.study import MeasureRecord, StudyRow, read_study
from reslab.studies import STUDIES
from reslab.studies import _claim_tests as claim_tests
from reslab.studies._claim_tests import growth_in_words, macs_per_position
from reslab.studies.claims import (
    Finding,
    claims_markdown,
    count_words,
    find_studies,
    judge,
    judge_claims,
    load_claims,
    read_studies,
    shipped_studies,
)

CLAIMS = {claim.key: claim for claim in load_claims()}
Studies = dict[str, StudyRecord]


def find(key: str, studies: Studies) -> Finding:
    return judge(CLAIMS[key], studies)


def study(name: str, rows: dict[str, tuple[dict, dict]]) -> Studies:
    """One study by its name; rows as factors and values."""
    made = tuple(StudyRow(key, factors, values, {}, 0) for key, (factors, values) in rows.items())
    measures = (MeasureRecord("train_error", "clean training error", "percent"),)
    record = StudyRecord(name, "T", "Q?", ("P.",), "reslab study x", (0, 1), measures, made, "", {"processor": "p"}, {})
    return {name: record}


def depths(plain: tuple[float, float], residual: tuple[float, float], **values: dict[str, float]) -> Studies:
    """Two seeds a network, close together; ``values`` by measure and family."""
    rows = {}
    for family, kind, errors in (("plain", "plain", plain), ("resnet", "residual", residual)):
        for depth, error in zip((20, 56), errors, strict=True):
            found = {"train_error": (error, error + 0.001), "test_error": (error, error + 0.001)}
            found |= {key: (by_family[family],) * 2 for key, by_family in values.items()}
            rows[f"{family}{depth}"] = ({"depth": depth, "kind": kind}, found)
    return study("degradation-digits", rows)


@pytest.mark.parametrize(
    ("plain", "residual", "word"),
    [
        ((0.0, 0.5), (0.0, 0.0), "holds"),
        ((0.0, 0.5), (0.0, 0.3), "holds in part"),
        ((0.1, 0.1), (0.0, 0.0), "does not hold"),
        ((0.3, 0.1), (0.0, 0.0), "does not hold"),
    ],
)
def test_degradation_follows_the_training_errors(plain, residual, word):
    assert find("degradation", depths(plain, residual)).word == word


@pytest.mark.parametrize(
    ("plain", "residual", "vanishing", "the_one"),
    [
        (1e-6, 0.5, "holds", "holds"),
        (1e6, 0.5, "holds in part", "holds in part"),
        (1e6, 1e4, "does not hold", "holds in part"),
        (0.5, 1e-4, "does not hold", "does not hold"),
        (1e-6, 1e-5, "holds in part", "does not hold"),
    ],
)
def test_vanishing_follows_the_gradients(plain, residual, vanishing, the_one):
    studies = depths((0, 0.5), (0, 0), start_growth={"plain": plain, "resnet": residual})
    assert find("vanishing", studies).word == vanishing
    assert find("the-one", studies).word == the_one


def test_a_ratio_of_gradients_and_the_ledger_in_words():
    words = ["grows towards the input", "is even", "vanishes", "shrinks"]
    assert [growth_in_words(growth) for growth in (1e6, 3.0, 1e-5, 5e-3)] == words
    found = [Finding(CLAIMS["identity"], word, "") for word in ("holds", "does not hold", "does not hold")]
    assert count_words(found) == "3 claims: 1 holds, 2 do not hold"


@pytest.mark.parametrize(
    ("shallow", "deep", "word"), [(0.01, 0.01, "holds"), (0.01, 0.5, "holds in part"), (0.5, 0.5, "does not hold")]
)
def test_the_identity_is_easier_only_where_shortcuts_win(shallow, deep, word):
    rows = {
        f"{kind}{blocks}": ({"target": "x", "blocks": blocks, "kind": kind}, {"test_error": (error, error)})
        for blocks, residual in ((1, shallow), (4, deep))
        for kind, error in (("plain", 0.1), ("residual", residual), ("residual, zero init", 0.0))
    }
    assert find("identity", study("identity", rows)).word == word


@pytest.mark.parametrize(
    ("plain", "residual", "word"),
    [
        ((0.978, 0.979), (0.985, 0.986), "holds"),
        ((0.990, 0.991), (0.995, 0.996), "holds in part"),
        ((0.977, 0.979), (0.983, 0.987), "holds in part"),  # the numbers, but too few seeds for the difference
        ((0.993, 0.995), (0.992, 0.996), "does not hold"),  # neither
        ((0.993,), (0.995,), "not tested here"),  # one seed
        ((0.995, 0.996), (0.990, 0.991), "does not hold"),
    ],
)
def test_mnist_follows_accuracies_and_their_spread(plain, residual, word):
    rows = {
        kind: (
            {"depth": 8, "kind": kind},
            {"test_accuracy": values, "test_error": tuple(1 - value for value in values)},
        )
        for kind, values in (("plain", plain), ("residual", residual))
    }
    assert find("mnist", study("mnist-quick", rows)).word == word


@pytest.mark.parametrize(
    ("halved", "gated", "word"),
    [(0.5, 0.3, "holds"), (0.5, 0.02, "holds in part"), (0.03, 0.02, "does not hold")],
)
def test_clean_shortcuts_are_judged_at_the_greatest_depth(halved, gated, word):
    kinds = {"shortcut zero_pad": 0.0, "connection constant_half": halved, "connection shortcut_gate": gated}
    rows = {
        f"resnet{depth}-{kind}": ({"variant": kind, "depth": depth}, {"train_error": (error if depth == 110 else 0.9,)})
        for kind, error in kinds.items()
        for depth in (20, 110)
    }
    found = find("clean-shortcuts", study("variants-digits", rows))
    assert found.word == word
    assert f"of 110 layers: identity 0.00 %, both halved {100 * halved:.2f} %" in found.measured


@pytest.mark.parametrize(
    ("time", "memory", "word"), [(0.5, 0.5, "holds"), (1.2, 0.5, "holds in part"), (1.2, 1.0, "does not hold")]
)
def test_mixed_precision_is_judged_by_time_and_memory(time, memory, word):
    rows = {
        name: ({"depth": 56, "recipe": name}, {"step_ratio": (float(slow),) * 2, "kept_mib": (10 * size,) * 2})
        for name, slow, size in (("none", 1, 1), ("mixed precision", time, memory))
    }
    found = find("mixed-precision", study("recipe-digits", rows))
    assert found.word == word
    assert f"takes {time:.2f} times as long" in found.measured


def test_studies_that_were_not_run_are_named_by_their_command():
    found = {finding.claim.key: finding for finding in judge_claims({})}
    assert {finding.word for finding in found.values() if finding.claim.studies} == {"not tested here"}
    assert "`reslab study degradation --preset digits`" in found["degradation"].measured
    assert found["human"].word == found["bottleneck"].word == "does not hold"


def test_every_claim_has_a_source_and_a_study_and_test_that_exist():
    assert {name.partition("-")[0] for claim in CLAIMS.values() for name in claim.studies} <= {*STUDIES, "accuracy"}
    assert len(CLAIMS) == len(load_claims())
    for claim in CLAIMS.values():
        assert claim.source
        assert hasattr(claim_tests, claim.test) if claim.test else claim.measured


def test_a_bottleneck_costs_a_seventeenth_and_grows_with_the_square_too():
    assert macs_per_position("basic", 256) == 2 * 9 * 256 * 256
    assert macs_per_position("bottleneck", 256) == 2 * 256 * 64 + 9 * 64 * 64
    assert macs_per_position("bottleneck", 512) == 4 * macs_per_position("bottleneck", 256)


def test_shipped_evidence_is_whole_and_stands_in_the_docs():
    studies = shipped_studies()
    assert "degradation-digits" in studies
    assert not [row for record in studies.values() for row in record.rows if row.waiting]
    assert claims_markdown(judge_claims(studies)) in Path("docs/claims.md").read_text(encoding="utf-8")


def test_own_studies_take_the_place_of_the_shipped_ones(tmp_path, capsys):
    record = depths((0.0, 0.0), (0.0, 0.0))["degradation-digits"]
    more = replace(record, rows=tuple(replace(row, values={"train_error": (0.0,) * 3}) for row in record.rows))
    for name, one in (("a", record), ("b", more)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(one.to_json(), encoding="utf-8")
    assert read_study(tmp_path / "a" / "study.json") == record
    assert find_studies(tmp_path)["degradation-digits"] == more  # the one with more runs
    assert main(["study", "claims", "--runs", str(tmp_path), "--json"]) == 0
    found = {line["key"]: line for line in json.loads(capsys.readouterr().out)["claims"]}
    assert found["degradation"]["word"] == "does not hold"
    assert found["identity"]["word"] == "not tested here"


def test_bad_evidence_is_one_clear_error(tmp_path, capsys):
    assert main(["study", "claims", "--runs", str(tmp_path)]) == 2
    assert "contains no study" in capsys.readouterr().err
    (tmp_path / "study.json").write_text("{", encoding="utf-8")
    with pytest.raises(RequestError, match="is damaged"):
        read_studies([tmp_path / "study.json"])
