"""A language model in a folder as a generator of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from counterpoint.errors import Refusal

BATCH = 8  # prompts at a time


def writer(
    folder: str | Path, *, tokens: int = 100, temperature: float = 0.7, seed: int = 0, device: str = "cpu"
) -> Callable[[list[str]], list[str]]:
    """A generator made of a transformers model for text generation; nothing is downloaded.

    What it answers to a prompt depends on the prompts beside it: they share a random stream. Temperature 0 draws nothing.

    Args:
        folder: of the model and its tokenizer.
        tokens: of an answer, at most.
        temperature: of the draws, at least 0.
        seed: of the draws.
        device: where it runs.

    Raises:
        Refusal: for a folder without such a model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (Path(folder) / "config.json").is_file():
        raise Refusal("a folder with a language model", f"no config.json in {folder}", where="--with")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="left", truncation_side="left"
        )
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise Refusal(
            "a language model that transformers can load", str(error).splitlines()[0], where=str(folder)
        ) from error
    model = model.to(device).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    how = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    longest = int(getattr(model.config, "max_position_embeddings", 4096) or 4096)

    @torch.no_grad()
    def generate(prompts: list[str]) -> list[str]:
        found = []
        for start in range(0, len(prompts), BATCH):
            room = max(longest - tokens, 1)
            given = tokenizer(prompts[start : start + BATCH], return_tensors="pt", padding=True, truncation=True,
                              max_length=room, return_token_type_ids=False).to(device)  # fmt: skip
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                made = model.generate(**given, max_new_tokens=tokens, pad_token_id=tokenizer.pad_token_id, **how)
            found += tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
        return found

    return generate
