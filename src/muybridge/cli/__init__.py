"""The command line, a file for each family of commands.

Everything heavy is imported inside the commands, so that `--help` and mistakes answer at once.
"""

from muybridge.cli import benchmark, cache, data, evaluating, models, sweep, training, use  # noqa: F401 - their commands register themselves
from muybridge.cli.app import app, main, run, split_fields

__all__ = ["app", "main", "run", "split_fields"]
