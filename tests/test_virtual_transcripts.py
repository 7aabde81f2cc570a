"""Golden transcripts: runs that read as stories, and are told again to the letter."""

import os
import subprocess
import sys

import pytest

from tests.vectors.make_council_transcripts import FOLDER, text, transcripts


@pytest.mark.parametrize("name", transcripts())
def test_a_run_is_told_as_it_was(name: str) -> None:
    told = text(transcripts()[name])
    assert "violation" not in told
    assert told == (FOLDER / f"{name}.txt").read_text(), (
        "the council behaves otherwise: read the difference, and if it is meant, "
        "python -m tests.vectors.make_council_transcripts"
    )


def test_two_hash_seeds_tell_one_story() -> None:
    found = []
    for hash_seed in ("1", "7"):
        command = [sys.executable, "-m", "simnet.virtual", "daemons", "--seed", "8", "--members"]
        command += ["7", "--seconds", "25", "--messages", "--trace", "-"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout)
    assert len(found[0].splitlines()) > 1000
    assert found[0] == found[1]
