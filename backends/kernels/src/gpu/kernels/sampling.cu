// The choice of the next token: a block of 1024 threads for each row of logits. What it computes, the CPU computes step by step in the same way
// (cpu/sampling.rs, cpu/math.rs, cpu/philox.rs), so that both come to the same token: hence the operations that say how they round.

#define THREADS 1024
#define NO_TOKEN 0xffffffffu
// Scores beyond are cut to it, so that differences of two are finite.
#define LIMIT 1e30f
// Scores are sorted into bins by how far they are below the highest, 64 to the unit; the last has the rest, which has no mass.
#define BINS 2048
#define BINS_PER_UNIT 64.0f
// Scores of one bin that are looked at in shared memory.
#define LISTED 1024

// As the host writes it.
struct Row {
    u32 temperature;
    u32 top_k;
    u32 top_p;
    u32 penalty;
    u32 seen_start;
    u32 seen_count;
    u32 seed[2];
    u32 position[2];
};

__device__ __forceinline__ float exact_exp(float x) {
    const float rounder = 12582912.0f;
    float shifted = __fadd_rn(__fmul_rn(x, 1.44269504088896340736f), rounder);
    float whole = __fsub_rn(shifted, rounder);
    float rest = __fsub_rn(x, __fmul_rn(whole, 0.6933594f));
    rest = __fsub_rn(rest, __fmul_rn(whole, -2.1219444e-4f));
    float sum = 1.9875691e-4f;
    sum = __fadd_rn(__fmul_rn(sum, rest), 1.3981999e-3f);
    sum = __fadd_rn(__fmul_rn(sum, rest), 8.333452e-3f);
    sum = __fadd_rn(__fmul_rn(sum, rest), 4.1665796e-2f);
    sum = __fadd_rn(__fmul_rn(sum, rest), 1.6666666e-1f);
    sum = __fadd_rn(__fmul_rn(sum, rest), 0.5f);
    float value = __fadd_rn(__fadd_rn(__fmul_rn(sum, __fmul_rn(rest, rest)), rest), 1.0f);
    u32 power = (float_to_bits(shifted) - float_to_bits(rounder) + 127u) << 23;
    return x < -87.0f ? 0.0f : __fmul_rn(value, bits_to_float(power));
}

__device__ __forceinline__ float twice_atanh(float s) {
    float square = __fmul_rn(s, s);
    float sum = 1.0f / 9.0f;
    sum = __fadd_rn(__fmul_rn(sum, square), 1.0f / 7.0f);
    sum = __fadd_rn(__fmul_rn(sum, square), 1.0f / 5.0f);
    sum = __fadd_rn(__fmul_rn(sum, square), 1.0f / 3.0f);
    sum = __fadd_rn(__fmul_rn(sum, square), 1.0f);
    return __fmul_rn(__fmul_rn(2.0f, s), sum);
}

__device__ __forceinline__ float exponential(u32 bits) {
    if (bits < (1u << 30)) {
        float v = __fmul_rn(__fadd_rn(__uint2float_rn(bits), 0.5f), 1.0f / 4294967296.0f);
        return twice_atanh(__fdiv_rn(v, __fsub_rn(2.0f, v)));
    }
    u32 rest = float_to_bits(__fadd_rn(__uint2float_rn(~bits), 0.5f));
    u32 above = (rest & 0x007fffffu) >= 0x00400000u ? 1u : 0u;
    u32 exponent = (rest >> 23) + above;
    float mantissa = bits_to_float((rest & 0x007fffffu) | ((127u - above) << 23));
    float twos = __fsub_rn(159.0f, __uint2float_rn(exponent));
    float part = twice_atanh(__fdiv_rn(__fsub_rn(mantissa, 1.0f), __fadd_rn(mantissa, 1.0f)));
    return __fsub_rn(__fmul_rn(twos, 0.69314718055994530942f), part);
}

__device__ __forceinline__ void philox(u32 key_0, u32 key_1, u32 (&words)[4]) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 first = (u64)words[0] * 0xd2511f53u;
        u64 second = (u64)words[2] * 0xcd9e8d57u;
        words[0] = (u32)(second >> 32) ^ words[1] ^ key_0;
        words[1] = (u32)second;
        words[2] = (u32)(first >> 32) ^ words[3] ^ key_1;
        words[3] = (u32)first;
        key_0 += 0x9e3779b9u;
        key_1 += 0xbb67ae85u;
    }
}

