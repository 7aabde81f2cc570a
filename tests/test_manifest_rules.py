"""What a manifest may say, and that its name is the hash of all of it (K2, T2, W1)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.cid import cid_of
from protocols.codec import MAX_BLOCK, encode
from protocols.errors import LimitError, MalformedError, NotCanonicalError, SynapseError
from protocols.manifest import (
    MAX_DEPENDS,
    MAX_DESCRIPTION,
    MAX_FILES,
    MAX_PATH,
    MAX_RANK,
    AdapterManifest,
    BadManifestError,
    BadPathError,
    Benchmark,
    DatasetManifest,
    ExpertManifest,
    FileRef,
    KernelManifest,
    Manifest,
    ModelManifest,
    PickleRefusedError,
    ProposalManifest,
    TensorRef,
    Tool,
    UpgradeManifest,
    WrongBaseError,
    check_base,
    check_path,
    decode_manifest,
    encode_manifest,
    files,
    links,
)
from protocols.peerid import peer_id_of

CID = cid_of(b"one")
OTHER = cid_of(b"other")
AUTHOR = peer_id_of(b"k" * 32)
FILE = FileRef(path="model.safetensors", size=1000, root=b"r" * 32, layout="safetensors")
FLAT = FileRef(path="config.json", size=20, root=b"s" * 32, layout="flat")

MODEL = ModelManifest(name="model", description="two\nlines", files=(FLAT, FILE), depends_on=(CID,))
EXPERT = ExpertManifest(
    model=CID,
    name="layer4.expert7",
    tensors=(TensorRef(file=0, section=3), TensorRef(file=1, section=1)),
    depends_on=(),
)
ADAPTER = AdapterManifest(
    name="lora",
    description="",
    base=CID,
    target_modules=("mlp.down_proj", "q_proj"),
    target_experts=("decoder.layer0.expert1", "layer4.expert7"),
    rank=16,
    alpha_milli=32_000,
    file=FILE,
    author=AUTHOR,
    approved_by_human=True,
    depends_on=(OTHER,),
)
KERNEL = KernelManifest(
    name="swiglu in 40 lines",
    description="",
    operation="swiglu",
    architecture="x86-64-v3",
    language="c++",
    file=FLAT,
    benchmarks=(
        Benchmark(metric="latency", unit="us", workload="1x4096", value=9_500, baseline=12_000),
        Benchmark(metric="latency", unit="us", workload="8x4096", value=-1, baseline=0),
    ),
    author=AUTHOR,
    depends_on=(),
)
PROPOSAL = ProposalManifest(
    title="Adopt it", description="because", author=AUTHOR, depends_on=(CID,)
)
MODULE = FileRef(path="eviction.wasm", size=3_000, root=b"w" * 32, layout="flat")
SOURCE = FileRef(path="eviction.rs", size=2_000, root=b"q" * 32, layout="flat")
UPGRADE = UpgradeManifest(
    slot="eviction",
    abi=1,
    description="Rarest last.\nAs measured for a week.",
    module=MODULE,
    module_hash=b"h" * 32,
    source=SOURCE,
    source_hash=b"g" * 32,
    language="rust",
    tools=(Tool(name="rustc", version="rustc 1.63.0"),),
    evidence=(Benchmark(metric="fuel", unit="%", workload="recorded", value=-12, baseline=0),),
    author=AUTHOR,
    depends_on=(),
)
DATASET = DatasetManifest(name="Sonnets", description="All of them.", files=(FLAT,))
EVERY: tuple[Manifest, ...] = (MODEL, EXPERT, ADAPTER, KERNEL, UPGRADE, DATASET, PROPOSAL)


def _change(manifest: Manifest, **fields: object) -> bytes:
    """The encoding of `manifest` with other fields, whatever they are."""
    plain = msgspec.to_builtins(manifest, builtin_types=(bytes,))
    return encode(plain | fields)


@pytest.mark.parametrize("manifest", EVERY, ids=lambda m: type(m).__name__)
def test_each_kind_comes_back(manifest: Manifest) -> None:
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert cid_of(data) == cid_of(encode_manifest(manifest))


@given(manifest=st.sampled_from(EVERY), at=st.integers(0), bit=st.integers(0, 7), cut=st.booleans())
def test_any_changed_byte_is_detected(manifest: Manifest, at: int, bit: int, cut: bool) -> None:
    data = bytearray(encode_manifest(manifest))
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    assert cid_of(bytes(data)) != cid_of(encode_manifest(manifest))
    try:
        changed = decode_manifest(bytes(data))
    except SynapseError:
        return
    assert changed != manifest  # still a manifest, of another name
    assert encode_manifest(changed) == data


@given(st.binary(max_size=200))
def test_junk_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_manifest(data)


def test_every_field_must_be_there() -> None:
    for manifest in EVERY:
        plain = msgspec.to_builtins(manifest, builtin_types=(bytes,))
        for field in plain:
            with pytest.raises(MalformedError):
                decode_manifest(encode({k: v for k, v in plain.items() if k != field}))
        with pytest.raises(MalformedError):
            decode_manifest(encode(plain | {"more": 1}))
    with pytest.raises((MalformedError, NotCanonicalError)):
        decode_manifest(encode_manifest(MODEL) + b"\0")


def test_links_and_files() -> None:
    assert [links(manifest) for manifest in EVERY] == [
        (CID,),
        (CID,),
        (CID, OTHER),
        (),
        (),
        (),
        (CID,),
    ]
    assert [files(manifest) for manifest in EVERY] == [
        (FLAT, FILE), (), (FILE,), (FLAT,), (MODULE, SOURCE), (FLAT,), (),
    ]  # fmt: skip


def test_an_adapter_fits_its_base_only() -> None:
    check_base(ADAPTER, CID)
    with pytest.raises(WrongBaseError, match="pull the model that it names"):
        check_base(ADAPTER, OTHER)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/./x",
        "./x",
        "a//x",
        "a/",
        "a\\..\\x",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\u202eb",
        "a\ud800b",
        "x" * 256,
        "/".join(["x" * 99] * 6),
    ],
)
def test_paths_that_escape_are_refused(path: str) -> None:
    with pytest.raises(BadPathError, match="stays below its folder"):
        check_path(path)


@pytest.mark.parametrize("path", [".git/config", "a/.GIT/hooks/post-checkout", "__pycache__/x.py"])
def test_paths_into_folders_that_programs_run_code_from_are_refused(path: str) -> None:
    with pytest.raises(BadPathError, match="run code"):
        check_path(path)
    check_path(".gitattributes")


@pytest.mark.parametrize("path", ["pytorch_model.bin", "a/b.PT", "x.ckpt", "x.pkl", "y.pth"])
def test_pickles_are_refused_wherever_they_are_named(path: str) -> None:
    with pytest.raises(PickleRefusedError, match="safetensors"):
        check_path(path)
    plain = {"path": path, "size": 1, "root": b"r" * 32, "layout": "flat"}
    with pytest.raises(PickleRefusedError):
        decode_manifest(_change(MODEL, files=[plain]))


@given(st.text(max_size=MAX_PATH))
def test_a_path_that_is_taken_stays_below_its_folder(path: str) -> None:
    try:
        check_path(path)
    except (BadPathError, PickleRefusedError):
        return
    parts = path.split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert not path.startswith("/")
    path.encode()


@pytest.mark.parametrize("path", ["config.json", "1_Pooling/config.json", ".gitattributes", "模型"])
def test_paths_as_models_have_them(path: str) -> None:
    check_path(path)


def _file(path: str, **fields: object) -> dict[str, object]:
    return {"path": path, "size": 1, "root": b"r" * 32, "layout": "flat"} | fields


@pytest.mark.parametrize(
    "fields",
    [
        {"files": []},
        {"files": [_file("b"), _file("a")]},
        {"files": [_file("a"), _file("a")]},
        {"files": [_file("a"), _file("a/b")]},
        {"files": [_file("a", size=-1)]},
        {"files": [_file("a", size=1 << 43)]},
        {"files": [_file("a", root=b"r" * 31)]},
        {"files": [_file("a", layout="pickle")]},
        {"files": [_file(f"f{n:05}") for n in range(MAX_FILES + 1)]},
        {"name": ""},
        {"name": "x" * 129},
        {"name": "a\x1b[31mred"},
        {"description": "x" * (MAX_DESCRIPTION + 1)},
        {"description": "a\x1b[31mred"},
        {"depends_on": [CID, CID]},
        {"depends_on": [b"x" * 36]},
        {"depends_on": [cid_of(bytes([n])) for n in range(MAX_DEPENDS + 1)]},
        {"kind": "dataset"},
    ],
)
def test_models_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        decode_manifest(_change(MODEL, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "expert7"},
        {"name": "layer04.expert7"},
        {"name": "../layer4.expert7"},
        {"name": "layer4.expert7\n"},
        {"name": "layer4.expert\u0667"},
        {"tensors": []},
        {"tensors": [{"file": 0, "section": 0}]},
        {"tensors": [{"file": 1, "section": 1}, {"file": 0, "section": 3}]},
        {"tensors": [{"file": 0, "section": 3}] * 2},
        {"tensors": [{"file": MAX_FILES, "section": 3}]},
        {"depends_on": [CID]},
        {"model": b"m" * 36},
    ],
)
def test_experts_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        decode_manifest(_change(EXPERT, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 0},
        {"rank": MAX_RANK + 1},
        {"rank": 200_000},
        {"alpha_milli": 10**15},
        {"alpha_milli": 0},
        {"alpha_milli": 1.5},
        {"base": b"b" * 36},
        {"target_modules": []},
        {"target_modules": ["(a+)+$"]},
        {"target_modules": [".*proj"]},
        {"target_modules": ["v_proj", "q_proj"]},
        {"target_modules": ["q_proj"] * 2},
        {"target_experts": ["lm_head"]},
        {"file": _file("adapter.safetensors")},
        {"file": _file("adapter_model.bin", layout="safetensors")},
        {"author": b"a" * 38},
        {"approved_by_human": 1},
        {"name": "a\nb"},
    ],
)
def test_adapters_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises((MalformedError, PickleRefusedError)):
        decode_manifest(_change(ADAPTER, **fields))


def _claim(**fields: object) -> dict[str, object]:
    claim = {"metric": "latency", "unit": "us", "workload": "w", "value": 1, "baseline": 2}
    return claim | fields


@pytest.mark.parametrize(
    "fields",
    [
        {"benchmarks": []},
        {"benchmarks": [_claim(), _claim(value=2)]},
        {"benchmarks": [_claim(workload="x"), _claim(workload="w")]},
        {"benchmarks": [_claim(value=1 << 54)]},
        {"benchmarks": [_claim(value=1.5)]},
        {"benchmarks": [_claim(unit="\x1b[2J")]},
        {"operation": "Swi Glu"},
        {"architecture": ""},
        {"language": "C++"},
        {"file": _file("k.cpp", size=0)},
        {"author": AUTHOR[:-1]},
    ],
)
def test_kernels_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        decode_manifest(_change(KERNEL, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"slot": "../eviction"},
        {"abi": 0},
        {"module": _file("eviction.wasm", size=0)},
        {"module": _file("eviction.wasm", size=(1 << 20) + 1)},
        {"module": _file("eviction.wasm", layout="safetensors")},
        {"module": _file("eviction.rs")},
        {"source": _file("eviction.rs", size=0)},
        {"source": _file("eviction.rs", size=(4 << 20) + 1)},
        {"source": _file("../eviction.rs")},
        {"module_hash": bytes(31)},
        {"source_hash": ""},
        {"language": "Rust"},
        {"tools": [{"name": "b", "version": "1"}, {"name": "a", "version": "1"}]},
        {"tools": [{"name": "a", "version": "1"}] * 2},
        {"tools": [{"name": "a", "version": "\x1b[2J"}]},
        {"tools": [{"name": f"{n:02}", "version": "1"} for n in range(17)]},
        {"evidence": [_claim(), _claim(value=2)]},
        {"author": AUTHOR[:-1]},
        {"depends_on": [CID, CID]},
    ],
    ids=str,
)
def test_upgrades_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        decode_manifest(_change(UPGRADE, **fields))


def test_contradictions_have_their_own_error() -> None:
    with pytest.raises(BadManifestError, match="lies below another file"):
        decode_manifest(_change(MODEL, files=[_file("a"), _file("a/b")]))
    with pytest.raises(BadManifestError, match="is a pattern"):
        decode_manifest(_change(ADAPTER, target_modules=[".*"]))


def test_the_largest_model_fits_a_block_or_says_so() -> None:
    refs = tuple(
        FileRef(path=f"model-{n:05}-of-04096.safetensors", size=n, root=b"r" * 32, layout="flat")
        for n in range(MAX_FILES)
    )
    model = ModelManifest(name="m", description="", files=refs, depends_on=())
    assert len(encode_manifest(model)) <= MAX_BLOCK
    long = tuple(
        FileRef(path=f"{'x' * 240}{n:05}", size=n, root=b"r" * 32, layout="flat")
        for n in range(MAX_FILES)
    )
    with pytest.raises(LimitError, match="import parts"):
        encode_manifest(ModelManifest(name="m", description="", files=long, depends_on=()))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""}, {"name": "a\x1bb"}, {"files": []}, {"files": [_file("b"), _file("a")]},
        {"files": [_file("../a")]}, {"files": [_file("a"), _file("a/b")]},
        {"files": [_file("data.pkl")]}, {"description": "x" * 4097},
    ],
    ids=str,
)  # fmt: skip
def test_datasets_that_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises((MalformedError, PickleRefusedError)):
        decode_manifest(_change(DATASET, **fields))
