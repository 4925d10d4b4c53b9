"""Content ids: the same in every process and year, different for different texts."""

from __future__ import annotations

import hashlib

from counterpoint.data.identity import content_id, content_ids


def test_ids_never_change() -> None:
    assert [content_id(t) for t in ("a", "", "naïve ☕")] == [
        2340832890917691671,
        8238016292129134938,
        1475331847075017569,
    ]
    assert content_id("a") == int(hashlib.blake2b(b"a", digest_size=8).hexdigest(), 16) // 2


def test_different_texts_have_different_ids_at_least_0() -> None:
    ids = content_ids(f"text {i}" for i in range(50_000))
    assert len(set(ids.tolist())) == 50_000
    assert ids.min() >= 0


def test_half_a_character_has_an_id_too() -> None:
    assert content_id("\ud83d") >= 0
