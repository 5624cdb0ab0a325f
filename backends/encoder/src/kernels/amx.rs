//! Intel's Advanced Matrix Extensions: eight registers of 16 rows × 64 bytes, and instructions that multiply two and add to a third.
//! See the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18. Written as assembly, since the
//! intrinsics are not stable.

use std::{
    arch::{asm, x86_64::__cpuid_count},
    sync::OnceLock,
};

/// Which product a tile computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tile {
    /// `u8` by `i8` into `i32`: 64 steps of depth a tile.
    Int8,
    /// bf16 by bf16 into `f32`: 32 steps of depth a tile.
    Bf16,
}

/// Whether processor and kernel allow this process to use tiles. Asks the kernel for the permission once.
pub(super) fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        // Leaf 7, EDX: bit 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8.
        const NEEDED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
        let there = __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED;
        // The kernel checks on its side that it saves the registers.
        there && request_permission()
    })
}

/// Tile registers are large, so Linux gives them to a process only on request (since 5.16); it holds for all its threads.
fn request_permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call with two numbers; the kernel clobbers rcx and r11 only. An older kernel answers with an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The shape of the eight registers (palette 1): 16 rows of 64 bytes each.
#[repr(C, align(64))]
struct Shapes([u8; 64]);

const SHAPES: Shapes = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Shapes(bytes)
};

/// Multiplies `rows / 32` times 32 rows by pairs of panels into tiles of 32 × 32 sums.
///
/// All strides are in bytes. A panel holds `steps` blocks of 1,024 bytes, each the 16 rows of a right-hand tile.
///
/// # Safety
/// [`is_usable`] has said yes. `rows` is a multiple of 32 and `panels` of 2; `a` can be read for `rows` rows of `64 * steps` bytes, `b`
/// for `panels` panels, and `out` written for `rows` rows of `panels * 16` four-byte sums.
pub(super) unsafe fn multiply(
    tile: Tile,
    (a, a_stride): (*const u8, usize),
    rows: usize,
    (b, steps): (*const u8, usize),
    panels: usize,
    (out, out_stride): (*mut u8, usize),
) {
    // SAFETY: the configuration is well formed; the promise of the caller covers every tile.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &SHAPES, options(nostack, readonly));
        for panel in (0..panels).step_by(2) {
            let b0 = b.add(panel * steps * 1024);
            for row in (0..rows).step_by(32) {
                let a0 = a.add(row * a_stride);
                let c0 = out.add(row * out_stride + panel * 64);
                match tile {
                    Tile::Int8 => int8_tiles(a0, a_stride, b0, steps, c0, out_stride),
                    Tile::Bf16 => bf16_tiles(a0, a_stride, b0, steps, c0, out_stride),
                }
            }
        }
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// Two by two tiles of sums. Only within one block of assembly, since the compiler knows nothing of the registers' contents.
macro_rules! tiles {
    ($name:ident, $instruction:literal) => {
        #[inline]
        unsafe fn $name(
            a: *const u8,
            a_stride: usize,
            b: *const u8,
            steps: usize,
            out: *mut u8,
            out_stride: usize,
        ) {
            // SAFETY: see `multiply`.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a0} + {a_stride}]",
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tileloadd tmm7, [{b1} + {line}]",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm5, [{a1} + {a_stride}]",
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "add {a0}, 64",
                    "add {a1}, 64",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c0} + {c_stride}], tmm0",
                    "tilestored [{c0} + {c_stride} + 64], tmm1",
                    "tilestored [{c1} + {c_stride}], tmm2",
                    "tilestored [{c1} + {c_stride} + 64], tmm3",
                    a0 = inout(reg) a => _,
                    a1 = inout(reg) a.add(16 * a_stride) => _,
                    b0 = inout(reg) b => _,
                    b1 = inout(reg) b.add(steps * 1024) => _,
                    steps = inout(reg) steps => _,
                    a_stride = in(reg) a_stride,
                    line = in(reg) 64_usize,
                    c0 = in(reg) out,
                    c1 = in(reg) out.add(16 * out_stride),
                    c_stride = in(reg) out_stride,
                    options(nostack),
                );
            }
        }
    };
}
tiles!(int8_tiles, "tdpbusd");
tiles!(bf16_tiles, "tdpbf16ps");
