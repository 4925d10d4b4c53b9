"""Text encoders: rows are independent, prompts and lengths work, the saved folder is the base with other weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from counterpoint.bundled import MINILM, carried
from counterpoint.encoders.folder import save
from counterpoint.encoders.passes import CHUNK
from counterpoint.encoders.text import embed, load, missing_prompts
from counterpoint.errors import Refusal

TEXTS = [f"q{i} d{i % 7} w{i}" + " w1" * (i % 5) for i in range(CHUNK + 9)]
COMPAT = Path(__file__).parents[2] / ".compat"
ENCODE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import sentence_transformers
model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
texts, prompt = json.loads(sys.argv[2])
vectors = model.encode(texts, prompt=prompt or None, normalize_embeddings=True)
print(json.dumps([sentence_transformers.__version__, vectors.tolist()]))
"""


def encode_elsewhere(folder: Path, texts: list[str], *, old: bool, prompt: str = "") -> tuple[str, np.ndarray]:
    """The vectors that a sentence-transformers of its own process makes of a folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **({"PYTHONPATH": str(COMPAT)} if old else {})}
    arguments = [sys.executable, "-c", ENCODE, str(folder), json.dumps([texts, prompt])]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    version, vectors = json.loads(done.stdout.splitlines()[-1])
    return version, np.array(vectors)


def nudged(folder: str | Path, **kwargs: object) -> torch.nn.Module:
    """An encoder whose weights differ from its folder's, as after training."""
    encoder = load(str(folder), **kwargs)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
    return encoder


def test_rows_do_not_depend_on_their_neighbours_or_their_order(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    whole = encoder(TEXTS)
    for i in (0, 3, CHUNK, len(TEXTS) - 1):
        assert torch.allclose(encoder([TEXTS[i]])[0], whole[i], atol=1e-5)
    assert torch.allclose(encoder(TEXTS[::-1]), whole.flip(0), atol=1e-5)


def test_embed_gives_unit_rows_in_the_order_of_the_texts(tiny: Path) -> None:
    encoder = load(str(tiny))
    z = embed(encoder, TEXTS, batch=5)
    assert torch.allclose(z.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-6)
    assert torch.allclose(z, embed(encoder, TEXTS, batch=64), atol=1e-5)


def test_lengths_cut_and_prompts_are_put_before(tiny: Path) -> None:
    encoder = load(str(tiny), lengths={"anchor": 4}, prompts={"positive": "q1 "}).eval()
    assert torch.allclose(encoder(["q1 d1 w1"], "anchor"), encoder(["q1 d1 w9"], "anchor"), atol=1e-6)
    assert not torch.allclose(encoder(["q1 d1 w1"], "positive"), encoder(["q1 d1 w9"], "positive"), atol=1e-3)
    assert torch.allclose(encoder(["d1"], "positive"), load(str(tiny)).eval()(["q1 d1"]), atol=1e-6)
    assert encoder.count_tokens(["q1 d1 w1"], "anchor") == [5]


def test_no_dropout_makes_two_passes_equal(tiny: Path) -> None:
    encoder = load(str(tiny)).train()
    assert encoder.dropout == pytest.approx(0.1)
    assert not torch.allclose(encoder(TEXTS), encoder(TEXTS))
    encoder.set_dropout(0.0)
    assert encoder.dropout == 0
    assert torch.allclose(encoder(TEXTS), encoder(TEXTS))


@pytest.mark.parametrize("old", [False, True], ids=["newest", "5.3"])
@pytest.mark.parametrize("base", ["backbone", "minilm"])
def test_sentence_transformers_old_and_new_load_what_we_save(base: str, old: bool, tiny: Path, tmp_path: Path) -> None:
    if old and not (COMPAT / ".ready").exists():
        pytest.skip("the older sentence-transformers is not installed: make compat")
    if base == "minilm" and carried(MINILM) is None:
        pytest.skip("the [minilm] extra is not installed")
    encoder = nudged(tiny if base == "backbone" else MINILM)
    save(encoder, tmp_path / "model")
    version, vectors = encode_elsewhere(tmp_path / "model", TEXTS, old=old)
    assert version.startswith("5.3") == old
    assert np.abs(vectors - embed(encoder, TEXTS).numpy()).max() < 1e-5
    assert np.abs(vectors - embed(load(str(tiny) if base == "backbone" else MINILM), TEXTS).numpy()).max() > 1e-3


def test_only_weights_change_in_a_saved_folder(tmp_path: Path) -> None:
    base = carried(MINILM)
    if base is None:
        pytest.skip("the [minilm] extra is not installed")
    save(nudged(MINILM), tmp_path / "model")
    names = {p.relative_to(base) for p in base.rglob("*") if p.is_file()}
    saved = {p.relative_to(tmp_path / "model") for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert saved == names
    changed = {str(n) for n in names if (base / n).read_bytes() != (tmp_path / "model" / n).read_bytes()}
    assert changed == {"model.safetensors"}
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert {k: v.dtype for k, v in new.items()} == {k: v.dtype for k, v in old.items() if k in new}


def test_prompts_are_saved_under_the_names_that_the_library_uses(tiny: Path, tmp_path: Path) -> None:
    save(load(str(tiny), prompts={"anchor": "q1 "}), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config_sentence_transformers.json").read_text())
    assert config["prompts"] == {"query": "q1 "}
    again = load(str(tmp_path / "model"))
    assert again.prompts == {"anchor": "q1 ", "positive": ""}
    _, vectors = encode_elsewhere(tmp_path / "model", ["d1"], old=False, prompt="q1 ")
    assert np.abs(vectors - embed(again, ["d1"]).numpy()).max() < 1e-5


def test_half_precision_weights_are_saved_as_such(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tiny).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "half")
    encoder = load(str(tmp_path / "half"))
    assert next(encoder.parameters()).dtype == torch.float32
    save(encoder, tmp_path / "model")
    assert {t.dtype for t in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}


def test_no_other_weights_are_copied(tiny: Path, tmp_path: Path) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    (base / "onnx").mkdir()
    for stale in ("pytorch_model.bin", "onnx/model.onnx", "tf_model.h5"):
        (base / stale).write_bytes(b"stale")
    save(load(str(base)), tmp_path / "model")
    assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".bin", ".onnx", ".h5")]


def test_a_local_folder_never_touches_the_network(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    save(load(str(tiny)), tmp_path / "model")
    assert embed(load(str(tmp_path / "model")), TEXTS).shape == (len(TEXTS), 32)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("intfloat/e5-small-v2", "passage: "),
        ("BAAI/bge-small-en-v1.5", "Represent"),
        ("Qwen/Qwen3-Embedding-0.6B", "Instruct"),
    ],
)
def test_families_that_need_prompts_are_known(name: str, words: str, tiny: Path) -> None:
    assert words in (missing_prompts(load(str(tiny)), name) or "")
    assert missing_prompts(load(str(tiny), prompts={"anchor": "query: "}), name) is None


def test_other_models_need_none(tiny: Path) -> None:
    assert missing_prompts(load(str(tiny)), MINILM) is None


def test_a_name_that_is_not_cached_is_refused_offline() -> None:
    with pytest.raises(Refusal, match="HF_HUB_OFFLINE"):
        load("nobody/no-such-model")
