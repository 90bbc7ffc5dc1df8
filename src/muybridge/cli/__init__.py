"""The command line, a file for each family of commands.

Everything heavy is imported inside the commands, so that `--help` and mistakes answer at once.
"""

from muybridge.cli import (  # noqa: F401 - their commands register themselves
    benchmark,
    cache,
    completion,
    data,
    env,
    evaluating,
    explaining,
    exporting,
    models,
    reporting,
    serving,
    sweep,
    training,
    use,
)
from muybridge.cli.app import app, main, run, split_fields

__all__ = ["app", "main", "run", "split_fields"]
