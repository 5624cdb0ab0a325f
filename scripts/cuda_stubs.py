#!/usr/bin/env python3
"""Makes static libraries that stand for the CUDA libraries at link time and open the real ones at the first call.

    cuda_stubs.py CUDARC_SRC OUT [CUDART_STATIC]

CUDARC_SRC is the folder src of the crate cudarc, whose declarations say which functions there are; OUT gets libcuda.a, libcublas.a, libcublasLt.a,
libcurand.a, libnvrtc.a and, as libcudart.a, a copy of the toolkit's libcudart_static.a.

candle asks for dynamic linking, and a program that is linked against libcuda.so does not even start where there is no driver. With these in the
linker's way it starts everywhere, and a call that finds no library comes back with that library's own "there is none". For Linux on x86-64.
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

# Name at link time, module of cudarc, names at run time (newest first), and the code that a function gives where there is no library:
# CUDA_ERROR_NO_DEVICE, CUBLAS_STATUS_NOT_INITIALIZED, CURAND_STATUS_INITIALIZATION_FAILED, NVRTC_ERROR_INTERNAL_ERROR.
LIBRARIES = [
    ("cuda", "driver", ["libcuda.so.1"], 100),
    ("cublas", "cublas", ["libcublas.so.13", "libcublas.so.12"], 1),
    ("cublasLt", "cublaslt", ["libcublasLt.so.13", "libcublasLt.so.12"], 1),
    ("curand", "curand", ["libcurand.so.10"], 203),
    ("nvrtc", "nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"], 11),
]

# They write a text to where their second argument points, and give the code of success.
WRITE_TEXT = {"cuGetErrorString", "cuGetErrorName"}

DECLARATION = re.compile(
    r'extern "C" \{\s*(?:#\[[^\]]*\]\s*)*(?:pub )?fn (\w+)\s*\([^)]*\)\s*(?:->\s*([^;]+?))?\s*;', re.DOTALL
)

# A function jumps through its slot. At first the slot leads back here, where the slot's number is pushed and the library is asked for the function;
# all registers that may hold arguments are kept, and those on the stack stay where they are.
ENTRY = """
    .globl {name}
    .type {name}, @function
{name}:
    jmp *{prefix}_slots+{offset}(%rip)
{prefix}_first_{index}:
    pushq ${index}
    jmp {prefix}_common
"""

COMMON = """
{prefix}_common:
    pushq %rbp
    movq %rsp, %rbp
    subq $192, %rsp
    andq $-16, %rsp
    movq %rdi, 0(%rsp)
    movq %rsi, 8(%rsp)
    movq %rdx, 16(%rsp)
    movq %rcx, 24(%rsp)
    movq %r8, 32(%rsp)
    movq %r9, 40(%rsp)
    movq %rax, 48(%rsp)
{save}
    movq 8(%rbp), %rdi
    call {prefix}_resolve
    movq %rax, %r11
    movq 0(%rsp), %rdi
    movq 8(%rsp), %rsi
    movq 16(%rsp), %rdx
    movq 24(%rsp), %rcx
    movq 32(%rsp), %r8
    movq 40(%rsp), %r9
    movq 48(%rsp), %rax
{restore}
    movq %rbp, %rsp
    popq %rbp
    addq $8, %rsp
    jmp *%r11
"""
SAVE = "\n".join(f"    movups %xmm{i}, {64 + 16 * i}(%rsp)" for i in range(8))
RESTORE = "\n".join(f"    movups {64 + 16 * i}(%rsp), %xmm{i}" for i in range(8))

RESOLVE = """
#include <dlfcn.h>
#include <stddef.h>

extern void *{prefix}_slots[];

static const char *const names[] = {{{names}}};
/* What a function gives: a code, a text, or a text through its second argument. */
enum {{ CODE, TEXT, WRITTEN_TEXT }};
static const unsigned char gives[] = {{{gives}}};
static const char *const files[] = {{{files}}};

