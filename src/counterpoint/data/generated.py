"""Texts that a language model writes: what asks it, what keeps its answers, and an endpoint that may be asked.

A generator is any function of prompts that gives an answer for each. Nothing here goes to a network unless an address is given.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from counterpoint.errors import Refusal

AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})  # answers of a server that may be another one a moment later
SHOWN = 200  # characters of what a server answered, in an error


@runtime_checkable
class Generator(Protocol):
    """Prompts -> an answer for each, in their order."""

    def __call__(self, prompts: list[str], /) -> list[str]:
        """The answers."""


class Kept:
    """A generator whose answers are kept in a file, by prompt and model, so that nothing is asked twice.

    Lines of JSON are only ever added, whole ones: what was written before a crash is there after it, and a line that the
    crash cut off is as if it was never written.

    Args:
        generator: what is asked for what is not there.
        path: the file; made when the first answer comes.
        model: what answers, with all settings that its answers depend on.

    >>> import tempfile
    >>> asked = []
    >>> def shout(prompts):
    ...     asked.extend(prompts)
    ...     return [prompt.upper() for prompt in prompts]
    >>> path = Path(tempfile.mkdtemp()) / "answers.jsonl"
    >>> Kept(shout, path, model="shout")(["a", "b", "a"]), Kept(shout, path, model="shout")(["b", "c"]), asked
    (['A', 'B', 'A'], ['B', 'C'], ['a', 'b', 'c'])
    """

    def __init__(self, generator: Generator, path: str | Path, *, model: str) -> None:
        self.generator, self.path, self.model = generator, Path(path), model
        self.answers = dict(self._read())

    def _read(self) -> Iterator[tuple[str, str]]:
        for line in self.path.read_bytes().split(b"\n") if self.path.exists() else ():
            try:
                entry = json.loads(line)
                yield entry["key"], entry["text"]
            except (ValueError, TypeError, KeyError):  # cut off, or somebody else's
                continue

    def key(self, prompt: str) -> str:
        """The name of an answer."""
        return blake2b(json.dumps([self.model, prompt]).encode(), digest_size=16).hexdigest()

    def __call__(self, prompts: list[str], /) -> list[str]:
        """The answers, kept or new."""
        missing = [p for p in dict.fromkeys(prompts) if self.key(p) not in self.answers]
        if missing:
            found = self.generator(missing)
            if len(found) != len(missing):
                raise ValueError(f"wanted {len(missing)} answers of the generator, got {len(found)}")
            self._write({self.key(p): text for p, text in zip(missing, found, strict=True)})
        return [self.answers[self.key(p)] for p in prompts]

    def _write(self, fresh: Mapping[str, str]) -> None:
        """Add lines; the first begins on a line of its own, whatever stands before it."""
        lines = "".join(f"\n{json.dumps({'key': key, 'text': text})}" for key, text in fresh.items()) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Refusal("a file for the answers that may be written", error.strerror, where=str(self.path)) from error
        self.answers.update(fresh)


def endpoint(
    url: str,
    model: str,
    *,
    key: str | None = None,
    temperature: float = 0.7,
    tokens: int = 100,
    seed: int = 0,
    patience: float = 60.0,
    tries: int = 4,
    workers: int = 4,
    pause: Callable[[float], None] = time.sleep,
) -> Generator:
    """A generator behind an OpenAI-compatible address, of one's own machine or of a service.

    Args:
        url: the address up to "/chat/completions", such as http://localhost:8000/v1.
        model: its name there.
        key: what the service asks for, sent as a bearer token; None: nothing is sent.
        temperature: of the answers, at least 0.
        tokens: of an answer, at most.
        seed: sent along; not every service heeds it.
        patience: seconds that an answer may take.
        tries: how often a busy server is asked, at least 1, with longer and longer pauses.
        workers: prompts that are asked at the same time.
        pause: waits some seconds.

    Raises:
        Refusal: for an address that is none; when asked, for one that does not answer or answers something else.
    """
    if not url.startswith(("http://", "https://")):
        raise Refusal("an address that begins with http:// or https://", f"'{url}'", where="--with")
    place = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    settings = {"model": model, "temperature": temperature, "max_tokens": tokens, "seed": seed}

    def one(prompt: str) -> str:
        body = json.dumps({**settings, "messages": [{"role": "user", "content": prompt}]}).encode()
        answer = _asked(urllib.request.Request(place, body, headers), patience, tries, pause)
        try:
            return str(json.loads(answer)["choices"][0]["message"]["content"] or "")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            came = answer.decode(errors="replace")[:SHOWN]
            raise Refusal("an answer with choices[0].message.content", came, where=place) from error

    def many(prompts: list[str], /) -> list[str]:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, prompts))

    return many


def _asked(request: urllib.request.Request, patience: float, tries: int, pause: Callable[[float], None]) -> bytes:
    """What a server answers."""
    for attempt in range(tries):
        last = attempt + 1 == tries
        try:
            with urllib.request.urlopen(request, timeout=patience) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if last or error.code not in AGAIN:
                came = f"{error.code} {error.reason}: {error.read().decode(errors='replace')[:SHOWN]}"
                raise Refusal("an answer of the language model", came, where=request.full_url) from error
        except OSError as error:
            if last:
                came = str(getattr(error, "reason", None) or error)
                remedy = "is its server running, and is the address right?"
                raise Refusal("an answer of the language model", came, where=request.full_url, remedy=remedy) from error
        pause(2.0**attempt)
    raise AssertionError("the last try has answered or refused")


def answers_of(
    generator: Generator, prompts: Sequence[str], *, chunk: int = 16, tick: Callable[..., Any] = lambda *_a, **_k: None
) -> list[str]:
    """The answers to many prompts, some at a time, so that what is there is kept when something ends the work.

    Args:
        generator: what is asked.
        prompts: any number.
        chunk: prompts at a time.
        tick: is told how many more are done.

    >>> answers_of(lambda prompts: [p[::-1] for p in prompts], ["ab", "cd", "ef"], chunk=2)
    ['ba', 'dc', 'fe']
    """
    found: list[str] = []
    for start in range(0, len(prompts), chunk):
        some = list(prompts[start : start + chunk])
        found += generator(some)
        tick(len(some))
    return found
