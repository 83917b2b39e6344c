"""Triton kernels as machine code for GPUs: what the interpreter takes, the compiler might not. No GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

# In a process of its own: in this one Triton may have been told to interpret.
COMPILE = """
import inspect, sys
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from tsallis.kernels.triton import (
    attention, attention_calls, attention_gradients, gradients, losses, pairs, screening, selection, simplex, steep,
    steep_gradients,
)

capability = int(sys.argv[1])
# What such a device has, in bytes.
SHARED = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}[capability]
NUMBERS = (
    "rows", "n", "width", "stride", "columns", "begin", "capacity", "last", "queries", "keys", "heads", "group",
    "tiles", "blocks",
)

def build(kernel, tensors, warps=4, strided=False, stages=3, **constants):
    signature, fixed = {}, {}
    for name in inspect.signature(kernel.fn).parameters:
        if name in constants:
            signature[name], fixed[name] = "constexpr", constants[name]
        elif name in tensors or name in NUMBERS:
            signature[name] = tensors.get(name, "i32")
        elif name == "where" and strided:
            signature[name] = ("i32",) * 20
        elif name in ("number", "k_number", "tolerance"):
            signature[name] = "fp64"
        elif name == "scale" and strided:
            signature[name] = "fp32"
        else:
            signature[name], fixed[name] = "constexpr", None
    made = compile(
        ASTSource(kernel, signature=signature, constexprs=fixed),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    assert made.metadata.shared <= SHARED, (kernel.fn.__name__, made.metadata.shared)
    print(kernel.fn.__name__, constants, len(made.asm["cubin"]))

def types(**named):
    return {name: "*" + kind for name, kind in named.items()}

scores = types(z="fp32", p="fp32")
masked = types(z="bf16", p="bf16", kept="fp32", thresholds="fp32", mask="u8", alpha="fp32")
passed = types(p="fp32", g="bf16", dz="bf16")
learned = {**passed, **types(dalpha="fp32", alpha="fp32")}
for kind in range(3):
    build(simplex.solve, scores, KIND=kind, R=1, B=4096, ONE=True, COMPUTE=tl.float32, warps=8)
    build(gradients.entmax_gradient, passed, KIND=kind, R=4, B=512, ONE=True, COMPUTE=tl.float32)
build(simplex.solve, masked, KIND=2, R=1, B=4096, ONE=False, COMPUTE=tl.float32, warps=8, strided=True)
build(simplex.solve, masked, KIND=3, R=16, B=128, ONE=True, COMPUTE=tl.float64, strided=True)
build(gradients.entmax_gradient, learned, KIND=2, R=1, B=4096, ONE=False, COMPUTE=tl.float32, strided=True)
build(gradients.normmax_gradient, learned, R=1, B=1024, strided=True)
build(steep.solve_steep, {**masked, **types(pivots="fp32", ks="fp64")}, CAPPED=True, B=1024, strided=True)
build(steep_gradients.steep_gradient, {**learned, "dk": "*fp32"}, CAPPED=True, B=1024, strided=True)
build(selection.kth_largest, types(z="fp64", out="fp64"), B=1024, COMPUTE=tl.float64)
cut = types(z="bf16", out="bf16", mask="u8", ks="fp32")
build(selection.keep_largest, cut, B=1024, COMPUTE=tl.float32, strided=True)
loss = types(z="fp32", p="fp32", scores="fp32", index="i64", loss="fp32", scale="fp32", hit="fp32", dz="fp32")
summed = types(slope="fp32", far="fp32", mass="fp32", classes="fp32", weight="fp32", smooth="fp32", alpha="fp64")
for kind in range(3):
    build(losses.values, loss, KIND=kind, R=4, B=512, COMPUTE=tl.float32)
build(losses.values, {**loss, **summed}, KIND=2, R=1, B=4096, COMPUTE=tl.float32, warps=8)
build(losses.gradient, loss, R=4, B=512, COMPUTE=tl.float32)
build(losses.gradient, {**loss, **summed}, R=1, B=4096, COMPUTE=tl.float32, warps=8)
kept = types(
    block="fp32", values="fp32", places="i32", counts="i64", tops="fp32", cuts="fp32", slacks="fp32", alpha="fp64",
)
for kind in range(3):
    build(screening.screen, kept, HALF=False, KIND=kind, B=1024, COMPUTE=tl.float32)
build(screening.screen, {**kept, "block": "*bf16"}, HALF=True, KIND=1, B=1024, COMPUTE=tl.float32)
layer = types(
    hidden="fp32", weight="fp32", bias="fp32", places="i32", values="fp32", counts="i64", source="fp32", out="fp32",
    begins="i64", ends="i64", factors="fp32", which="i64",
)
build(pairs.products, layer, E=16, H=128, COMPUTE=tl.float32)
build(pairs.sums, layer, E=16, H=128, COMPUTE=tl.float32)
options = types(mask="u8", bias="fp32", lows="i32", highs="i32", alpha="fp32")
for kind, width, narrow, causal, rest in (
    (1, 64, True, True, {}), (2, 128, True, False, options), (0, 64, False, False, {}), (1, 128, False, True, {}),
):
    M, N, warps, warps_back, stages, stages_back = attention_calls.shape_of(1000, width, narrow)
    same = {name: "*bf16" if narrow else "*fp32" for name in ("q", "k", "v", "g", "out", "dq", "dk", "dv")}
    same |= types(notes="fp32", codes="u8", lists="i16", means="fp32") | rest
    shape = dict(CAUSAL=causal, KIND=kind, M=M, N=N, WIDTH=width, D=width, DEPTH=width, DV=width)
    shape["strided"] = True
    build(attention.attend, same, warps=warps, stages=stages, **shape)
    same |= types(slopes="fp32") if rest else {}
    build(attention_gradients.to_queries, same, warps=warps_back, stages=stages_back, **shape)
    build(attention_gradients.to_keys, same, warps=warps_back, stages=stages_back, **shape)
"""


@pytest.mark.parametrize("capability", [*(pytest.param(n, marks=pytest.mark.full) for n in (80, 89, 100)), 90])
def test_every_kernel_becomes_machine_code(capability: int, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 38
