"""What a request lacks is said in words, with its place; and patterns match to the very end."""

import msgspec
import pytest

from synapsed.control import models
from synapsed.control.fields import WORDS
from synapsed.control.wording import in_words

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

WRONG = (
    (models.ImportRequest, '{"name": "x"}', "'path' is missing"),
    (models.ImportRequest, '{"nme": "x"}', "'nme' is not a field of this"),
    (models.ImportRequest, "[]", "expected an object of named fields, found a list"),
    (models.ImportRequest, '{"path": "here"}', "path: expected an absolute path"),
    (models.ImportRequest, '{"path": 5}', "path: expected text, found a whole number"),
    (
        models.ImportRequest,
        '{"path": "/a", "name": "a\\u0000b"}',
        "name: expected some text without control or direction-changing characters",
    ),
    (
        models.ImportRequest,
        f'{{"path": "/a", "name": "{"a" * 129}"}}',
        "name: at most 128 characters",
    ),
    (models.ImportRequest, '{"path": "/a", "name": 1}', "found a whole number"),
    (models.PullRequest, '{"experts": [""]}', "experts[0]: at least 1 character"),
    (models.LimitsRequest, '{"max_pulls": 65}', "max_pulls: expected at most 64"),
    (models.LimitsRequest, '{"upload": -1}', "upload: expected at least 0"),
    (models.LimitsRequest, '{"quota": 0}', "quota: expected at least 67108864"),
    (models.Draft, '{"kind": "adapter", "alpha": 0}', "alpha: expected more than 0"),
    (models.Draft, '{"kind": "adapter", "target_modules": []}', "at least 1 entry"),
    (
        models.Draft,
        '{"kind": "adapter", "base": "bafyrei"}',
        "base: expected a content id (bafyrei...) in full",
    ),
    (
        models.Draft,
        '{"kind": "kernel", "benchmarks": [{"valeu": 1}]}',
        "benchmarks[0]: 'valeu' is not a field of this",
    ),
    (models.Draft, '{"kind": "rumour"}', "kind: Invalid value 'rumour'"),
)


@pytest.mark.parametrize(("kind", "body", "said"), WRONG)
def test_what_is_wrong_is_said_in_words(kind, body, said):
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=kind)
    words = in_words(str(caught.value))
    assert said in words
    assert "`" not in words
    assert "regex" not in words


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (models.PeerRequest, {"peer_id": PEER}),
        (models.ImportRequest, {"path": "/a", "name": "a"}),
        (models.ProposalDraft, {"title": "a", "kind": "proposal"}),
    ],
)
def test_a_newline_at_the_end_is_part_of_the_text(kind, body):
    msgspec.convert(body, kind)
    for field in body.keys() - {"kind", "path"}:
        with pytest.raises(msgspec.ValidationError, match=field):
            msgspec.convert({**body, field: f"{body[field]}\n"}, kind)


def test_every_pattern_has_words_and_an_end():
    assert len(WORDS) >= 7
    for pattern, words in WORDS.items():
        assert pattern.startswith("^")
        assert pattern.endswith(r"$(?!\n)")
        assert words
