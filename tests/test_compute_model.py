"""Generating: transformers' own answers, from mapped pages. contract K7, K17, L4, M14."""

import ctypes
import json
import math
import mmap
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from synapsed.compute import wire
from synapsed.compute.errors import BadDataError, BadModelError, UnknownKindError
from synapsed.computeworker import kinds
from synapsed.computeworker.data import load_text, window_count
from synapsed.computeworker.device import Device
from synapsed.computeworker.evaluate import losses_of
from synapsed.computeworker.files import ModelFiles
from synapsed.computeworker.gate import Task
from synapsed.computeworker.generate import Sampling, generate
from synapsed.computeworker.mapped import Model, open_model
from synapsed.computeworker.newmodel import new_model
from synapsed.computeworker.tokens import ByteTokens
from tests.compute_kit import (
    TEXT,
    Files,
    files_of,
    moe_config,
    moe_tensors,
    small_moe,
    text_file,
    write_moe,
)

PAGE = mmap.PAGESIZE
LIKELIEST = Sampling(0, 0)


def _opened(files: Files) -> Model:
    given = [wire.ModelFile(name, str(path)) for name, path in files]
    return open_model(ModelFiles(given), Device("cpu", 0, 1))


def _losses(module: Any, numbers: range = range(12)) -> list[float]:
    return losses_of(module, ByteTokens().encode(TEXT), 32, numbers, lambda: None)


def _said(model: Model, prompt: str, tokens: int, sampling: Sampling = LIKELIEST) -> str:
    return "".join(generate(model, prompt, tokens, sampling, Task()))


@pytest.mark.parametrize("kind", ["mixtral", "olmoe"])
@pytest.mark.parametrize("layout", ["one tensor an expert", "fused", "two shards"])
def test_a_mapped_model_says_what_transformers_says(
    tmp_path: Path, kind: str, layout: str, capfd: pytest.CaptureFixture[str]
) -> None:
    files = small_moe(
        tmp_path, kind, fused=layout == "fused", shards=2 if layout == "two shards" else 1
    )
    mapped = _opened(files)
    assert mapped.copied == 0
    config_class, model_class = kinds.KINDS[kind]
    plain = model_class.from_pretrained(
        tmp_path, config=config_class.from_pretrained(tmp_path), experts_implementation="eager"
    ).eval()
    capfd.readouterr()  # its progress bar
    assert _losses(mapped.module) == pytest.approx(_losses(plain), rel=1e-6)
    ids = torch.tensor([list(b"It was the ")])
    greedy = plain.generate(ids, max_new_tokens=24, do_sample=False, use_cache=True)
    expected = bytes(greedy[0, ids.shape[1] :].tolist()).decode(errors="replace")
    assert _said(mapped, "It was the ", 24) == expected


def test_weights_of_half_the_width_are_computed_with_as_they_are(tmp_path: Path) -> None:
    model = _opened(small_moe(tmp_path, dtype="BF16"))
    assert model.copied == 0
    assert next(model.module.parameters()).dtype == torch.bfloat16
    assert all(math.isfinite(loss) for loss in _losses(model.module))


