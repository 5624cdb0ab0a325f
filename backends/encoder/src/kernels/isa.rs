//! What the processor can do.

/// The instructions for rows of `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FloatIsa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor of the architecture has: NEON on 64-bit Arm, SSE2 on x86-64.
    Baseline,
}

/// The instructions for products of 8-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Int8Isa {
    /// Tiles of 16 × 64 bytes, since Sapphire Rapids.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 64-bit Arm with dot products, since Armv8.2 (mandatory in 8.4).
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    Baseline,
}

/// The kernels that run on this processor. It can only be had by asking the processor, so whoever holds one may run them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernels {
    pub(super) float: FloatIsa,
    pub(super) int8: Int8Isa,
    bf16: bool,
}

impl Kernels {
    /// The best that the processor has.
    pub(crate) fn detect() -> Self {
        let all = Self::available();
        // `available` begins with the best and always holds the baseline.
        all.first().copied().unwrap_or(Self::BASELINE)
    }

    const BASELINE: Self = Self { float: FloatIsa::Baseline, int8: Int8Isa::Baseline, bf16: false };

    /// All that run here, the best first.
    pub(crate) fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma");
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            #[cfg(target_os = "linux")]
            if avx512 && is_x86_feature_detected!("avx512bf16") && super::amx::is_usable() {
                found.push(Self { float: FloatIsa::Avx512, int8: Int8Isa::Amx, bf16: true });
            }
            if avx512 && is_x86_feature_detected!("avx512vnni") {
                found.push(Self { float: FloatIsa::Avx512, int8: Int8Isa::Avx512Vnni, bf16: false });
            }
            if avx512 {
                found.push(Self { float: FloatIsa::Avx512, int8: Int8Isa::Avx2, bf16: false });
            }
            if avx2 && is_x86_feature_detected!("avxvnni") {
                found.push(Self { float: FloatIsa::Avx2, int8: Int8Isa::AvxVnni, bf16: false });
            }
            if avx2 {
                found.push(Self { float: FloatIsa::Avx2, int8: Int8Isa::Avx2, bf16: false });
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            found.push(Self { float: FloatIsa::Baseline, int8: Int8Isa::NeonDot, bf16: false });
        }
        found.push(Self::BASELINE);
        found
    }

    /// Whether there are products of bf16, which are faster than those of `f32`.
    pub(crate) fn has_bf16(self) -> bool {
        self.bf16
    }

    /// In words, for a log.
    pub(crate) fn name(self) -> &'static str {
        match self.int8 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Int8Isa::Amx => "AMX",
            #[cfg(target_arch = "x86_64")]
            Int8Isa::Avx512Vnni => "AVX-512 VNNI",
            #[cfg(target_arch = "x86_64")]
            Int8Isa::AvxVnni => "AVX-VNNI",
            #[cfg(target_arch = "x86_64")]
            Int8Isa::Avx2 if self.float == FloatIsa::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Int8Isa::Avx2 => "AVX2",
            #[cfg(target_arch = "aarch64")]
            Int8Isa::NeonDot => "NEON with dot products",
            Int8Isa::Baseline if cfg!(target_arch = "aarch64") => "NEON",
            Int8Isa::Baseline => "portable",
        }
    }
}

/// Compiles a function once for each instruction set that speeds up rows of `f32`, and runs the one that the kernels name.
///
/// The body is generic over the vector type and marked unsafe, since it may run only where the vector's instructions are.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident<$vector:ident: F32x16>($($argument:ident: $kind:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name(kernels: $crate::kernels::Kernels, $($argument: $kind),*) {
            use $crate::kernels::{isa::FloatIsa, vector};

            #[inline(always)]
            unsafe fn body<$vector: F32x16>($($argument: $kind),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
            fn avx512($($argument: $kind),*) {
                // SAFETY: the function has the vector's instructions.
                unsafe { body::<vector::x86::Avx512>($($argument),*) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $kind),*) {
                // SAFETY: the function has the vector's instructions.
                unsafe { body::<vector::x86::Avx2>($($argument),*) }
            }

            // SAFETY: `Kernels` names only what the processor has, and the array needs nothing.
            unsafe {
                match kernels.float {
                    #[cfg(target_arch = "x86_64")]
                    FloatIsa::Avx512 => avx512($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    FloatIsa::Avx2 => avx2($($argument),*),
                    FloatIsa::Baseline => body::<vector::Array>($($argument),*),
                }
            }
        }
    };
}
pub(super) use multiversion;
