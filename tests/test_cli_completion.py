"""`muybridge completion`: a shell that reads the script completes commands and options."""

import shutil
import subprocess

import pytest

from muybridge import cli


def completed(script, *words):
    asked = " ".join(f"'{word}'" for word in words)
    lines = (
        f"{script}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _muybridge; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(capsys):
    assert cli.run(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "predict" in completed(script, "muybridge", "pre")
    assert "--data" in completed(script, "muybridge", "train", "--da")
    assert completed(script, "muybridge", "predict", "--to") == ["--top"]


@pytest.mark.parametrize(("shell", "word"), [("zsh", "#compdef muybridge"), ("fish", "complete -c muybridge")])
def test_other_shells_get_a_script(shell, word, capsys):
    assert cli.run(["completion", shell]) == 0
    assert word in capsys.readouterr().out