def _forgotten(path: Path) -> None:
    """Have the kernel drop what it cached of a file: only what is read again is in memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident(path: Path) -> list[bool]:
    """Which pages of a file are in memory."""
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = numpy.frombuffer(mapping, dtype=numpy.uint8)
    answer = ctypes.create_string_buffer(-(-len(view) // PAGE))
    libc = ctypes.CDLL(None, use_errno=True)
    where, size = ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view))
    assert libc.mincore(where, size, answer) == 0
    return [bool(byte & 1) for byte in answer.raw]


@pytest.mark.parametrize("chosen", [1, 2, 4])
def test_only_the_experts_that_a_prompt_touches_become_resident(
    tmp_path: Path, chosen: int
) -> None:
    """Counted in the page cache: k of 16 experts a layer, and little of the others."""
    config = moe_config(
        hidden_size=128, intermediate_size=512, num_local_experts=16, num_experts_per_tok=chosen
    )
    files = write_moe(tmp_path, config, moe_tensors(config))
    path = dict(files)["model.safetensors"]
    _forgotten(path)
    assert sum(_resident(path)) == 0
    model = _opened(files)
    opening = sum(_resident(path))
    touched: set[tuple[int, int]] = set()
    for at, layer in enumerate(model.module.model.layers):

        def note(_: Any, given: Any, at: int = at) -> None:
            touched.update((at, int(expert)) for expert in given[1].unique())

        layer.mlp.experts.register_forward_pre_hook(note)
    _said(model, "a", 1)
    pages = _resident(path)
    assert len(touched) == 2 * chosen
    read = 0
    for info in (
        ModelFiles([wire.ModelFile("model.safetensors", str(path))]).headers()[0][1].tensors
    ):
        parts = info.name.split(".")
        if "experts" in parts:
            inside = pages[-(-info.start // PAGE) : info.stop // PAGE]
            assert all(inside) or (int(parts[2]), int(parts[5])) not in touched, info.name
            read += sum(inside)
    expert = 3 * 512 * 128 * 4 // PAGE
    # A matrix begins and ends within a page; its neighbour's part of that is not counted.
    assert expert * len(touched) * 0.98 <= read <= expert * len(touched)
    assert opening <= len(pages) - 32 * expert + 16  # the header, and what every token needs
    assert len(pages) > 32 * expert  # of which most were never read


def _without(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tensors.items() if key != name}


def test_files_that_make_no_model_are_refused_with_what_is_wrong(tmp_path: Path) -> None:
    config = moe_config()
    tensors = moe_tensors(config)
    gate, norm = "model.layers.1.block_sparse_moe.gate.weight", "model.norm.weight"
    expert = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    more = {"model.layers.0.block_sparse_moe.experts.8.w2.weight": tensors[expert]}
    narrow = {norm: tensors[norm][:-1]}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (config, _without(tensors, gate), "no tensor model.layers.1.mlp.gate.weight"),
        (config, _without(tensors, expert), r"no tensor .*down_proj\[3\].down"),
        (config, tensors | more, "no place for"),
        (config, tensors | narrow, "model.norm.weight is"),
        (config | {"hidden_size": 1 << 40}, tensors, "hidden_size is"),
        (config | {"num_hidden_layers": True}, tensors, "num_hidden_layers is"),
        (config | {"hidden_act": "os.system"}, tensors, "makes no model"),
        (config | {"vocab_size": 255}, tensors, "whose vocabulary is not the 256 bytes"),
    ]
    for at, (fields, values, what) in enumerate(cases):
        files = write_moe(tmp_path / str(at), fields, values)
        with pytest.raises(BadModelError, match=what):
            _opened(files)
    with pytest.raises(UnknownKindError, match="'gpt2'"):
        _opened(write_moe(tmp_path / "k", config | {"model_type": "gpt2"}, tensors))
    files = small_moe(tmp_path / "c")
    with pytest.raises(BadModelError, match=r"without config.json"):
        _opened([pair for pair in files if pair[0] != "config.json"])
    (tmp_path / "c" / "config.json").write_text("{")
    with pytest.raises(BadModelError, match="not JSON"):
        _opened(files)
    (tmp_path / "c" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BadModelError):
        _opened(files)


def test_a_config_that_brings_code_brings_nothing(tmp_path: Path) -> None:
    """`auto_map` names Python files: transformers runs them only where it is asked to."""
    config = moe_config(auto_map={"AutoConfig": "evil.Config"}, trust_remote_code=True)
    files = write_moe(tmp_path, config, moe_tensors(moe_config()))
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    assert _opened(files).parameters > 0


def test_a_new_model_is_the_same_for_a_seed_and_transformers_reads_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        new_model("tiny-moe", str(tmp_path / name), seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["model_type"] == "mixtral"
    plain = kinds.KINDS["mixtral"][1].from_pretrained(tmp_path / "a").eval()
    capfd.readouterr()
    model = _opened(files_of(tmp_path / "a"))
    assert sum(each.numel() for each in plain.parameters()) == model.parameters == 262_976
    assert _losses(plain) == pytest.approx(_losses(model.module), rel=1e-6)


def test_generating_depends_on_the_seed_and_goes_on_beyond_the_context(tmp_path: Path) -> None:
    config = moe_config(max_position_embeddings=16)
    model = _opened(write_moe(tmp_path, config, moe_tensors(config)))
    warm = [_said(model, "x", 40, Sampling(1.0, seed)) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    assert len(warm[0].encode(errors="replace")) >= 40
    long = _said(model, "y" * 100, 20)  # a prompt beyond the context is read from its end
    assert long == _said(model, "y" * 16, 20)


def test_a_character_is_said_when_it_is_whole() -> None:
    stream = ByteTokens().stream()
    pieces = [stream.push(byte) for byte in "für €".encode()]
    assert pieces == ["f", "", "ü", "r", " ", "", "", "€"]
    assert stream.push(0xE2) + stream.end() == "�"


def test_a_models_own_tokenizer_is_used(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e")]
    vocabulary = {word: at for at, word in enumerate([*alphabet, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = moe_config(vocab_size=258)
    tensors = moe_tensors(config)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = numpy.concatenate([tensors[name], tensors[name][:2]])
    write_moe(tmp_path, config, tensors)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = _opened(files_of(tmp_path))
    assert model.tokens.prompt("the €") == tokenizer.encode("the €").ids
    assert len(model.tokens.encode(b"the the")) == 3
    stream = model.tokens.stream()
    ids = tokenizer.encode("the für € " * 9).ids
    assert "".join([*map(stream.push, ids), stream.end()]) == "the für € " * 9
    with pytest.raises(BadModelError, match="from nothing"):
        model.tokens.prompt("")
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(BadModelError, match=r"tokenizer.json"):
        _opened(files_of(tmp_path))


def test_texts_are_read_in_order_and_windows_counted(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"second")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.md").write_bytes(b"first")
    (tmp_path / "weights.bin").write_bytes(b"no text")
    text = load_text(str(tmp_path), ByteTokens())
    assert bytes(text.tolist()) == b"first\nsecond"
    assert [window_count(text, context) for context in (2, 5, 11, 12)] == [5, 2, 1, 0]
    with pytest.raises(BadDataError, match="no texts"):
        load_text(str(_empty(tmp_path)), ByteTokens())
    with pytest.raises(BadDataError, match="No such file"):
        load_text(str(tmp_path / "none"), ByteTokens())


def test_what_is_no_text_is_not_learned_from(tmp_path: Path) -> None:
    """Whoever names a picture by a slip would teach everybody noise; a judge reads what it is."""
    (tmp_path / "holiday.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(BadDataError, match=r"holiday.txt is no text"):
        load_text(str(tmp_path), ByteTokens(), to_learn=True)
    assert load_text(str(tmp_path), ByteTokens()).numel() == 16
    (tmp_path / "holiday.txt").write_text("Großes Glück")
    assert load_text(str(tmp_path), ByteTokens(), to_learn=True).numel() == 14


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_a_window_that_the_text_does_not_have_is_refused(tmp_path: Path) -> None:
    model = _opened(small_moe(tmp_path))
    text = load_text(str(text_file(tmp_path)), ByteTokens())
    last = window_count(text, 32) - 1
    assert len(losses_of(model.module, text, 32, [last], lambda: None)) == 1
    with pytest.raises(BadDataError, match="beyond"):
        losses_of(model.module, text, 32, [last + 1], lambda: None)
