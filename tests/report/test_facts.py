from __future__ import annotations

from reslab.report.facts import MAX_COLUMNS, deviations, sections

SHARED = ["validation split of 20 %", "batch size 64 instead of 128"]


def grouped(runs):
    return deviations(runs, [run.read_run() for run in runs])


def test_what_all_runs_share_is_said_once_and_without_their_names(twins):
    assert grouped(twins) == [("", SHARED)]
    assert grouped(twins[:1]) == [("", SHARED)]


def test_a_deviation_of_some_runs_stands_under_their_names(make_run):
    runs = [make_run("one"), make_run("two", deviations=[*SHARED, "other"]), make_run("three", deviations=["other"])]
    assert grouped(runs) == [("one, two", SHARED), ("two, three", ["other"])]


def test_without_deviations_there_is_nothing_to_group(make_run):
    assert grouped([make_run("one", deviations=[]), make_run("two", deviations=[])]) == []


def test_facts_that_agree_are_one_cell(make_run):
    runs = [make_run(f"run{seed}", model="resnet20", seed=seed) for seed in range(MAX_COLUMNS)]
    facts = {fact.name: fact.values for fact in sections([run.read_run() for run in runs])["Protocol"]}
    assert facts["test set"] == ["read once, at the end"]
    assert facts["seed"] == ["0", "1", "2", "3", "4", "5"]


def test_facts_of_many_runs_are_listed(make_run):
    runs = [make_run(f"run{seed}", model="resnet20", seed=seed % 7) for seed in range(9)]
    facts = {fact.name: fact.values for fact in sections([run.read_run() for run in runs])["Protocol"]}
    assert facts["seed"] == ["0, 1, 2, 3, 4, 5, 6"]
