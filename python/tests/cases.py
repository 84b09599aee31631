# SPDX-License-Identifier: Apache-2.0
"""Seeds in, calls out: pools, slots, lengths, queries, and what the definition says of them."""

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import steady

RECORDED = Path(__file__).parents[2] / "tests" / "data" / "recorded"
OUT_LIMIT = 2.5e-3  # against exact answers, as in `steady replay`
LSE_LIMIT = 1e-4
NAN_BYTE = 0xFF  # a NaN in e4m3, bf16 and float32, and -1 in int32


def to_bf16(values):
    """float32 rounded to the bits of bf16, to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def relative_error(answer, exact):
    difference = np.linalg.norm(np.float64(answer) - np.float64(exact))
    return 0.0 if difference == 0 else difference / np.linalg.norm(np.float64(exact))


def poisoned(shape, dtype):
    """An array in which every element is NaN or -1."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    return np.full(count, NAN_BYTE, np.uint8).view(dtype).reshape(shape)


@dataclass
class Scope:
    """A pool in which only named tokens hold numbers, all else being NaN."""

    page_tokens: int
    pages: np.ndarray  # uint8 [pages, bytes], further apart than they are long
    slots: np.ndarray
    lengths: np.ndarray
    format: str = "fp8"

    @property
    def shape(self):
        return steady.PoolShape(self.page_tokens, self.slots.shape[-1], self.format)

    @property
    def pool(self):
        return steady.Pool(self.pages, self.slots)

    def values(self, request, query):
        """float64 [tokens, 512] that this row attends to."""
        lengths = np.atleast_1d(self.lengths[request])
        length = np.clip(lengths[query % len(lengths)], 0, self.slots.shape[-1])
        row = np.zeros(steady.HEAD_DIM, np.float32)
        values = []
        for slot in self.slots[request, query, :length]:
            if 0 <= slot < len(self.pages) * self.page_tokens:
                page, token = divmod(int(slot), self.page_tokens)
                steady.unpack_token(self.pages[page], self.page_tokens, token, row, self.format)
                values.append(np.float64(row))
        return np.array(values).reshape(-1, steady.HEAD_DIM)


def make_scope(rng, batch, queries, width, page_tokens, pages=5, format="fp8", gap=24):
    """Lengths from 0 to the width, slots of which some are -1 and some stray far off."""
    bytes_a_page = steady.page_bytes(page_tokens, format)
    memory = np.full((pages, bytes_a_page + gap), NAN_BYTE, np.uint8)
    capacity = pages * page_tokens
    slots = rng.integers(0, capacity, (batch, queries, width)).astype(np.int32)
    for slot in np.unique(slots):
        token = rng.standard_normal(steady.HEAD_DIM).astype(np.float32)
        page, offset = divmod(int(slot), page_tokens)
        steady.pack_token(token, memory[page, :bytes_a_page], page_tokens, offset, format)
    nowhere = np.array([-1, -1, -(2**31), capacity, 2**31 - 1], np.int32)
    slots = np.where(rng.random(slots.shape) < 0.1, rng.choice(nowhere, slots.shape), slots)
    lengths = rng.integers(0, width + 1, batch).astype(np.int32)
    return Scope(page_tokens, memory[:, :bytes_a_page], slots.astype(np.int32), lengths, format)


@dataclass
class Case:
    """One layer's call."""

    q: np.ndarray  # uint16 [batch, queries, heads, 512]
    window: Scope | None
    compressed: Scope | None = None
    sink: np.ndarray | None = None
    softmax_scale: float = 512**-0.5
    out: np.ndarray = field(init=False)
    lse: np.ndarray = field(init=False)

    def __post_init__(self):
        self.out = poisoned(self.q.shape, np.uint16)
        self.lse = poisoned(self.q.shape[:3], np.float32)

    def engine(self, backend="cpu", **options):
        _, queries, heads, _ = self.q.shape
        return steady.Engine(
            heads,
            self.window and self.window.shape,
            self.compressed and self.compressed.shape,
            queries=queries,
            max_batch=len(self.q),
            softmax_scale=self.softmax_scale,
            backend=backend,
            **options,
        )

    def step(self, engine):
        lengths = self.compressed and [self.compressed.lengths]
        return steady.Step(engine, len(self.q), self.window and self.window.lengths, lengths)

    def layer(self, engine):
        return steady.Layer(
            engine,
            self.q,
            self.out,
            self.window and self.window.pool,
            self.compressed and self.compressed.pool,
            lse=self.lse,
            sink=self.sink,
        )

    def run(self, **options):
        """Answers of a new engine: float32 out, lse."""
        engine = self.engine(**options)
        workspace = steady.Workspace(engine)
        step = self.step(engine)
        engine.plan(workspace, step)
        engine.decode(workspace, step, self.layer(engine))
        return from_bf16(self.out), self.lse.copy()

    def exact(self):
        """The definition in float64."""
        out = np.zeros(self.q.shape)
        lse = np.full(self.q.shape[:3], -np.inf)
        q = np.float64(from_bf16(self.q))
        scopes = [scope for scope in (self.window, self.compressed) if scope]
        for request, query in np.ndindex(self.q.shape[:2]):
            k = np.concatenate([scope.values(request, query) for scope in scopes])
            for head in range(self.q.shape[2]) if len(k) else ():
                scores = self.softmax_scale * (k @ q[request, query, head])
                most = scores.max()
                weights = np.exp(scores - most)
                total = weights.sum()
                lse[request, query, head] = most + np.log(total)
                if self.sink is not None:
                    total += np.exp(np.float64(self.sink[head]) - most)
                out[request, query, head] = weights @ k / total
        return out, lse


def make_case(
    seed, heads=8, queries=1, batch=3, width=24, page_tokens=16, compressed=(), sink=True
):
    """compressed: (width, page_tokens), or nothing."""
    rng = np.random.default_rng(seed)
    q = to_bf16(rng.standard_normal((batch, queries, heads, steady.HEAD_DIM)))
    sinks = np.float32(rng.standard_normal(heads)) if sink else None
    return Case(
        q,
        make_scope(rng, batch, queries, width, page_tokens) if width else None,
        make_scope(rng, batch, queries, *compressed) if compressed else None,
        sinks,
    )


_DTYPES = {"BF16": np.uint16, "F32": np.float32, "I32": np.int32, "U8": np.uint8}


def read_safetensors(path):
    """Tensors by name, bf16 as bits, and the metadata."""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[begin:end], _DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"]).copy()
    return tensors, metadata


def recorded_case(path):
    """A recorded call and its exact answers."""
    tensors, metadata = read_safetensors(path)
    batch = len(tensors["q"])

    def scope(prefix, block_size):
        slots = tensors.get(f"{prefix}_indices")
        if slots is None:
            return None
        full = np.full(batch, slots.shape[-1], np.int32)
        lengths = tensors.get(f"{prefix}_lengths", full)
        return Scope(int(metadata[block_size]), tensors[f"{prefix}_cache"], slots, lengths)

    case = Case(
        tensors["q"],
        scope("swa", "block_size"),
        scope("extra", "extra_block_size"),
        tensors.get("attn_sink"),
        float(metadata["softmax_scale"]),
    )
    return case, tensors
