"""``reslab COMMAND``: find the command, and turn errors into one sentence and an exit code."""

from __future__ import annotations

import importlib
import json
import os
import sys

import reslab
from reslab.errors import RequestError, WorkFailed, unknown

COMMANDS = {
    "demo": "the main job on embedded data, offline, in about two minutes",
    "train": "train a network on your data; leaves a run folder behind",
    "lr-find": "suggest a learning rate by a range test, with its chart",
    "batch-find": "find the largest batch that fits into memory",
    "study": "answer a question by many runs: does depth help, with and without shortcuts?",
    "diagnose": "say what is wrong with a network: its gradient flow, and a verdict",
    "evaluate": "score, loss and confusion of a run's network",
    "predict": "classify images, or folders of them, with a run's network",
    "report": "one HTML page about one run or several, side by side",
    "models": "list the named models; draw one",
    "convert": "convert third-party weights, and back, with a report of every key",
}

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_REQUEST, EXIT_INTERRUPTED = 0, 1, 2, 130


def usage() -> str:
    """What ``reslab --help`` prints; made without importing anything heavy."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"reslab {reslab.__version__}: a workbench for deep residual networks",
            "",
            "usage: reslab COMMAND [OPTIONS]        reslab COMMAND --help",
            "",
            *lines,
            "",
            "Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted (resumable).",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return EXIT_DONE if arguments else EXIT_WRONG_REQUEST
    if arguments[0] in ("-V", "--version"):
        print(reslab.__version__)
        return EXIT_DONE
    try:
        return dispatch(arguments[0], arguments[1:])
    except RequestError as error:
        return fail(str(error), EXIT_WRONG_REQUEST, as_json="--json" in arguments)
    except WorkFailed as error:
        return fail(str(error), EXIT_FAILED, as_json="--json" in arguments)
    except BrokenPipeError:  # `reslab models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return fail(f"{error.strerror or error}{where}", EXIT_FAILED, as_json="--json" in arguments)
    except KeyboardInterrupt as stop:
        return fail(str(stop) or "interrupted", EXIT_INTERRUPTED, as_json="--json" in arguments)


def dispatch(command: str, arguments: list[str]) -> int:
    """Import the command's file and run it."""
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS, hint="`reslab --help` lists all.")
    module = importlib.import_module(f"reslab.cli.{command.replace('-', '_')}")
    code: int = module.run(arguments)
    return code


def fail(message: str, code: int, *, as_json: bool) -> int:
    """Print the error: on stderr, and under ``--json`` as the one object on stdout too; of many processes, once."""
    if os.environ.get("RANK", "0") != "0":
        return code
    print(f"reslab: error: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message, "exit_code": code}))
    return code


if __name__ == "__main__":
    sys.exit(main())
