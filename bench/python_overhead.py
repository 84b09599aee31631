# SPDX-License-Identifier: Apache-2.0
"""A device in, the host's microseconds for one eager call through each door of the Python package
out, beside FlashMLA's own wrapper where it is there. On a CPU take one head and one core (taskset),
so that next to nothing is computed. Usage: python_overhead.py [--device cpu] [--heads 1]"""

import argparse
import statistics
import time

import torch

import steady
import steady.flash_mla
import steady.torch

WIDTH, PAGE_TOKENS, PAGES = 64, 64, 4
CALLS, ROUNDS = 100, 30  # so few calls a round that a GPU's queue does not fill


def measure(call, wait):
    """Median over the rounds; what the device does after the calls is not counted."""
    for _ in range(CALLS):
        call()
    rounds = []
    for _ in range(ROUNDS):
        wait()
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append((time.perf_counter() - begin) / CALLS * 1e6)
    wait()
    return statistics.median(rounds)


def tensors(device, heads):
    """A call of one request without tokens, so that a CPU has little to compute."""
    shape = (PAGES, PAGE_TOKENS, 1, steady.FP8_TOKEN_BYTES)
    return {
        "q": torch.zeros(1, 1, heads, steady.HEAD_DIM, dtype=torch.bfloat16, device=device),
        "pages": torch.zeros(shape, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn),
        "slots": torch.full((1, 1, WIDTH), -1, dtype=torch.int32, device=device),
        "lengths": torch.zeros(1, dtype=torch.int32, device=device),
    }


def arrays_door(device, q, pages, slots, lengths):
    window = steady.PoolShape(PAGE_TOKENS, WIDTH)
    backend, number = device.type, device.index or 0
    engine = steady.Engine(q.shape[2], window, backend=backend, device=number)
    workspace = steady.Workspace(engine)
    step = steady.Step(engine, 1, lengths)
    layer = steady.Layer(engine, q, torch.empty_like(q), (pages, slots))
    yield "steady: plan", lambda: engine.plan(workspace, step)
    yield "steady: decode", lambda: engine.decode(workspace, step, layer)


def torch_door(device, q, pages, slots, lengths):
    window = steady.PoolShape(PAGE_TOKENS, WIDTH)
    engine = steady.torch.Engine(q.shape[2], window, device=device)
    workspace, out = engine.workspace(), torch.empty_like(q)
    pool = steady.Pool(pages, slots)
    yield "steady.torch: plan", lambda: engine.plan(workspace, 1, lengths)
    yield "steady.torch: decode", lambda: engine.decode(workspace, q, out, window=pool)
    yield "steady.torch: attend", lambda: steady.torch.attend(q, pool, window_lengths=lengths)


def flash_mla_door(module, name, q, pages, slots, lengths):
    metadata, _ = module.get_mla_metadata()
    yield f"{name}: flash_mla_with_kvcache", lambda: module.flash_mla_with_kvcache(
        q, pages, None, None, steady.HEAD_DIM, metadata, is_fp8_kvcache=True, indices=slots,
        topk_length=lengths,
    )  # fmt: skip


def doors(device, heads):
    call = tensors(device, heads)
    yield from arrays_door(device, **call)
    yield from torch_door(device, **call)
    yield from flash_mla_door(steady.flash_mla, "steady.flash_mla", **call)
    try:
        import flash_mla
    except ImportError:
        return
    yield from flash_mla_door(flash_mla, "FlashMLA", **call)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--heads", type=int, default=64)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    print(f"{'call':44} µs of the host")
    for name, call in doors(device, arguments.heads):
        print(f"{name:44} {measure(call, wait):6.2f}")


if __name__ == "__main__":
    main()
