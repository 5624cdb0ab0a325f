#!/usr/bin/env python3
"""Compiles the GPU kernels of backends/kernels as a running raglan does, with NVRTC, and shows what ptxas makes of them. Needs no GPU.

    cuda_kernels.py TOOLKIT [--ptxas FILE] [--arch sm_80 …]

TOOLKIT is a folder with lib/libnvrtc.so.* and, where no other is named, bin/ptxas. Ends with 1 where a kernel does not compile, or spills more than a few
registers to memory.
"""

import argparse
import ctypes
import glob
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCES = pathlib.Path(__file__).parent.parent / "backends/kernels/src/gpu/kernels"
SPILLED_AT_MOST = 32
ELEMENTS = {"f32": 0, "bf16": 1, "f16": 2}
# Heads as models have them: values of a head, and heads of queries for each of the cache.
SHAPES = [(64, 7), (64, 1), (96, 1), (128, 4), (128, 8), (128, 16), (256, 2), (80, 1), (16, 2)]


class Nvrtc:
    """The few functions that are needed."""

    def __init__(self, toolkit):
        found = glob.glob(f"{toolkit}/lib*/libnvrtc.so.*") + glob.glob(f"{toolkit}/targets/*/lib/libnvrtc.so.*")
        libraries = sorted(path for path in found if ".alt." not in path)
        if not libraries:
            sys.exit(f"{toolkit} has no libnvrtc.so")
        # NVRTC looks for it by itself only where the system's linker does.
        for builtins in glob.glob(f"{pathlib.Path(libraries[0]).parent}/libnvrtc-builtins.so.*"):
            ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(libraries[0])
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(self, code):
        if code != 0:
            raise RuntimeError(self.library.nvrtcGetErrorString(code).decode())

    def text(self, program, size_of, get):
        size = ctypes.c_size_t()
        self.check(size_of(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self.check(get(program, text))
        return text.value.decode()

    def compile(self, source, options):
        """The PTX; an error has the compiler's log."""
        library, program = self.library, ctypes.c_void_p()
        self.check(
            library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"raglan.cu", 0, None, None)
        )
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        code = library.nvrtcCompileProgram(program, len(options), arguments)
        log = self.text(program, library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog)
        if code != 0:
            raise RuntimeError(log)
        return self.text(program, library.nvrtcGetPTXSize, library.nvrtcGetPTX), log


def source(names):
    return "\n".join(f'#line 1 "{name}"\n{(SOURCES / name).read_text()}' for name in names)


def programs():
    """Name, source and definitions of each program, as backends/kernels/src/gpu/program.rs puts them together."""
    for name, element in ELEMENTS.items():
        yield f"layers {name}", source(["element.cu", "layers.cu", "sampling.cu"]), [f"-DELEMENT={element}"]
    for (name, element), (head_dim, group) in itertools.product(ELEMENTS.items(), SHAPES):
        definitions = [
            f"-DELEMENT={element}",
            f"-DHEAD_DIM={head_dim}",
            f"-DGROUP={group}",
            "-DBLOCK_SIZE=16",
        ]
        yield f"attention {name} {head_dim}/{group}", source(["element.cu", "decode.cu", "prefill.cu"]), definitions


def usage(report):
    """Registers, shared bytes and spilled bytes of each kernel in ptxas's report."""
    kernel = None
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel, spilled = match[1], 0
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(match[1]) + int(match[2])
        elif kernel and (match := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            yield kernel, int(match[1]), int(shared[1]) if shared else 0, spilled
            kernel = None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("toolkit")
    parser.add_argument("--ptxas")
    parser.add_argument("--arch", nargs="+", default=["sm_80", "sm_90"])
    arguments = parser.parse_args()
    nvrtc = Nvrtc(arguments.toolkit)
    bad = 0
    for arch, (name, text, definitions) in itertools.product(arguments.arch, programs()):
        options = [f"--gpu-architecture={arch.replace('sm_', 'compute_')}", "--std=c++17", *definitions]
        try:
            ptx, log = nvrtc.compile(text, options)
        except RuntimeError as error:
            print(f"{arch} {name}: does not compile\n{error}")
            bad += 1
            continue
        if log.strip("\0\n "):
            print(f"{arch} {name}: {log}")
        with tempfile.NamedTemporaryFile(suffix=".ptx") as file:
            file.write(ptx.encode())
            file.flush()
            report = subprocess.run(
                [arguments.ptxas or f"{arguments.toolkit}/bin/ptxas", "-v", f"-arch={arch}", file.name, "-o", "/dev/null"],
                capture_output=True,
                text=True,
            )
        if report.returncode != 0:
            print(f"{arch} {name}: ptxas refuses it\n{report.stderr}")
            bad += 1
            continue
        for kernel, registers, shared, spilled in usage(report.stderr):
            print(f"{arch} {name:24} {kernel:14} {registers:4} registers {shared:6} B shared {spilled:5} B spilled")
            bad += spilled > SPILLED_AT_MOST
    print("all kernels compile, and none spills more than a few registers" if bad == 0 else f"{bad} kernels are not as they should be")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
