"""Encoding of items on the actors of a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignrec_pyg.checks import check_integer, check_number, require_package
from alignrec_pyg.encoders.base import ItemEncoder
from alignrec_pyg.encoders.images import quiet_pillow
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.transforms.content_reader import ContentReader
from alignrec_pyg.transforms.encoding_run import EncodingRun


@dataclass(frozen=True, kw_only=True)
class RayActors:
    """Actors of Ray Data on which :class:`EncodeItems` runs its encoder.

    Each actor has its own encoder, and reads, encodes and caches the batches that are assigned to
    it. The batch of a lost actor is assigned to another one.

    Args:
        num_actors: Number of actors.
        num_cpus: Number of CPUs per actor.
        num_gpus: Number of GPUs per actor; with 0.5, two actors share one.
        build: A function that builds the encoder in the actor, for example on another device than
            that of the transform; ``None`` sends a copy of the transform's encoder.

    Raises:
        ValueError: If a number is out of range.
    """

    num_actors: int
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    build: Callable[[], ItemEncoder] | None = None

    def __post_init__(self) -> None:
        check_integer("num_actors", self.num_actors, 1)
        check_number("num_cpus", self.num_cpus, least=0)
        check_number("num_gpus", self.num_gpus, least=0)


@dataclass(frozen=True, kw_only=True)
class EncodingJob:
    """The input of every actor.

    ``encoder`` is ``None`` if the actors build their own; ``name`` describes it, for messages.
    """

    encoder: ItemEncoder | None
    name: str
    cache_key: str
    content: Mapping[str, Any]  # the arguments of ContentReader
    batch_size: int
    cache_dir: Path | None

    def run(self, encoder: ItemEncoder) -> EncodingRun:
        """The run in the actor; the caller of all actors limits the number of failures."""
        return EncodingRun(
            encoder,
            ContentReader(**self.content),
            batch_size=self.batch_size,
            cache_dir=self.cache_dir,
            max_failures=1.0,
            stop=StopRequest(active=False),
            fit=False,
        )


def batches_from_actors(
    run: EncodingRun, job: EncodingJob, actors: RayActors
) -> Iterator[tuple[list[int], Tensor]]:
    """Like :meth:`EncodingRun.batches`, but computed by actors and in the order of completion."""
    ray = require_package("ray", "'actors'", "'ray[tune]'", extra="tune")
    require_package("ray.data", "'actors'", "'ray[tune]'", extra="tune")
    parts = list(run.parts())
    if not parts:
        return
    encoded = ray.data.from_items(
        [{"part": part} for part in range(len(parts))], override_num_blocks=len(parts)
    ).map(
        _Actor,
        fn_constructor_args=(ray.put(job), actors.build),
        compute=ray.data.ActorPoolStrategy(size=actors.num_actors),
        num_cpus=actors.num_cpus,
        num_gpus=actors.num_gpus,
    )
    for found in encoded.iter_rows():
        if found["problem"]:
            raise ValueError(found["problem"])
        items = parts[found["part"]]
        run.note({int(item): reason for item, reason in json.loads(found["failures"]).items()})
        run.cached_rows += [items[position] for position in json.loads(found["cached"])]
        run.actors_shards |= set(json.loads(found["shards"]))
        rows = torch.frombuffer(bytearray(found["rows"]), dtype=torch.float32)
        yield items, rows.view(len(items), -1)
        run.stop.exit_if_requested()


class _Actor:
    """Encodes parts of a job and returns error messages about its input."""

    def __init__(self, job: Any, build: Callable[[], ItemEncoder] | None) -> None:
        import ray

        given: EncodingJob = ray.get(job)
        encoder = given.encoder if build is None else build()
        if encoder is None or encoder.cache_key != given.cache_key:
            raise ValueError(
                f"'build' needs to return the encoder of the transform, {given.name} "
                f"(got {encoder!r}, which has another cache_key)"
            )
        self._run = given.run(encoder)
        self._run.begin()
        self._parts = list(self._run.parts())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        items = self._parts[row["part"]]
        self._run.cached_rows.clear()
        rows, problem = b"", ""
        try:
            with quiet_pillow():
                rows = self._run.encode(items).contiguous().numpy().tobytes()
        except ValueError as error:
            problem = str(error)
        failures = self._run.failures
        return {
            "part": row["part"],
            "rows": rows,
            "failures": json.dumps({item: failures[item] for item in items if item in failures}),
            "cached": json.dumps([items.index(item) for item in self._run.cached_rows]),
            "shards": json.dumps(sorted(self._run.shards)),
            "problem": problem,
        }
