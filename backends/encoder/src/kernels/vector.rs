//! Sixteen `f32` as the registers of an instruction set.

/// Adding this to a number of a magnitude below 2^22 leaves its nearest integer in the lowest bits, as an offset from the constant's own.
pub(super) const ROUND: f32 = 12_582_912.0;

/// How many numbers a vector holds.
pub(super) const LANES: usize = 16;

/// Folds an array by halves.
macro_rules! fold {
    ($values:expr, |$a:ident, $b:ident| $with:expr) => {{
        let mut all = $values;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                let ($a, $b) = (all[i], all[i + half]);
                all[i] = $with;
            }
            half /= 2;
        }
        all[0]
    }};
}

/// Sixteen numbers. All methods are inlined into functions that have the instruction set.
///
/// # Safety
/// Callers of any method must run on a processor that has the implementor's instructions; pointers must be good for what is read or
/// written.
pub(super) trait F32x16: Copy {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * b + c`.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The smaller; `other` where one is no number.
    unsafe fn min(self, other: Self) -> Self;
    /// The greater; `other` where one is no number.
    unsafe fn max(self, other: Self) -> Self;
    /// 2^n of numbers to which [`ROUND`] was added.
    unsafe fn exp2_of_rounded(self) -> Self;
    /// What 32-bit integers stand for, whose bits were loaded.
    unsafe fn integer_bits_to_float(self) -> Self;
    /// Writes the lowest byte of each number's bits.
    unsafe fn store_low_bytes(self, to: *mut u8);

    /// The first `count` values; the rest is `fill`.
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize, fill: f32) -> Self {
        // SAFETY: the caller's promise, for `count` values.
        unsafe {
            if count == LANES {
                return Self::load(from);
            }
            let mut all = [fill; LANES];
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count);
            Self::load(all.as_ptr())
        }
    }

    /// Writes the first `count` values.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise, for `count` values.
        unsafe {
            if count == LANES {
                return self.store(to);
            }
            std::ptr::copy_nonoverlapping(self.to_array().as_ptr(), to, count);
        }
    }

    #[inline(always)]
    unsafe fn to_array(self) -> [f32; LANES] {
        let mut all = [0.0; LANES];
        // SAFETY: the array has room.
        unsafe { self.store(all.as_mut_ptr()) };
        all
    }

    /// The sum of all, added up in a fixed order.
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: the caller's promise.
        fold!(unsafe { self.to_array() }, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn least(self) -> f32 {
        // SAFETY: the caller's promise.
        fold!(unsafe { self.to_array() }, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        // SAFETY: the caller's promise.
        fold!(unsafe { self.to_array() }, |a, b| if a > b { a } else { b })
    }
}

/// Goes over so many values sixteen at a time: where they begin, and how many there are. A macro, since the compiler gives a closure none of the
/// instructions of the function that it is inlined into.
macro_rules! each_vector {
    ($len:expr, |$at:ident, $count:ident| $body:block) => {{
        let whole = $len - $len % LANES;
        let mut $at = 0;
        while $at < whole {
            let $count = LANES;
            $body
            $at += LANES;
        }
        if whole < $len {
            let $count = $len - whole;
            $body
        }
    }};
}
pub(super) use each_vector;

/// For any processor; the compiler makes of it what it can.
#[derive(Clone, Copy)]
pub(super) struct Array([f32; LANES]);

impl Array {
    #[inline(always)]
    fn map(self, other: Self, with: impl Fn(f32, f32) -> f32) -> Self {
        let mut all = self.0;
        for (one, other) in all.iter_mut().zip(other.0) {
            *one = with(*one, other);
        }
        Self(all)
    }
}

impl F32x16 for Array {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array needs no more alignment than its values.
        unsafe { Self(from.cast::<[f32; LANES]>().read()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.map(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.map(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.map(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.map(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        let mut all = self.0;
        for ((one, b), c) in all.iter_mut().zip(b.0).zip(c.0) {
            // On 64-bit Arm one instruction; elsewhere it would be a call of a library, so there it is two steps.
            *one = if cfg!(target_arch = "aarch64") { one.mul_add(b, c) } else { *one * b + c };
        }
        Self(all)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.map(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.map(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn exp2_of_rounded(self) -> Self {
        Self(self.0.map(|value| {
            f32::from_bits(value.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23)
        }))
    }
    #[inline(always)]
    unsafe fn integer_bits_to_float(self) -> Self {
        Self(self.0.map(|value| value.to_bits() as i32 as f32))
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[u8; LANES]>().write(self.0.map(|value| value.to_bits() as u8)) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::{F32x16, ROUND};

    /// 127 less the bits of [`ROUND`]: what turns a rounded number's bits into an exponent.
    const EXPONENT: i32 = 127 - ROUND.to_bits() as i32;

    /// AVX-512.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // SAFETY of all blocks: the caller's promise.
    impl F32x16 for Avx512 {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Self(_mm512_set1_ps(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm512_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { Self(_mm512_div_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            unsafe { Self(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            unsafe { Self(_mm512_min_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { Self(_mm512_max_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn exp2_of_rounded(self) -> Self {
            unsafe {
                let exponent = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(EXPONENT));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
            }
        }
        #[inline(always)]
        unsafe fn integer_bits_to_float(self) -> Self {
            unsafe { Self(_mm512_cvtepi32_ps(_mm512_castps_si512(self.0))) }
        }
        #[inline(always)]
        unsafe fn store_low_bytes(self, to: *mut u8) {
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(self.0))) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize, fill: f32) -> Self {
            unsafe { Self(_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(count), from)) }
        }
        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
        }
    }

    /// A mask of the first lanes.
    #[inline(always)]
    fn first(count: usize) -> u16 {
        ((1_u32 << count) - 1) as u16
    }

    /// AVX2 with FMA: two registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    // SAFETY of all blocks: the caller's promise.
    impl F32x16 for Avx2 {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn exp2_of_rounded(self) -> Self {
            unsafe { Self(exp2_of_rounded(self.0), exp2_of_rounded(self.1)) }
        }
        #[inline(always)]
        unsafe fn integer_bits_to_float(self) -> Self {
            unsafe {
                let (one, other) = (_mm256_castps_si256(self.0), _mm256_castps_si256(self.1));
                Self(_mm256_cvtepi32_ps(one), _mm256_cvtepi32_ps(other))
            }
        }
        #[inline(always)]
        unsafe fn store_low_bytes(self, to: *mut u8) {
            unsafe {
                let mask = _mm256_set1_epi32(0xff);
                let one = _mm256_and_si256(_mm256_castps_si256(self.0), mask);
                let other = _mm256_and_si256(_mm256_castps_si256(self.1), mask);
                _mm_storeu_si128(to.cast(), narrowed_to_bytes(one, other));
            }
        }
    }

    #[inline(always)]
    unsafe fn exp2_of_rounded(value: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_castps_si256(value), _mm256_set1_epi32(EXPONENT));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }

    /// Sixteen 32-bit numbers below 256 as bytes.
    #[inline(always)]
    unsafe fn narrowed_to_bytes(one: __m256i, other: __m256i) -> __m128i {
        unsafe {
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(one, other));
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
        }
    }
}
