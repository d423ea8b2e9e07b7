"""Every way the system refuses, with the exit code that the command line gives it.

A message names the file, row, column or key at fault and the way out. Programs tell refusals apart by class,
shells by ``exit_code``.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArtifactRefused",
    "DataInvalid",
    "DataStale",
    "ForecasterError",
    "Interrupted",
    "LeakFound",
    "Locked",
    "LookAhead",
    "UsageError",
]


class ForecasterError(Exception):
    """Base of all refusals; shown to the user as one message, without a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(ForecasterError):
    """Wrong usage or configuration."""

    exit_code = 2


class DataInvalid(ForecasterError):
    """Data that break their schema, or are missing where they must be present."""

    exit_code = 3


class DataStale(ForecasterError):
    """Data that end too early for what was asked."""

    exit_code = 4


class LeakFound(ForecasterError):
    """Something depends on what could not have been known."""

    exit_code = 5


class LookAhead(LeakFound):
    """A point-in-time view was asked for the future."""


class ArtifactRefused(ForecasterError):
    """A model artifact that fails its integrity, structure or behaviour check."""

    exit_code = 6


class Locked(ForecasterError):
    """Another process holds the lock."""

    exit_code = 7


class Interrupted(ForecasterError):
    """Stopped part-way with finished work kept; running again resumes."""

    exit_code = 8
