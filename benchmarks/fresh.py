"""What something takes in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def in_fresh_process(call: str, *, to_the_byte: bool = False) -> Any:
    """What a call in this folder returns, such as ``"bench_depth.build_seconds('resnet110')"``, by way of JSON.

    With ``to_the_byte`` glibc gives each tensor pages of its own and returns them when it is freed. By default it keeps
    some, more or fewer from run to run, and the peaks of equal networks differ by 5 %; but that is faster.
    """
    module, _, function = call.partition(".")
    code = f"import json, {module}; print(json.dumps({module}.{function}))"
    threshold = {"MALLOC_MMAP_THRESHOLD_": "131072"} if to_the_byte else {}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | threshold,
    )
    return json.loads(done.stdout)
