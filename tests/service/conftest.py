"""Worlds to serve: one for a test, one for a module whose tests change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.service import World
from support.service import new_world as made

from hysac_retrieval import Encoder, SafetyPolicy


@pytest.fixture(scope="session")
def toy_encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, threads=1)


@pytest.fixture
def new_world(tmp_path: Path, toy_encoder: Encoder) -> Iterator[Callable[..., World]]:
    """Make a world of one's own; its engine has a policy."""
    worlds: list[World] = []

    def make(policy: SafetyPolicy | None = None) -> World:
        worlds.append(made(tmp_path / f"world{len(worlds)}", toy_encoder, policy))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    return new_world()


@pytest.fixture(scope="module")
def world_of_module(tmp_path_factory: pytest.TempPathFactory, toy_encoder: Encoder) -> Iterator[World]:
    world = made(tmp_path_factory.mktemp("world"), toy_encoder)
    yield world
    world.close()
