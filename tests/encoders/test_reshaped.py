"""Other poolings, fewer layers, narrower vectors, both directions: closed forms, and the folder gives the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, normalize

import counterpoint
from counterpoint.encoders.folder import save
from counterpoint.encoders.pooling import LatentAttention
from counterpoint.encoders.reshaped import MODES, bidirectional, pooled, truncated
from counterpoint.encoders.static import Sizes, fresh_static
from counterpoint.encoders.text import embed, load
from counterpoint.encoders.tiny import LONGEST, SPECIAL
from counterpoint.errors import Refusal
from counterpoint.verbs.reshape import truncate

from ..conftest import WORDS, toy_rows
from .test_text import COMPAT, TEXTS, encode_elsewhere, nudged


def states_of(encoder: torch.nn.Module, text: str) -> torch.Tensor:
    features = encoder.model.preprocess([text])
    return encoder.model[0](features)["token_embeddings"][0]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def decoder(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with random weights and the words of the tiny model."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

    folder = tmp_path_factory.mktemp("decoders") / request.param
    sizes = {
        "vocab_size": len(WORDS) + len(SPECIAL),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
    }
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": LONGEST, "head_dim": 8}
    torch.manual_seed(0)
    if request.param == "llama":
        LlamaModel(LlamaConfig(**sizes)).save_pretrained(folder)
    else:
        Qwen3Model(Qwen3Config(**sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MODES)
def test_each_pooling_is_its_formula(name: str, tiny: Path) -> None:
    encoder = pooled(load(str(tiny)).eval(), name)  # type: ignore[arg-type]
    h = states_of(encoder, "q1 d1 w1")
    places = torch.arange(1, len(h) + 1)[:, None]
    wanted = {
        "mean": h.mean(0),
        "cls": h[0],
        "last": h[-1],
        "max": h.amax(0),
        "weighted": (h * places).sum(0) / places.sum(),
    }
    assert torch.allclose(encoder(["q1 d1 w1 w2 w3", "q1 d1 w1"])[1], wanted[name], atol=1e-5)


@pytest.mark.parametrize("name", ["weighted", "last"])
def test_sentence_transformers_pools_as_we_do(name: str, tiny: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = truncated(pooled(nudged(tiny), name), layers=1, width=12)  # type: ignore[arg-type]
    save(encoder, tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert np.abs(theirs.encode(TEXTS, normalize_embeddings=True) - embed(encoder, TEXTS).numpy()).max() < 1e-5
    assert torch.allclose(embed(load(tmp_path / "model"), TEXTS), embed(encoder, TEXTS), atol=1e-5)


def test_the_older_one_reads_poolings_cut_models_and_tables(tiny: Path, tmp_path: Path) -> None:
    if not (COMPAT / ".ready").exists():
        pytest.skip("the older sentence-transformers is not installed: make compat")
    short = truncated(pooled(nudged(tiny), "last"), layers=1, width=12)
    for name, encoder in (("short", short), ("table", fresh_static(TEXTS, Sizes(width=8)))):
        save(encoder, tmp_path / name)
        version, vectors = encode_elsewhere(tmp_path / name, TEXTS, old=True)
        assert version.startswith("5.3")
        assert np.abs(vectors - embed(encoder, TEXTS).numpy()).max() < 1e-5


def test_tokens_of_an_instruction_can_be_left_out(tiny: Path, tmp_path: Path) -> None:
    for pooling in ("mean", "latent"):
        whole = load(str(tiny), prompts={"anchor": "w1 w2 "}).eval()
        encoder = pooled(whole, pooling, include_prompt=False, latents=4, heads=4).eval()  # type: ignore[arg-type]
        kept = states_of(encoder, "w1 w2 q1 d1")[3:]  # without the beginning and two words of the instruction
        pool = encoder.model[1]
        wanted = kept.mean(0) if pooling == "mean" else pool.answers(kept[None])[0].mean(0)
        assert torch.allclose(encoder(["q1 d1", "q1"])[0], wanted, atol=1e-5)
        save(encoder, tmp_path / pooling)
        assert torch.allclose(load(tmp_path / pooling).eval()(["q1 d1"])[0], wanted, atol=1e-5)


@pytest.mark.proves(row=266, fact="closed-form")
def test_latent_attention_is_its_formula() -> None:
    torch.manual_seed(0)
    pool = LatentAttention(4, latents=3, heads=2)
    states = torch.randn(1, 2, 4)
    heads = []
    for half in (slice(0, 2), slice(2, 4)):
        queries, keys = states[0, :, half], pool.dictionary[:, half]
        heads.append((queries @ keys.T / 2**0.5).softmax(-1) @ keys)
    wanted = pool.outer(gelu(pool.inner(torch.cat(heads, 1)))).mean(0)
    assert torch.allclose(pool({"token_embeddings": states})["sentence_embedding"][0], wanted, atol=1e-6)


def test_latent_attention_knows_no_order_and_no_padding_and_one_latent_knows_nothing() -> None:
    torch.manual_seed(0)
    pool, one = LatentAttention(8, latents=5, heads=2), LatentAttention(8, latents=1, heads=2)
    states, mask = torch.randn(2, 6, 8), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])

    def of(pool: LatentAttention, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return pool({"token_embeddings": states, "attention_mask": mask})["sentence_embedding"]

    z = of(pool, states, mask)
    assert torch.allclose(z[:1], of(pool, states[:1, :4], mask[:1, :4]), atol=1e-6)
    assert torch.allclose(z[:1], of(pool, states[:1, [2, 0, 3, 1]], mask[:1, :4]), atol=1e-6)
    assert torch.allclose(z[:1], of(pool, states[:1].flip(1), mask[:1].flip(1)), atol=1e-6)  # padding on the left
    same = of(one, states, mask)
    assert torch.allclose(same[0], same[1], atol=1e-6)
    assert not torch.allclose(z[0], z[1], atol=1e-3)


def test_latent_attention_is_saved_and_says_whose_it_is(tiny: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = pooled(load(str(tiny)), "latent", latents=4, heads=4)
    with torch.no_grad():
        encoder.model[1].dictionary.add_(0.1)
    save(encoder, tmp_path / "model")
    again = load(tmp_path / "model")
    assert torch.allclose(embed(again, TEXTS), embed(encoder, TEXTS), atol=1e-6)
    with pytest.raises(ValueError, match=r"counterpoint\.encoders\.pooling\.LatentAttention"):
        SentenceTransformer(str(tmp_path / "model"), device="cpu")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    assert np.allclose(theirs.encode(TEXTS, normalize_embeddings=True), embed(encoder, TEXTS).numpy(), atol=1e-5)


def test_a_decoder_reads_in_both_directions_only_when_asked(decoder: Path, tmp_path: Path) -> None:
    encoder = load(decoder).eval()
    both = bidirectional(encoder).eval()
    save(both, tmp_path / "model")
    again = load(tmp_path / "model").eval()
    for model, sees in ((encoder, False), (both, True), (again, True)):
        first, second = (states_of(model, text)[0] for text in ("q1 d1 w1", "q1 d1 w2"))
        assert torch.equal(first, second) is not sees
    assert torch.allclose(both(TEXTS[:5]), again(TEXTS[:5]), atol=1e-6)
    long, short = both(["q1 d1 w1 w1 w1 w1", "q1"]), both(["q1"])
    assert torch.allclose(long[1], short[0], atol=1e-5)  # padding is not seen


def test_first_layers_are_what_the_whole_model_has_there(tiny: Path) -> None:
    encoder = load(str(tiny)).eval()
    short = truncated(encoder, layers=1)
    features = encoder.model.preprocess(["q1 d1 w1"])
    hidden = encoder.model[0].auto_model(
        **{k: features[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True
    )
    assert torch.allclose(short(["q1 d1 w1"])[0], hidden.hidden_states[1][0].mean(0), atol=1e-5)
    assert not [name for name, _ in short.named_parameters() if "layer.1." in name]


def test_a_decoder_keeps_its_last_norm(decoder: Path) -> None:
    encoder = load(decoder).eval()
    backbone = encoder.model[0].auto_model
    features = encoder.model.preprocess(["q1 d1 w1"])
    hidden = backbone(**{k: features[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True)
    wanted = backbone.norm(hidden.hidden_states[2])[0].mean(0)
    assert torch.allclose(truncated(encoder, layers=2).eval()(["q1 d1 w1"])[0], wanted, atol=1e-5)


def test_a_narrow_vector_is_a_prefix(tiny: Path) -> None:
    encoder, table = load(str(tiny)).eval(), fresh_static(TEXTS, Sizes(width=8))
    assert torch.allclose(truncated(encoder, width=5)(TEXTS), encoder(TEXTS)[:, :5], atol=1e-6)
    assert torch.equal(truncated(table, width=3)(TEXTS), table(TEXTS)[:, :3])
    assert truncated(table, width=3).model[0].embedding.weight.shape[1] == 3


def test_a_model_that_scales_scales_anew(tiny: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    whole = load(str(tiny))
    SentenceTransformer(modules=[*whole.model, Normalize()]).save(str(tmp_path / "base"))
    encoder = load(tmp_path / "base").eval()
    z = truncated(encoder, width=5)(TEXTS)
    assert torch.allclose(z, normalize(encoder(TEXTS)[:, :5]), atol=1e-6)


def test_what_does_not_fit_is_refused(tiny: Path) -> None:
    encoder, table = load(str(tiny)), fresh_static(TEXTS, Sizes(width=8))
    for call, words in (
        (lambda: pooled(table, "mean"), "a transformer with a pooling module"),
        (lambda: pooled(encoder, "latent", heads=5), "heads that divide the width 32"),
        (lambda: truncated(encoder, layers=3), "from 1 to 2 layers"),
        (lambda: truncated(encoder, width=33), "a width from 1 to 32"),
        (lambda: truncated(table, layers=1), "a transformer for --layers"),
        (lambda: bidirectional(table), "a transformer to read"),
    ):
        with pytest.raises(Refusal, match=words):
            call()


def test_truncate_writes_a_folder_or_nothing(tiny: Path, tmp_path: Path) -> None:
    out = truncate(tiny, tmp_path / "out", layers=1, width=8, quiet=True)
    wanted = truncated(load(str(tiny)), layers=1, width=8)
    assert torch.allclose(embed(load(out), TEXTS), embed(wanted, TEXTS), atol=1e-6)
    for given, words in (({}, "neither"), ({"layers": 5}, "layers")):
        with pytest.raises(Refusal, match=words):
            truncate(tiny, tmp_path / "other", quiet=True, **given)
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_fit_trains_with_another_pooling(tiny: Path, tmp_path: Path) -> None:
    settings = {"steps": 3, "batch": 32, "quiet": True, "precision": "fp32"}
    run = counterpoint.fit(toy_rows(200), model=str(tiny), pooling="cls", out=str(tmp_path / "run"), **settings)
    assert load(run.path).model[1].pooling_mode == "cls"
    with pytest.raises(Refusal, match="a pooling"):
        counterpoint.fit(toy_rows(200), model=str(tiny), pooling="sum", **settings)


def test_a_reshaped_model_keeps_its_prompts_and_whether_it_trains(tiny: Path) -> None:
    encoder = load(str(tiny), prompts={"anchor": "w1 w2 "}, lengths={"positive": 5})
    for training in (True, False):
        for new in (pooled(encoder.train(training), "cls"), truncated(encoder, layers=1)):
            assert new.training is training
            assert (new.prompts, new.lengths) == (encoder.prompts, encoder.lengths)


def test_the_first_layers_keep_their_kinds(tmp_path: Path, tiny: Path) -> None:
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    config = Qwen3Config(
        vocab_size=len(WORDS) + len(SPECIAL), num_key_value_heads=2, max_position_embeddings=LONGEST,
        use_sliding_window=True, sliding_window=4, layer_types=kinds, **sizes,
    )  # fmt: skip
    Qwen3Model(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    short = truncated(load(tmp_path), layers=2)
    assert short.model[0].auto_model.config.layer_types == kinds[:2]
