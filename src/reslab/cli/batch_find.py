"""``reslab batch-find``: how large a batch fits into memory."""

from __future__ import annotations

from reslab.cli.config_flags import OwnFlags, read_flags
from reslab.cli.output import print_json

ABOUT = "Measure the memory of a training step and find the largest batch that fits. Trains nothing."
OWN: OwnFlags = []


def run(arguments: list[str]) -> int:
    """Parses, measures, prints. Returns the exit code."""
    config, flags = read_flags(arguments, OWN, command="batch-find", about=ABOUT)

    from reslab.cli.progress import make_display  # from here on torch is needed
    from reslab.run.batch_find import find_batch
    from reslab.train.memory import gib

    room = find_batch(config, display=make_display())
    memory = room.memory
    if flags.json:
        print_json(
            {
                "largest": room.largest,
                "free_bytes": room.free_bytes,
                "fixed_bytes": memory.fixed_bytes,
                "bytes_per_image": memory.bytes_per_image,
                "input_bytes": memory.input_bytes,
            }
        )
        return 0
    print(f"a step takes {gib(memory.fixed_bytes)}, and {gib(memory.bytes_per_image + memory.input_bytes)} an image")
    if room.largest is None or room.free_bytes is None:
        print("how much is free is not known here")
    else:
        print(f"{gib(room.free_bytes)} are free: the largest batch that fits has {room.largest} images")
    return 0
