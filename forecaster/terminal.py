"""What the command line shows: one result on stdout, everything else on stderr, and an exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import typer

from features.errors import ForecasterError, Interrupted

__all__ = ["Failure", "Outcome", "Progress", "Result", "Terminal"]

Progress: TypeAlias = Callable[[str, int, int], None]  # stage, done, total


class Result(Protocol):
    """What a command returns: the same facts for programs and for people."""

    def to_dict(self) -> dict[str, Any]:
        """One JSON object."""

    def summary(self) -> str:
        """A few lines of text."""


@dataclass(frozen=True)
class Outcome:
    """A result that ends with an exit code of its own: the work was done, and found something wrong."""

    result: Result
    exit_code: int


@dataclass(frozen=True)
class Failure:
    """What ``--json`` shows of an error, under the key ``error``."""

    type: str
    message: str
    exit_code: int


@dataclass(frozen=True)
class Terminal:
    """How to show: as ``json``, ``quiet``-ly (errors only), with tracebacks (``debug``)."""

    json: bool = False
    quiet: bool = False
    debug: bool = False

    def run(self, command: Callable[[], Any]) -> int:
        """Call the command, show its result or its refusal, and return the exit code."""
        try:
            # Whatever a library prints must not mix with the one object on stdout.
            with redirect_stdout(sys.stderr) if self.json else nullcontext():
                outcome = command()
            return self._show(outcome)
        except ForecasterError as refusal:
            return self._fail(str(refusal), refusal, refusal.exit_code)
        except typer.TyperException as usage:
            return self._fail(_usage(usage), usage, usage.exit_code)
        except BrokenPipeError:
            # The reader has seen enough; nothing may be left for the interpreter to flush at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt as stop:
            return self._fail("stopped; run the same command again to resume", stop, Interrupted.exit_code)
        except Exception as failure:  # noqa: BLE001 - a user sees one line, a developer asks with --debug
            told = f"unexpected {type(failure).__name__}: {failure}".splitlines()[0]
            return self._fail(f"{told}; run again with --debug to see where", failure, 1)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Bars by stage on stderr, where that is a terminal and nobody asked for quiet."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda stage, done, total: None
            return
        from rich.console import Console
        from rich.progress import Progress as Bars
        from rich.progress import TaskID

        tasks: dict[str, TaskID] = {}
        with Bars(console=Console(stderr=True), transient=True) as bars:

            def show(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield show

    def _show(self, outcome: Any) -> int:
        """Print a result; a number is the exit code of a command line that ended early, such as --help."""
        if outcome is None or isinstance(outcome, int):
            return outcome or 0
        result, code = (outcome.result, outcome.exit_code) if isinstance(outcome, Outcome) else (outcome, 0)
        if self.json:
            print(json.dumps(result.to_dict(), sort_keys=True, allow_nan=False, default=str), flush=True)  # noqa: T201
        elif not self.quiet:
            print(result.summary(), flush=True)  # noqa: T201
        return code

    def _fail(self, message: str, error: BaseException, code: int) -> int:
        if self.debug:
            traceback.print_exception(error)
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
        if self.json:
            failure = Failure(type(error).__name__, message, code)
            print(json.dumps({"error": asdict(failure)}, sort_keys=True))  # noqa: T201
        return code


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = "forecaster" if context is None else context.command_path
    return f"{error.format_message()}; see {command} --help"
