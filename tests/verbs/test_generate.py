"""`generate`: what is asked, what is kept, what is refused; no test reaches further than this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from counterpoint.cli import app
from counterpoint.data.generated import Kept, endpoint
from counterpoint.data.prompts import EXAMPLES, WORDINGS, Ask, prompt_of
from counterpoint.errors import Refusal
from counterpoint.verbs.generate import generate

TEXTS = ["it is late", "a big house near the station", "trains are fast", "14 dogs chase cats"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + "\n".join(TEXTS) + "\n")
    return path


class Server:
    """An OpenAI-compatible server of this machine that answers by a function of the prompt."""

    def __init__(self) -> None:
        self.answer: Callable[[str], object] = lambda prompt: f"said of {prompt.splitlines()[-2]}"
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body | {"path": self.path})
                server.keys.append(self.headers.get("Authorization"))
                said = server.answer(body["messages"][0]["content"])
                code, payload = said if isinstance(said, tuple) else (200, said)
                if code == 200 and isinstance(payload, str):
                    payload = {"choices": [{"message": {"content": payload}}]}
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(payload).encode())

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def test_triples_by_rules_train_as_they_are(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "made.parquet"
    done = CliRunner().invoke(app, ["generate", str(table), "--out", str(out)])
    assert done.exit_code == 0, done.output
    frame = pl.read_parquet(out)
    assert frame.columns == ["anchor", "positive", "negative"]
    assert frame["anchor"].to_list() == TEXTS
    assert frame["negative"].to_list()[0] == "it is not late"
    assert frame["positive"].to_list()[1] in ("a large house near the station", "a large house close to the station")
    assert list(tmp_path.glob("*answers*")) == []  # rules need not be kept


def test_a_server_is_asked_with_its_settings_and_only_once(
    table: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(prompt: str) -> str:
        kind = next(k for k, wordings in WORDINGS.items() if prompt.startswith(wordings))
        return f'"{kind} of {prompt.splitlines()[-2].removeprefix("Sentence: ")}"\nand more'

    server.answer = answer
    monkeypatch.setenv("SECRET", "hunter-two")
    out = tmp_path / "made.jsonl"
    line = ["generate", str(table), "--out", str(out), "--with", server.url, "--model", "small", "--key-from", "SECRET"]
    assert CliRunner().invoke(app, [*line, "--temperature", "0.2", "--tokens", "9"]).exit_code == 0
    frame = pl.read_ndjson(out)
    assert frame.rows() == [(t, f"positive of {t}", f"negative of {t}") for t in TEXTS]
    assert {(a["path"], a["model"], a["temperature"], a["max_tokens"]) for a in server.asked} == {
        ("/v1/chat/completions", "small", 0.2, 9)
    }
    assert set(server.keys) == {"Bearer hunter-two"}
    kept = tmp_path / "made.jsonl.answers.jsonl"
    assert "hunter-two" not in kept.read_text()
    count = len(server.asked)
    assert count == 2 * len(TEXTS)
    out.unlink()
    assert CliRunner().invoke(app, [*line, "--temperature", "0.2", "--tokens", "9"]).exit_code == 0
    assert len(server.asked) == count
    out.unlink()
    assert CliRunner().invoke(app, [*line, "--temperature", "0.9", "--tokens", "9"]).exit_code == 0
    assert len(server.asked) == 2 * count  # other settings, other answers


def test_a_server_that_fails_loses_nothing_that_was_answered(table: Path, tmp_path: Path, server: Server) -> None:
    rows = [{"text": f"text number {i} is here"} for i in range(20)]
    seen: list[str] = []

    def until_it_breaks(prompt: str) -> object:
        seen.append(prompt)
        return (400, "no more") if len(seen) > 25 else f"said {len(seen)}"

    server.answer = until_it_breaks
    out, cache = tmp_path / "made.parquet", tmp_path / "kept.jsonl"
    with pytest.raises(Refusal, match="400"):
        generate(rows, with_=server.url, out=out, cache=cache, quiet=True)
    assert not out.exists()
    answered = len(seen)
    server.answer = lambda prompt: f"now {len(server.asked)}"
    made = generate(rows, with_=server.url, out=out, cache=cache, quiet=True)
    assert len(made.frame) == 20
    assert len(server.asked) == answered + 40 - 16  # the first 16 were kept


def test_scored_pairs_of_a_server(server: Server) -> None:
    def answer(prompt: str) -> str:
        if prompt.startswith("How alike"):
            first, second = (line.split(": ", 1)[1] for line in prompt.splitlines()[1:3])
            return "none" if "station" in first else f"{len(second) / 100:.2f} since it is so"
        return prompt.splitlines()[-2].removeprefix("Sentence: ").replace("<mask>", "thing")

    server.answer = answer
    made = generate(TEXTS_AS_ROWS, with_=server.url, as_="pairs", per_text=4, quiet=True)
    assert made.frame.columns == ["anchor", "positive", "value"]
    assert 0 < made.frame["value"].min() <= made.frame["value"].max() < 1  # type: ignore[operator]
    assert "a big house near the station" not in made.frame["anchor"].to_list()
    assert made.left["without a score"] == 3
    assert made.left["the same text again"] == len(TEXTS)  # the unmasked text came back as it was
    for text, other in made.frame.select("anchor", "positive").rows():
        n, things = len(text.split()), other.split().count("thing")
        assert 1 <= things <= n
        assert other.split() != text.split()


TEXTS_AS_ROWS = [{"text": text} for text in TEXTS]


def test_more_of_a_text_is_masked_from_pair_to_pair() -> None:
    asked: list[str] = []

    def model(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ["0.5" if p.startswith("How") else f"answer {len(asked)} {i}" for i, p in enumerate(prompts)]

    text = " ".join(f"word{i}" for i in range(20))
    generate([{"text": text}], with_=model, as_="pairs", per_text=9, quiet=True)
    left = [p.splitlines()[1].count("word") for p in asked if p.startswith("Put")]
    assert left == [18, 16, 14, 12, 10, 8, 6, 4]  # 0.1 to 0.8 of 20 words, as the authors have them
    assert sum(not p.startswith(("Put", "How")) for p in asked) == 1


def test_prompts_are_drawn_from_all_wordings_and_examples() -> None:
    made = {prompt_of(Ask("negative", "x", draw=k / 60)) for k in range(60)}
    assert len(made) == len(WORDINGS["negative"]) * len(EXAMPLES["negative"])
    assert all(p.endswith("Sentence: x\nAnswer:") for p in made)


def test_answers_outlive_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path, asked = tmp_path / "kept.jsonl", []

    def model(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return [p + "!" for p in prompts]

    Kept(model, path, model="m")(["a", "b"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # b is cut off
    again = Kept(model, path, model="m")
    assert again(["a", "b", "c"]) == ["a!", "b!", "c!"]
    assert asked == ["a", "b", "b", "c"]
    assert Kept(model, path, model="m")(["a", "b", "c"]) == ["a!", "b!", "c!"]
    assert asked == ["a", "b", "b", "c"]
    Kept(model, path, model="other")(["a"])
    assert asked[-1] == "a"


def test_a_busy_server_is_asked_again_and_a_broken_one_is_not(server: Server) -> None:
    pauses: list[float] = []
    server.answer = lambda _: (503, "busy") if len(server.asked) < 3 else "done"
    assert endpoint(server.url, "m", pause=pauses.append)(["x"]) == ["done"]
    assert pauses == [1.0, 2.0]
    server.answer = lambda _: (401, "no key")
    with pytest.raises(Refusal, match=r"401.*no key"):
        endpoint(server.url, "m", pause=pauses.append)(["x"])
    assert len(pauses) == 2
    server.answer = lambda _: {"choices": []}
    with pytest.raises(Refusal, match="choices"):
        endpoint(server.url, "m")(["x"])


def test_an_address_without_a_server_is_refused_in_one_line() -> None:
    with pytest.raises(Refusal, match=r"language model.*127\.0\.0\.1:1/.*server running"):
        endpoint("http://127.0.0.1:1/v1", "m", pause=lambda _: None)(["x"])
    with pytest.raises(Refusal, match="http"):
        endpoint("file:///etc", "m")


@pytest.mark.parametrize(("more", "wanted"), [(["--with", "nowhere"], "something that writes"), (["--as", "x"], "one of"),
    (["--with", "http://127.0.0.1:1/v1", "--key-from", "NO_SUCH_KEY"], "NO_SUCH_KEY"), (["--per-text", "0"], "at least 1"),
    (["--temperature", "-1"], "at least 0")])  # fmt: skip
def test_what_cannot_be_done_is_refused(more: list[str], wanted: str, table: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["generate", str(table), "--out", str(tmp_path / "made.csv"), *more])
    assert isinstance(done.exception, Refusal)
    assert wanted in str(done.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["texts.csv"]


def test_answers_of_no_use_are_counted_and_refused_when_there_are_no_others() -> None:
    with pytest.raises(Refusal, match="the same text again"):
        generate(TEXTS_AS_ROWS, with_=lambda prompts: [p.splitlines()[-2][10:].upper() for p in prompts], quiet=True)
    one = generate(
        TEXTS_AS_ROWS, with_=lambda ps: ["" if "late" in p else f"{i}" for i, p in enumerate(ps)], quiet=True
    )
    assert one.left == {"empty": 1}  # a text without a positive is not asked about its negative
    assert len(one.frame) == 3


def test_splits_go_with_their_texts() -> None:
    rows = [{"text": text, "split": "test" if i else "train"} for i, text in enumerate(TEXTS)]
    made = generate(rows, with_="rules", roles={"split": "split"}, quiet=True)
    assert made.frame["split"].to_list() == ["train", "test", "test", "test"]


def test_a_model_in_a_folder_writes(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from counterpoint.encoders.writer import writer

    words = ["<end>", "it", "is", "late", "a", "big", "house"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<end>").save_pretrained(tmp_path)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": len(words), "n_positions": 40}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=None)).save_pretrained(tmp_path)
    write = writer(tmp_path, tokens=5, temperature=2.0)
    made = write(["it is late", "a big house " * 30])
    assert [len(text.split()) > 0 for text in made] == [True, True]
    assert write(["it is late", "a big house " * 30]) == made
    assert writer(tmp_path, tokens=5, temperature=2.0, seed=1)(["it is late", "a big house " * 30]) != made
    with pytest.raises(Refusal, match=r"config\.json"):
        writer(tmp_path / "none")
