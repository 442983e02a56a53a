"""Run the demo and put its table and picture into the READMEs, so that they show what the program shows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from reslab.records.training import as_percent

ROOT = Path(__file__).parent.parent
WORDS = {
    # table head, plain, residual
    "README.md": ("depth | kind | parameters | clean training error | test error | seconds", "plain", "residual"),
    "README.zh-CN.md": ("深度 | 类型 | 参数量 | 无增广训练错误率 | 测试错误率 | 秒", "普通", "残差"),
}


def run_demo(out: Path) -> list[dict]:
    """Run a fresh demo; return its rows."""
    command = [sys.executable, "-m", "reslab", "demo", "--json", "--out", str(out)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)["rows"]


def markdown(rows: list[dict], head: str, plain: str, residual: str) -> str:
    """Write the table."""
    lines = [f"| {head} |\n", "|---:|---|---:|---:|---:|---:|\n"]
    for row in rows:
        kind = residual if row["kind"] == "residual" else plain
        errors = f"{as_percent(row['train_error'])} | {as_percent(row['test_error'])}"
        lines.append(f"| {row['depth']} | {kind} | {row['num_parameters']:,} | {errors} | {row['duration_s']:.0f} |\n")
    return "".join(lines)


def main() -> None:
    """Refresh both READMEs and the picture of the gradient flow."""
    with tempfile.TemporaryDirectory() as folder:
        rows = run_demo(Path(folder))
        shutil.copy(Path(folder) / "gradient-flow.png", ROOT / "docs" / "demo-gradient-flow.png")
    for name, words in WORDS.items():
        path, table = ROOT / name, markdown(rows, *words)
        before, rest = path.read_text(encoding="utf-8").split("<!-- demo -->\n")
        after = rest.partition("<!-- end demo -->")[2]
        path.write_text(f"{before}<!-- demo -->\n{table}<!-- end demo -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