static const char not_found[] = "{first_file} was not found on this machine";
static int missing(void) {{ return {code}; }}
static const char *missing_text(void) {{ return not_found; }}
static int missing_written_text(int code, const char **text) {{
    (void)code;
    *text = not_found;
    return 0;
}}
static void *const stands_in[] = {{(void *)missing, (void *)missing_text, (void *)missing_written_text}};

static void *library;
static int tried;

/* Threads that come here at once open the same library and find the same function. */
void *{prefix}_resolve(long index) {{
    if (!__atomic_load_n(&tried, __ATOMIC_ACQUIRE)) {{
        void *opened = NULL;
        for (size_t at = 0; !opened && at < sizeof files / sizeof *files; at++) opened = dlopen(files[at], RTLD_NOW | RTLD_GLOBAL);
        __atomic_store_n(&library, opened, __ATOMIC_RELEASE);
        __atomic_store_n(&tried, 1, __ATOMIC_RELEASE);
    }}
    void *opened = __atomic_load_n(&library, __ATOMIC_ACQUIRE);
    void *found = opened ? dlsym(opened, names[index]) : NULL;
    if (!found) return stands_in[gives[index]];
    __atomic_store_n(&{prefix}_slots[index], found, __ATOMIC_RELEASE);
    return found;
}}
"""


def functions(source):
    """Each function, and what it gives."""
    found = {}
    for name, result in DECLARATION.findall(source):
        gives_text = "*const" in result and "c_char" in result
        found[name] = "WRITTEN_TEXT" if name in WRITE_TEXT else "TEXT" if gives_text else "CODE"
    return sorted(found.items())


def assembly(prefix, names):
    lines = ["    .text"]
    for index, name in enumerate(names):
        lines.append(ENTRY.format(name=name, prefix=prefix, index=index, offset=8 * index))
    lines.append(COMMON.format(prefix=prefix, save=SAVE, restore=RESTORE))
    lines += ["    .data", "    .p2align 3", f"    .globl {prefix}_slots", f"{prefix}_slots:"]
    lines += [f"    .quad {prefix}_first_{index}" for index in range(len(names))]
    lines.append('    .section .note.GNU-stack,"",%progbits')
    return "\n".join(lines) + "\n"


def make(out, library, source, files, code):
    found = functions(source)
    if not found:
        sys.exit(f"no functions of {library} were found in cudarc's declarations; has their form changed?")
    prefix = f"raglan_stub_{library}"
    resolve = RESOLVE.format(
        prefix=prefix,
        names=", ".join(f'"{name}"' for name, _ in found),
        gives=", ".join(kind for _, kind in found),
        files=", ".join(f'"{file}"' for file in files),
        first_file=files[0],
        code=code,
    )
    (out / f"{library}_resolve.c").write_text(resolve)
    (out / f"{library}_entries.s").write_text(assembly(prefix, [name for name, _ in found]))
    compiler = os.environ.get("CC", "cc")
    objects = []
    for name in [f"{library}_resolve.c", f"{library}_entries.s"]:
        objects.append(str(pathlib.Path(name).with_suffix(".o")))
        subprocess.run([compiler, "-O2", "-fPIC", "-c", name, "-o", objects[-1]], cwd=out, check=True)
    archive = out / f"lib{library}.a"
    archive.unlink(missing_ok=True)
    subprocess.run(["ar", "rcs", archive.name, *objects], cwd=out, check=True)
    print(f"{archive}: {len(found)} functions of {files[0]}")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        sys.exit("stub libraries are made for Linux on x86-64")
    cudarc, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for library, module, files, code in LIBRARIES:
        make(out, library, (cudarc / module / "sys/mod.rs").read_text(), files, code)
    if len(sys.argv) == 4:
        shutil.copyfile(sys.argv[3], out / "libcudart.a")


if __name__ == "__main__":
    main()
