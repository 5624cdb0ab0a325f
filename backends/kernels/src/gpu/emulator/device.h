// What a GPU has and a CPU has not, for kernels that are compiled as C++: the threads of a block are fibers of one thread, which take turns where
// they wait for each other. It is for tests: it is as slow as it is plain.
//
// Shared memory is filled with what is not a number before each block, the order of turns changes from block to block, and copies that a thread begins
// arrive at once or as late as they may, so that a kernel that does not wait where it must comes to something else.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

#define __device__ static
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("shared_memory")))

struct Place {
    unsigned x, y, z;
};

struct Barrier {
    unsigned arrived = 0, turn = 0;
};

struct Fiber {
    // Where it begins, on its own stack, and where it goes on: a jump is much cheaper than a change of context, which asks the system.
    ucontext_t context;
    jmp_buf place;
    char* stack;
    bool begun, ended;
    Barrier* barrier;
    unsigned turn;
    // Copies that this thread has begun, in groups; the last group is not closed yet.
    std::deque<std::vector<std::function<void()>>> copies;
};

struct Warp {
    Barrier barrier;
    unsigned long long values[32];
    unsigned fragments[32][6];
    const unsigned short* rows[32];
};

static Place threadIdx, blockIdx, blockDim, gridDim;
static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static Barrier block_barrier;
static ucontext_t caller;
static jmp_buf scheduler;
static bool copies_are_late;
static std::function<void()> kernel_body;

extern "C" char __start_shared_memory[] __attribute__((weak));
extern "C" char __stop_shared_memory[] __attribute__((weak));

static void wait_at(Barrier& barrier, unsigned threads) {
    Fiber& fiber = fibers[threadIdx.x];
    unsigned turn = barrier.turn;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        barrier.turn++;
        return;
    }
    fiber.barrier = &barrier;
    fiber.turn = turn;
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

static void run_fiber() {
    kernel_body();
    fibers[threadIdx.x].ended = true;
    _longjmp(scheduler, 1);
}

// Lets a thread run until it waits or ends.
static void resume(Fiber& fiber) {
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    swapcontext(&caller, &fiber.context);
}

static void run_block(unsigned threads, unsigned order) {
    const size_t stack_bytes = 64 * 1024;
    if (__start_shared_memory) memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    fibers.resize(threads);
    warps.assign((threads + 31) / 32, Warp());
    block_barrier = Barrier();
    for (unsigned thread = 0; thread < threads; thread++) {
        Fiber& fiber = fibers[thread];
        if (!fiber.stack) fiber.stack = (char*)malloc(stack_bytes);
        fiber.begun = fiber.ended = false;
        fiber.barrier = nullptr;
        fiber.copies.assign(1, {});
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (unsigned left = threads; left > 0;) {
        bool any = false;
        for (unsigned at = 0; at < threads; at++) {
            unsigned thread = order % 2 ? threads - 1 - at : at;
            Fiber& fiber = fibers[thread];
            if (fiber.ended || (fiber.barrier && fiber.barrier->turn == fiber.turn)) continue;
            fiber.barrier = nullptr;
            threadIdx = {thread, 0, 0};
            resume(fiber);
            any = true;
            if (fiber.ended) left--;
        }
        if (!any) {
            fprintf(stderr, "the threads of a block wait for each other for ever\n");
            abort();
        }
    }
}

static inline void __syncthreads() { wait_at(block_barrier, blockDim.x); }

static Warp& own_warp() { return warps[threadIdx.x / 32]; }
static void wait_for_warp() { wait_at(own_warp().barrier, 32); }

template <class T>
static T exchange(T value, int from) {
    Warp& warp = own_warp();
    memcpy(&warp.values[threadIdx.x % 32], &value, sizeof(T));
    wait_for_warp();
    T result = value;
    if (from >= 0 && from < 32) memcpy(&result, &warp.values[from], sizeof(T));
    wait_for_warp();
    return result;
}

template <class T>
static T __shfl_xor_sync(unsigned, T value, int mask) {
    return exchange(value, (threadIdx.x % 32) ^ mask);
}

template <class T>
static T __shfl_up_sync(unsigned, T value, int steps) {
    return exchange(value, (int)(threadIdx.x % 32) - steps);
}

template <class T>
static T atomicAdd(T* at, T value) {
    T before = *at;
    *at += value;
    return before;
}

static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __uint2float_rn(unsigned a) { return (float)a; }
static inline unsigned long long __float2ull_rz(float a) { return (unsigned long long)a; }
static inline double __ull2double_rn(unsigned long long a) { return (double)a; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline unsigned long long __double2ull_rz(double a) { return (unsigned long long)a; }

static inline float bits_to_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline unsigned float_to_bits(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float half_to_float(unsigned short half) {
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    float size = exponent == 0    ? std::ldexp((float)mantissa, -24)
                 : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                  : std::ldexp((float)(mantissa + 1024), exponent - 25);
    return half >> 15 ? -size : size;
}

static inline unsigned short float_to_half(float value) {
    unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    float size = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    // The distance of two neighbours is a power of two; the nearest of them, the even one of two that are as near.
    int exponent = size < 6.103515625e-5f ? -14 : std::ilogb(size);
    unsigned short steps = (unsigned short)std::nearbyint(std::ldexp(size, 10 - exponent));
    return sign | (unsigned short)(steps + ((exponent + 14) << 10));
}

#if ELEMENT != 0
static float widen(unsigned short value);

// As the manual of PTX lays fragments of m16n8k16 out.
static void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    Warp& warp = own_warp();
    unsigned lane = threadIdx.x % 32;
    unsigned own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(warp.fragments[lane], own, sizeof own);
    wait_for_warp();
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            unsigned pair_a = warp.fragments[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            unsigned pair_b = warp.fragments[column * 4 + k % 8 / 2][4 + k / 8];
            c[i] += widen((unsigned short)(pair_a >> k % 2 * 16)) * widen((unsigned short)(pair_b >> k % 2 * 16));
        }
    }
    wait_for_warp();
}

static void load_transposed(unsigned& first, unsigned& second, const unsigned short* row) {
    Warp& warp = own_warp();
    unsigned lane = threadIdx.x % 32;
    warp.rows[lane] = row;
    wait_for_warp();
    auto two = [&](unsigned matrix) {
        unsigned low = warp.rows[matrix * 8 + lane % 4 * 2][lane / 4];
        unsigned high = warp.rows[matrix * 8 + lane % 4 * 2 + 1][lane / 4];
        return low | high << 16;
    };
    first = two(0);
    second = two(1);
    wait_for_warp();
}

static void begin_copy(unsigned short* to, const unsigned short* from, bool there) {
    auto copy = [=] {
        if (there) memcpy(to, from, 16);
        else memset(to, 0, 16);
    };
    if (copies_are_late) fibers[threadIdx.x].copies.back().push_back(copy);
    else copy();
}

static void end_group() { fibers[threadIdx.x].copies.emplace_back(); }

template <int LEFT>
static void await_groups() {
    auto& copies = fibers[threadIdx.x].copies;
    while (copies.size() > LEFT + 1) {
        for (auto& copy : copies.front()) copy();
        copies.pop_front();
    }
}
#endif
