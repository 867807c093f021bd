from __future__ import annotations

import pytest

from bench.peers import turns as peer_turns
from bench.peers.turns import take_turns


def test_calls_take_turns_and_the_first_turn_is_not_counted() -> None:
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    turns = take_turns(calls, seconds=0, needed=frozenset())
    assert order == ["a", "b", "b", "a"] * 5 + ["a", "b"]
    assert {name: len(values) for name, values in turns.samples_ms.items()} == {"a": 10, "b": 10}


def test_calls_that_take_turns_keep_their_own_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def call(ticks: int) -> None:
        now[0] += ticks

    monkeypatch.setattr(peer_turns, "now_ms", lambda: now[0])
    turns = take_turns({"a": lambda: call(5), "b": lambda: call(9)}, seconds=0, needed=frozenset())
    assert {name: set(values.tolist()) for name, values in turns.samples_ms.items()} == {"a": {5.0}, "b": {9.0}}


def test_a_call_that_fails_loses_its_turns_says_why_and_the_others_go_on() -> None:
    order: list[str] = []

    def failing() -> None:
        order.append("b")
        if order.count("b") == 4:
            raise RuntimeError("out of\n memory")

    turns = take_turns({"a": lambda: order.append("a"), "b": failing}, seconds=0, needed=frozenset({"a"}))
    assert (order.count("a"), order.count("b")) == (11, 4)
    assert (list(turns.samples_ms), turns.failed) == (["a"], {"b": "RuntimeError: out of memory"})
    order.clear()
    with pytest.raises(RuntimeError, match="out of"):
        take_turns({"b": failing}, seconds=0, needed=frozenset({"b"}))
