"""The kernels compile for GPUs that are not here, and keep to their registers."""

import os
import subprocess
import sys
import textwrap

import pytest

# ASTSource takes other arguments before 3.3.
pytest.importorskip('triton', minversion='3.3')

SCRIPT = """
import importlib, re, subprocess, sys, tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

conduction = importlib.import_module('mmvheat.ops.kernels.conduction')
gated_norm = importlib.import_module('mmvheat.ops.kernels.gated_norm')
tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
capability = int(sys.argv[1])


def build(function, numbers, constants, warps, narrow='bf16'):
    kinds = {}
    for name in function.arg_names:
        if name in constants:
            kinds[name] = 'constexpr'
        elif name.endswith('_ptr'):
            wide = any(part in name for part in ('weight', 'bias'))
            kinds[name] = '*fp32' if wide else f'*{narrow}'
        else:
            kinds[name] = numbers.get(name, 'i32')
    names = list(function.arg_names)
    # What Triton finds out of ordinary sizes and pointers when it is called.
    aligned = {(i,): [['tt.divisibility', 16]] for i, name in enumerate(names)
               if name not in constants and name not in ('height', 'width', 'tokens', 'eps')}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(function, signature=kinds, constexprs=values, attrs=aligned)
    kernel = triton.compile(
        source, target=GPUTarget('cuda', capability, 32), options=dict(num_warps=warps)
    )
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.asm['cubin'])
        file.flush()
        code = subprocess.run([tool, '-sass', file.name], capture_output=True, text=True).stdout
    spilled = len(re.findall(r'\\bSTL\\b', code))
    tensor_cores = len(re.findall(r'\\bHG?MMA\\b', code))
    assert code, 'nothing to read'
    print(function.__name__, constants, kernel.metadata.shared, spilled, tensor_cores)
    assert kernel.metadata.shared <= 160 * 1024, 'more shared memory than an A100 has'
    assert spilled == 0, 'registers are spilled'
    return tensor_cores


fixed = dict(PRECISION='tf32', WIDEN=False)
for side in (16, 32):
    block, warps = conduction.whole_map_launch(side, side)
    sizes = dict(HEIGHT=side, WIDTH=side, CHANNELS=block)
    assert build(conduction._whole_map, {}, {**sizes, **fixed}, warps) > 0
for side in (64, 128):
    block, warps = conduction.columns_launch(side)
    sizes = dict(HEIGHT=side, COLUMNS=block)
    assert build(conduction._columns, {}, {**sizes, **fixed}, warps) > 0
for channels in (128, 1024):
    eps = dict(eps='fp32')
    build(gated_norm._forward, eps, dict(CHANNELS=channels), 4)
    tokens = dict(TOKENS=gated_norm._TOKENS, CHANNELS=channels)
    build(gated_norm._backward_kernel, eps, tokens, 4)
"""


@pytest.mark.slow
@pytest.mark.parametrize('capability', [80, 90] if os.environ.get('MMVHEAT_FULL') else [90])
def test_kernels_compile_and_do_not_spill(capability, monkeypatch, tmp_path):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(SCRIPT), str(capability)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 8