__device__ __forceinline__ float bounded(float score) {
    float above = score > -LIMIT ? score : -LIMIT;
    return above < LIMIT ? above : LIMIT;
}

__device__ __forceinline__ u64 mass(float score, float highest) {
    return __float2ull_rz(__fmul_rn(exact_exp(__fsub_rn(score, highest)), 1099511627776.0f));
}

__device__ __forceinline__ u32 bin_of(float score, float highest) {
    return (u32)fminf(__fmul_rn(__fsub_rn(highest, score), BINS_PER_UNIT), (float)(BINS - 1));
}

// Bits that are in the order of the numbers.
__device__ __forceinline__ u32 ordered(float value) {
    u32 bits = float_to_bits(__fadd_rn(value, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float from_ordered(u32 key) {
    return bits_to_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// Over all threads of the block, which all get the result.
__device__ __forceinline__ u64 block_most(u64 value) {
    __shared__ u64 most[32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        u64 other = __shfl_xor_sync(FULL_WARP, value, step);
        value = other > value ? other : value;
    }
    if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = value;
    __syncthreads();
    value = most[threadIdx.x % 32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        u64 other = __shfl_xor_sync(FULL_WARP, value, step);
        value = other > value ? other : value;
    }
    __syncthreads();
    return value;
}

__device__ __forceinline__ u64 block_total(u64 value) {
    __shared__ u64 totals[32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(FULL_WARP, value, step);
    if (threadIdx.x % 32 == 0) totals[threadIdx.x / 32] = value;
    __syncthreads();
    value = totals[threadIdx.x % 32];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(FULL_WARP, value, step);
    __syncthreads();
    return value;
}

// What the search for a lowest score works with.
struct Search {
    u32 counts[BINS];
    u64 masses[BINS];
    float list[LISTED];
    u32 listed;
    u32 bin;
    u64 before;
};

// What a score adds to what is wanted: mass, or 1.
__device__ __forceinline__ u64 part_of(float score, float highest, bool by_mass) {
    return by_mass ? mass(score, highest) : 1;
}

// The highest score from which on there is as much as wanted. There must be that much.
__device__ float lowest_for(Search& search, const float* scores, u32 vocabulary, float highest, bool by_mass,
                            u64 wanted) {
    // A warp finds the bin: each lane adds up a 32nd of them, and the lane in which the sum passes looks closer.
    if (threadIdx.x < 32) {
        const u32 own = BINS / 32, first = threadIdx.x * own;
        u64 sum = 0;
        for (u32 at = 0; at < own; at++) {
            // Lanes begin at different places, in different banks.
            u32 bin = first + (at + threadIdx.x) % own;
            sum += by_mass ? search.masses[bin] : search.counts[bin];
        }
        u64 through = sum;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            u64 other = __shfl_up_sync(FULL_WARP, through, step);
            if (threadIdx.x >= step) through += other;
        }
        u64 before = through - sum;
        if (through >= wanted && (before < wanted || threadIdx.x == 0)) {
            u32 bin = first;
            while (bin + 1 < first + own) {
                u64 here = by_mass ? search.masses[bin] : search.counts[bin];
                if (before + here >= wanted) break;
                before += here;
                bin++;
            }
            search.bin = bin;
            search.before = before;
            search.listed = 0;
        }
    }
    __syncthreads();
    u32 bin = search.bin;
    u64 before = search.before;
    for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
        if (bin_of(scores[token], highest) == bin) {
            u32 at = atomicAdd(&search.listed, 1u);
            if (at < LISTED) search.list[at] = scores[token];
        }
    }
    __syncthreads();
    u32 listed = search.listed;
    if (listed <= LISTED) {
        // Each thread asks for one score whether it is low enough.
        u64 found = 0;
        if (threadIdx.x < listed) {
            float own = search.list[threadIdx.x];
            u64 sum = before;
            for (u32 at = 0; at < listed; at++) {
                float score = search.list[at];
                if (score >= own) sum += part_of(score, highest, by_mass);
            }
            if (sum >= wanted) found = ordered(own);
        }
        return from_ordered((u32)block_most(found));
    }
    // Too many of them: bit by bit, from the highest.
    u32 key = 0;
    for (int bit = 31; bit >= 0; bit--) {
        u32 tried = key | 1u << bit;
        u64 sum = 0;
        for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
            float score = scores[token];
            if (bin_of(score, highest) == bin && ordered(score) >= tried) sum += part_of(score, highest, by_mass);
        }
        if (before + block_total(sum) >= wanted) key = tried;
    }
    return from_ordered(key);
}

// blockIdx.x is the row. `settings` has a Row for each, and after them the tokens that were seen.
extern "C" __global__ void __launch_bounds__(THREADS)
    sample(const Element* logits, i64 stride, u32 vocabulary, const u32* settings, u32 rows, float* scratch, u32* out) {
    __shared__ Search search;

    const Row row = reinterpret_cast<const Row*>(settings)[blockIdx.x];
    const Element* own = logits + (i64)blockIdx.x * stride;
    float* scores = scratch + (i64)blockIdx.x * vocabulary;
    float temperature = bits_to_float(row.temperature), penalty = bits_to_float(row.penalty);
    float top_p = bits_to_float(row.top_p);

    for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) scores[token] = widen(own[token]);
    __syncthreads();
    if (penalty != 1.0f) {
        const u32* seen = settings + rows * (u32)(sizeof(Row) / sizeof(u32)) + row.seen_start;
        for (u32 at = threadIdx.x; at < row.seen_count; at += THREADS) {
            u32 token = seen[at];
            // From the logit, so that a token that is there twice is written twice with the same.
            if (token < vocabulary) {
                float logit = widen(own[token]);
                scores[token] = logit > 0.0f ? __fdiv_rn(logit, penalty) : __fmul_rn(logit, penalty);
            }
        }
        __syncthreads();
    }

    bool greedy = temperature == 0.0f;
    float divisor = greedy ? 1.0f : temperature;
    // The highest score, and of equals the first.
    u64 best = 0;
    for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
        float score = bounded(__fdiv_rn(scores[token], divisor));
        scores[token] = score;
        u64 key = (u64)ordered(score) << 32 | ~token;
        best = key > best ? key : best;
    }
    best = block_most(best);
    float highest = from_ordered((u32)(best >> 32));
    if (highest <= -LIMIT || greedy) {
        if (threadIdx.x == 0) out[blockIdx.x] = highest <= -LIMIT ? NO_TOKEN : ~(u32)best;
        return;
    }

    float lowest = -LIMIT;
    bool by_count = row.top_k > 0 && row.top_k < vocabulary, by_mass = top_p < 1.0f;
    if (by_count || by_mass) {
        for (u32 bin = threadIdx.x; bin < BINS; bin += THREADS) {
            search.counts[bin] = 0;
            search.masses[bin] = 0;
        }
        __syncthreads();
        u32 rest = 0;
        for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
            u32 bin = bin_of(scores[token], highest);
            if (bin == BINS - 1) {
                rest++;
            } else {
                atomicAdd(&search.counts[bin], 1u);
                if (by_mass) atomicAdd(&search.masses[bin], mass(scores[token], highest));
            }
        }
        if (rest > 0) atomicAdd(&search.counts[BINS - 1], rest);
        __syncthreads();
    }
    if (by_count) lowest = lowest_for(search, scores, vocabulary, highest, false, row.top_k);
    if (by_mass) {
        u64 all = 0;
        for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
            if (scores[token] >= lowest) all += mass(scores[token], highest);
        }
        all = block_total(all);
        u64 wanted = __double2ull_rz(__dmul_rn((double)top_p, __ull2double_rn(all)));
        lowest = lowest_for(search, scores, vocabulary, highest, true, wanted);
    }

    // The race: the least time wins, and of equals the first token.
    u64 fastest = 0;
    for (u32 part = threadIdx.x; part * 4 < vocabulary; part += THREADS) {
        bool any = false;
        for (u32 lane = 0; lane < 4 && part * 4 + lane < vocabulary; lane++) any |= scores[part * 4 + lane] >= lowest;
        if (!any) continue;
        u32 words[4] = {part, row.position[0], row.position[1], 0};
        philox(row.seed[0], row.seed[1], words);
#pragma unroll
        for (u32 lane = 0; lane < 4; lane++) {
            u32 token = part * 4 + lane;
            if (token >= vocabulary || scores[token] < lowest) continue;
            float likely = exact_exp(__fsub_rn(scores[token], highest));
            if (likely == 0.0f) continue;
            // Times are above 0, so that their bits are in their order.
            u64 key = (u64)~float_to_bits(__fdiv_rn(exponential(words[lane]), likely)) << 32 | ~token;
            fastest = key > fastest ? key : fastest;
        }
    }
    fastest = block_most(fastest);
    if (threadIdx.x == 0) out[blockIdx.x] = ~(u32)fastest;
}
