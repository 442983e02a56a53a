"""The pages in docs/ are run: all Python blocks of a page in one process, each with the output it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]
END_OF_BLOCK = "---- end of block ----"


def python_blocks(page):
    """Each Python block of a page with the text block right below it, which is empty where it prints nothing."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", text, re.S | re.M)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_a_page_print_what_they_show(page, tmp_path):
    blocks = python_blocks(page)
    program = "".join(f"{code}\nprint({END_OF_BLOCK!r})\n" for code, _ in blocks)
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    printed = result.stdout.split(f"{END_OF_BLOCK}\n")[:-1]
    assert printed == [shown for _, shown in blocks]


def test_every_page_is_on_the_map():
    on_map = set(re.findall(r"\]\((\w+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert on_map == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8")):
        assert (DOCS / target).exists(), target
