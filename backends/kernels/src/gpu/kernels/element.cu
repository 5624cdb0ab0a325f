// The numbers that tensors hold, and what the other files share. No header is needed: what a GPU's compiler knows by itself is enough.
//
// ELEMENT is 0 for float, 1 for bf16, 2 for half. The same file is compiled by a C++ compiler for the emulator of the tests, which brings its
// own of what stands in assembly here.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define FULL_WARP 0xffffffffu

#if ELEMENT == 0
typedef float Element;
#else
typedef u16 Element;
#endif

// Values of 16 bytes, which is what a thread loads at once.
#define VECTOR (16 / (int)sizeof(Element))

#ifndef EMULATED
__device__ __forceinline__ float bits_to_float(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ u32 float_to_bits(float value) { return __float_as_uint(value); }

__device__ __forceinline__ float half_to_float(u16 half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

__device__ __forceinline__ u16 float_to_half(float value) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}
#endif

__device__ __forceinline__ float widen(float value) { return value; }

__device__ __forceinline__ float widen(u16 value) {
#if ELEMENT == 2
    return half_to_float(value);
#else
    return bits_to_float((u32)value << 16);
#endif
}

__device__ __forceinline__ Element narrow(float value) {
#if ELEMENT == 0
    return value;
#elif ELEMENT == 1
    // To the nearest, of two that are as near to the even one.
    u32 bits = float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#else
    return float_to_half(value);
#endif
}

// The float that a value becomes when it is stored and loaded again.
__device__ __forceinline__ float rounded(float value) { return widen(narrow(value)); }

#if ELEMENT != 0
// Two values side by side, the first in the lower half.
__device__ __forceinline__ u32 pair(float low, float high) {
#ifdef EMULATED
    return (u32)narrow(low) | (u32)narrow(high) << 16;
#else
    u32 both;
#if ELEMENT == 1
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
#endif
}
#endif

// 16 bytes of elements.
struct __align__(16) Vector {
    u32 words[4];
};

__device__ __forceinline__ Vector load_vector(const Element* from) { return *reinterpret_cast<const Vector*>(from); }

// The vector's values as floats.
__device__ __forceinline__ void unpack(const Vector& vector, float (&values)[VECTOR]) {
#pragma unroll
    for (int word = 0; word < 4; word++) {
#if ELEMENT == 0
        values[word] = bits_to_float(vector.words[word]);
#else
        values[2 * word] = widen((u16)(vector.words[word] & 0xffffu));
        values[2 * word + 1] = widen((u16)(vector.words[word] >> 16));
#endif
    }
}

__device__ __forceinline__ Vector pack(const float (&values)[VECTOR]) {
    Vector vector;
#pragma unroll
    for (int word = 0; word < 4; word++) {
#if ELEMENT == 0
        vector.words[word] = float_to_bits(values[word]);
#else
        vector.words[word] = pair(values[2 * word], values[2 * word + 1]);
#endif
    }
    return vector;
}

// The sum over the lanes of a warp, which all get.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(FULL_WARP, value, step);
    return value;
}
