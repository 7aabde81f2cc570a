"""The published vectors: other implementations rely on these bytes, so they may not change."""

import json
from pathlib import Path

import pytest

from protocols.gossip.announcement import Hearing, Source, judge
from protocols.gossip.validation import Verdict
from synapsed.keys import verify
from tests.gossip_kit import NOW, catalog, identity
from tests.vectors.make_gossip import everything

HERE = Path(__file__).parent / "vectors"


@pytest.mark.parametrize("name", everything())
def test_vectors_are_what_the_code_makes(name: str) -> None:
    assert json.loads((HERE / name).read_text()) == everything()[name]


def test_the_announcements_are_accepted() -> None:
    vectors = json.loads((HERE / "announcement.json").read_text())
    for case in vectors["cases"]:
        hearing = Hearing(
            bytes.fromhex(case["envelope"]),
            topic=case["kind"],
            source=Source.GOSSIP,
            now=NOW,
            network=vectors["network"],
            verify=verify,
            known=catalog(identity(1)),
        )
        assert judge(hearing).verdict is Verdict.ACCEPT
