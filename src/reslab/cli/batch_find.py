"""``reslab batch-find``: how large a batch fits into memory."""

from __future__ import annotations

from reslab.cli._flags import OwnFlags, read_flags
from reslab.cli._output import print_json

ABOUT = "Measure the memory of a training step and find the largest batch that fits. It trains nothing."
OWN: OwnFlags = []


def run(arguments: list[str]) -> int:
    """Parse, measure, print. Return the exit code."""
    config, flags = read_flags(arguments, OWN, command="batch-find", about=ABOUT)

    from reslab.run.display import make_display  # from here on torch is needed
    from reslab.run.search import find_batch
    from reslab.training.memory import in_units

    limit = find_batch(config, display=make_display())
    memory = limit.memory
    if flags.json:
        print_json(
            {
                "largest": limit.largest,
                "free_bytes": limit.free_bytes,
                "fixed_bytes": memory.fixed_bytes,
                "bytes_per_image": memory.bytes_per_item,
                "input_bytes": memory.input_bytes,
            }
        )
        return 0
    per_image = in_units(memory.bytes_per_item + memory.input_bytes)
    print(f"a step takes {in_units(memory.fixed_bytes)}, and {per_image} per image")
    if limit.largest is None or limit.free_bytes is None:
        print("the free memory is unknown here")
    else:
        print(f"{in_units(limit.free_bytes)} are free: the largest batch that fits has {limit.largest} images")
    return 0
