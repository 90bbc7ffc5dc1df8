"""The command line: `muybridge demo | train | evaluate | predict | list | info | convert`.

Everything heavy is imported inside the commands, so that `--help` and mistakes answer at once.
"""

from muybridge.cli import models, training, use  # noqa: F401 - their commands register themselves
from muybridge.cli.app import app, main, run, split_fields

__all__ = ["app", "main", "run", "split_fields"]
