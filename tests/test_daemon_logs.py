"""Log lines: for machines and for people, and harmless whatever a peer put into them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from synapsed.config.options import LogConfig
from synapsed.process import logs


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


def written(config: LogConfig, message: str, *args: object, **more: object) -> str:
    stream = io.StringIO()
    logs.configure(config, stream)
    logging.getLogger("synapsed.net.host").warning(message, *args, **more)  # type: ignore[arg-type]
    return stream.getvalue()


def test_json_is_one_object_a_line() -> None:
    text = written(LogConfig(), "two\nlines of %s", b"\xff", extra={"fields": {"peer": "12D3"}})
    assert text.count("\n") == 1
    line = json.loads(text)
    assert line["message"] == "two\nlines of b'\\xff'"
    assert line["fields"] == {"peer": "12D3"}
    assert (line["level"], line["logger"]) == ("warning", "synapsed.net.host")
    assert line["at"].endswith("Z")


def test_text_cannot_be_forged_or_drive_the_terminal() -> None:
    hostile = "\x1b[2Jgone\r12:00:00 info forged\x9b31m\u202egnp.exe\nnext"
    text = written(LogConfig(format="text"), "said %s", hostile, extra={"fields": {"k": "\x1b[1m"}})
    for character in ("\x1b", "\r", "\x9b", "\u202e"):
        assert character not in text
    assert "\\x1b[2Jgone\\x0d" in text
    assert "\n    next" in text  # indented: not a line of its own
    assert text.endswith("k=\\x1b[1m\n")


def test_a_traceback_is_kept() -> None:
    with pytest.raises(ValueError, match="why") as caught:
        raise ValueError("why")
    for form in ("text", "json"):
        config = LogConfig(format=form)
        assert "ValueError: why" in written(config, "x", exc_info=caught.value)


def test_levels_and_noisy_libraries() -> None:
    assert written(LogConfig(level="error"), "x") == ""
    import libp2p  # noqa: F401 - it cuts its own logger off, so that warnings go to stderr bare

    stream = io.StringIO()
    logs.configure(LogConfig(level="debug"), stream)
    logging.getLogger("libp2p.network.swarm").error("failed to dial")
    logging.getLogger("libp2p").critical("the end")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["the end"]


def test_a_stream_that_is_gone_is_no_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    logs.configure(LogConfig(), stream)
    stream.close()
    logging.getLogger("synapsed").warning("into nothing")
    assert capsys.readouterr().err == ""
