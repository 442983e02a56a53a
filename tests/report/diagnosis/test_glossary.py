from __future__ import annotations

import re

from reslab.report.diagnosis.glossary import GLOSSARY


def test_terms_are_told_once_with_a_meaning_that_ends():
    names = [term.name for term in GLOSSARY]
    assert len(set(names)) == len(names)
    for term in GLOSSARY:
        assert term.meaning.endswith(".")
        assert 20 < len(term.meaning) < 400


def test_references_can_be_found():
    for term in GLOSSARY:
        assert not term.reference or re.search(r"arXiv:\d{4}\.\d{5}", term.reference)


def test_what_the_pages_talk_of_is_explained():
    words = " ".join(term.name for term in GLOSSARY)
    for word in (
        "gradient norm",
        "share",
        "cosine",
        "pass-through",
        "slope",
        "effective depth",
        "shattering",
        "lesion",
        "Jacobian",
        "update",
        "layer response",
        "not checked",
        "basis",
    ):
        assert word in words
