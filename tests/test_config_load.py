"""The configuration: layers, origins, and errors that name everything."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapsed.config.load import (
    ConfigError,
    convert_options,
    env_name,
    load,
    render,
    write_config,
)
from synapsed.config.options import PROFILES, Config, schema, value_at
from synapsed.config.tomllines import key_lines

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
SHIPPED = Path(__file__).parent.parent / "configs" / "synapsed.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def problems(path: Path | None, env: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(path, env or {})
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_nothing_set_is_the_home_profile() -> None:
    loaded = load(None, {})
    assert loaded.config == Config()
    assert loaded.config.profile == "home"
    assert loaded.config.limits.upload > 0  # limited by default
    assert set(loaded.origins.values()) == {"default"}


def test_layers_and_their_origins(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'profile = "server"\n\n[net]\ntarget_peers = 5\nlisten = [\n  "/ip4/0.0.0.0/tcp/1",\n]\n'
        '[store]\nquota = "2 GiB"\n',
    )
    env = {"SYNAPSED_STORE__QUOTA": "3 GiB", "SYNAPSED_HOME": "/x", "OTHER": "1"}
    loaded = load(path, env)
    assert loaded.config.net.target_peers == 5
    assert loaded.origins["net.target_peers"] == f"{path}:4"
    assert loaded.origins["net.listen"] == f"{path}:5"
    assert loaded.config.store.quota == 3 << 30
    assert loaded.origins["store.quota"] == "env SYNAPSED_STORE__QUOTA"
    assert loaded.config.limits.upload == 0
    assert loaded.origins["limits.upload"] == "profile server"
    assert loaded.origins["net.dht"] == "default"
    assert ("store.quota", "3 GiB", "env SYNAPSED_STORE__QUOTA") in loaded.rows()


def test_a_variable_may_choose_the_profile(tmp_path: Path) -> None:
    path = write(tmp_path, 'profile = "server"\n')
    loaded = load(path, {"SYNAPSED_PROFILE": "lab"})
    assert loaded.config.net.mdns is False
    assert loaded.origins["net.mdns"] == "profile lab"


def test_every_mistake_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'netwrk = "x"\nprofile = "house"\nlisten = []\n[net]\ntarget_peers = "eight"\n'
        'listen = [\n"/ip4/300.0.0.1/tcp/1",\n]\nmdsn = true\nmdns = 1\nmax_connections = 9999\n'
        '[store]\nquota = "50 Gigs"\n[limits]\nupload = "20 Mb/s"\n[lmits]\nx = 1\n',
    )
    found = problems(path, {"SYNAPSED_LOG__LEVLE": "info", "SYNAPSED_NET__DHT": "maybe"})
    for key, line, *texts in (
        ("netwrk", 1, "unknown key", "did you mean network?"),
        ("profile", 2, 'text "house"', '"home", "server", "lab"'),
        ("listen", 3, "did you mean net.listen?"),
        ("net.target_peers", 5, 'text "eight"', "a whole number from 1 to 256"),
        ("net.listen", 6, "300.0.0.1", "a list of at most 16"),
        ("net.mdsn", 9, "did you mean net.mdns?"),
        ("net.mdns", 10, "a number 1", "true or false"),
        ("net.max_connections", 11, "9999", "from 1 to 4096"),
        ("store.quota", 13, "50 Gigs", 'a size such as "50 GiB"'),
        ("limits.upload", 15, "20 Mb/s", "Mbit/s"),
        ("lmits", 16, "did you mean [limits]?"),
    ):
        assert found[key].startswith(f"{path}:{line}: {key}: "), found[key]
        for text in texts:
            assert text in found[key]
    assert found["log.levle"].startswith("env SYNAPSED_LOG__LEVLE")
    assert "did you mean SYNAPSED_LOG__LEVEL?" in found["log.levle"]
    assert found["net.dht"].startswith("env SYNAPSED_NET__DHT: net.dht: found text")
    assert len(found) == 13


def test_rules_between_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[net]\nmax_connections = 4\ntarget_peers = 5\n"
        'bootstrap = ["/ip4/1.2.3.4/tcp/1"]\n[store]\nquota = "1 MiB"\n'
        '[liveness]\ninterval = "1 h"\n[replication]\nprobe_interval = 0\n',
    )
    assert set(problems(path)) == {
        "net.target_peers",
        "net.bootstrap",
        "store.quota",
        "liveness.interval",
        "replication.probe_interval",
    }


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "synapsed init" in problems(tmp_path / "none.toml")["file"]
    assert "UTF-8" in problems(write_bytes(tmp_path, b"network = '\xff'"))["file"]
    assert "at most" in problems(write_bytes(tmp_path, b"#" * 70_000))["file"]
    path = write(tmp_path, 'network = "a"\n[net]\nlisten = [\n')
    assert problems(path)["syntax"].startswith(f"{path}:")
    path = write(tmp_path, 'network = "a"\nnetwork = "b"\n')
    assert problems(path)["syntax"].startswith(f"{path}:2")
    assert "table [net]" in problems(write(tmp_path, "net = 4\n"))["net"]


def write_bytes(folder: Path, data: bytes) -> Path:
    path = folder / "bytes.toml"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/ip4/127.0.0.1/tcp/0,/ip6/::1/tcp/0", ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0")),
        ('["/dns/example.org/tcp/4817"]', ("/dns/example.org/tcp/4817",)),
        ("", ()),
    ],
)
def test_lists_in_variables(text: str, value: tuple[str, ...]) -> None:
    assert load(None, {"SYNAPSED_NET__LISTEN": text}).config.net.listen == value


@pytest.mark.parametrize(
    "bad",
    [
        "/ip4/1.2.3.4/udp/1",
        "/ip4/1.2.3.4/tcp/65536",
        "/ip4/1.2.3.4/tcp/1/p2p/12D3bad",
        "/ip6/1.2.3.4/tcp/1",
        "1.2.3.4:4817",
        "/ip4/1.2.3.4/tcp/1/quic",
        "/dns//tcp/1",
    ],
)
def test_addresses_refused(bad: str) -> None:
    assert "net.listen" in problems(None, {"SYNAPSED_NET__LISTEN": bad})


def test_every_key_can_be_overridden_by_its_variable() -> None:
    for key, value, _ in load(None, {}).rows():
        text = ",".join(value) if isinstance(value, list) else str(value).lower()
        loaded = load(None, {env_name(key): text})
        assert loaded.origins[key] == f"env {env_name(key)}"
        assert value_at(loaded.config, key) == value_at(Config(), key)


def test_the_shipped_config_is_the_one_that_init_writes() -> None:
    assert SHIPPED.read_text() == render({})
    assert load(SHIPPED, {}).config == Config()


def test_a_private_text_is_named_by_where_it_is(tmp_path: Path) -> None:
    said = problems(write(tmp_path, '[training]\nprobe = "mine.txt"\n'))
    assert "an absolute path" in said["training.probe"]
    named = write(tmp_path, '[training]\nprobe = "/home/me/mine.txt"\n')
    assert load(named, {}).config.training.probe == "/home/me/mine.txt"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_default_that_is_uncommented_changes_nothing(profile: str, tmp_path: Path) -> None:
    lines = render(convert_options({"profile": profile})).splitlines()
    bare = [line.removeprefix("# ") if " = " in line else line for line in lines[3:]]
    path = write(tmp_path, "\n".join(bare))
    loaded = load(path, {})
    assert loaded.config == load(None, {"SYNAPSED_PROFILE": profile}).config
    assert all(origin.startswith(str(path)) for origin in loaded.origins.values())


def test_every_key_and_profile_is_documented_and_sound() -> None:
    keys = dict(schema())
    for profile, values in PROFILES.items():
        assert set(values) <= set(keys)
        load(None, {"SYNAPSED_PROFILE": profile})  # raises where a profile breaks a rule
    for line in render({}).splitlines():
        assert len(line) <= 100


def test_write_config_keeps_and_refuses_and_forces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "config.toml"
    chosen = convert_options(
        {"network": "garden", "net.bootstrap": [f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}"]}
    )
    assert write_config(path, chosen, force=False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(path, {}).config.network == "garden"
    before = path.read_bytes()
    assert not write_config(path, {}, force=False)
    assert not write_config(path, chosen, force=False)
    with pytest.raises(ConfigError, match=r'config\.toml:6: network: found text "garden".*--force'):
        write_config(path, convert_options({"network": "other"}), force=False)
    assert path.read_bytes() == before
    assert write_config(path, convert_options({"network": "other"}), force=True)
    assert load(path, {}).config.network == "other"
    assert (path.parent / "config.toml.old").read_bytes() == before


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match="option --profile: profile: found text"):
        convert_options({"profile": "hom"})


NAMES = st.text("abcdefghij", min_size=1, max_size=6)
VALUES = st.sampled_from(
    [
        "1",
        '"x = 3"',
        "[\n  1,\n  # [no.table]\n  2 ]",
        '"""\n[not]\na = 1\n"""',
        "'''\n\n'''",
        "{q = 1}",
    ]
)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=4), st.data())
def test_key_lines_are_where_the_keys_are(
    tables: dict[str, dict[str, str]], data: st.DataObject
) -> None:
    text = ""
    where: dict[tuple[str, ...], int] = {}
    for table, values in tables.items():
        text += data.draw(st.sampled_from(["", "\n", "# x = 1\n\n"]))
        where[(table,)] = text.count("\n") + 1
        text += f"[{table}] # here\n"
        for key, value in values.items():
            text += data.draw(st.sampled_from(["", "\r\n", "  # [comment]\n"]))
            where[(table, key)] = text.count("\n") + 1
            text += f"  {key} = {value}\n"
    tomllib.loads(text)
    lines = key_lines(text)
    assert {path: lines[path] for path in where} == where
