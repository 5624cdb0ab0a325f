// Attention of single tokens to their contexts, split over blocks where there are few of them ("flash decoding", Dao et al., 2023).
//
// Compiled for a shape: HEAD_DIM values a head, GROUP heads of queries for each of the cache, BLOCK_SIZE tokens a block of the cache.

// Heads of queries that a block takes: all of a group, so that keys and values are read once, but not so many that registers run out.
#define HEADS (GROUP < 8 ? GROUP : 8)
#define HEAD_TILES ((GROUP + HEADS - 1) / HEADS)
#define WARPS 4
// Loads of keys that a warp has under way.
#define LOADS 4

#define ROW_VECTORS (HEAD_DIM / VECTOR)
// Lanes that share a key, a power of two, and vectors that each takes of it.
#define LANES                                                                                                  \
    (ROW_VECTORS > 16 ? 32 : ROW_VECTORS > 8 ? 16 : ROW_VECTORS > 4 ? 8 : ROW_VECTORS > 2 ? 4 : ROW_VECTORS > 1 ? 2 : 1)
#define LANE_VECTORS ((ROW_VECTORS + LANES - 1) / LANES)
#define LANE_VALUES (LANE_VECTORS * VECTOR)
// Keys that a warp takes at once, and those of a tile.
#define WARP_KEYS (32 / LANES)
#define TILE_KEYS (LOADS * WARP_KEYS)

// A token: where its query is, where its sequence's block table begins, and how many tokens of the sequence it sees at most, itself included.
struct Item {
    u32 token;
    u32 table;
    u32 end;
};

// Highest score, sum of weights and weighted sum of values of a part of a context; relative to the highest, in powers of two.
struct Part {
    float highest;
    float sum;
};

__device__ __forceinline__ i64 cache_row(const u32* tables, u32 table, u32 place, u32 kv_heads, u32 kv_head) {
    i64 block = tables[table + place / BLOCK_SIZE];
    return ((block * BLOCK_SIZE + place % BLOCK_SIZE) * kv_heads + kv_head) * HEAD_DIM;
}

// blockIdx: (item, head of the cache times HEAD_TILES plus tile, split). Each warp takes every fourth tile of the split.
//
// Where there is one split the result goes to `out`, else each split's part goes to `parts` and `sums`, [items, heads, splits].
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    decode(const Element* q, i64 q_stride, const Element* k_cache, const Element* v_cache, const u32* items,
           const u32* tables, u32 kv_heads, float scale, u32 window, Element* out, Part* parts, float* sums) {
    // In fours, so that lanes that read theirs at once do not wait for each other.
    __shared__ __align__(16) float queries[HEADS][VECTOR / 4][ROW_VECTORS][4];
    __shared__ float contexts[WARPS][HEAD_DIM];
    __shared__ float highest_of[WARPS][HEADS];
    __shared__ float sum_of[WARPS][HEADS];

    const Item item = reinterpret_cast<const Item*>(items)[blockIdx.x];
    u32 kv_head = blockIdx.y / HEAD_TILES;
    u32 first_head = blockIdx.y % HEAD_TILES * HEADS;
    u32 head_count = min((u32)HEADS, (u32)GROUP - first_head);
    u32 heads = kv_heads * GROUP;
    u32 head = kv_head * GROUP + first_head;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 own_key = lane / LANES, own_lane = lane % LANES;

    // Scores are of powers of two.
    float factor = scale * 1.44269504f;
    for (u32 at = threadIdx.x; at < HEADS * HEAD_DIM; at += 32 * WARPS) {
        u32 h = at / HEAD_DIM, value = at % HEAD_DIM;
        i64 from = (i64)item.token * q_stride + (i64)head * HEAD_DIM + at;
        queries[h][value % VECTOR / 4][value / VECTOR][value % 4] = h < head_count ? widen(q[from]) * factor : 0.0f;
    }
    __syncthreads();

    u32 splits = gridDim.z;
    u32 length = min(item.end, window);
    u32 share = (length + splits - 1) / splits;
    u32 begin = item.end - length + min(blockIdx.z * share, length);
    u32 end = item.end - length + min((blockIdx.z + 1) * share, length);

    float highest[HEADS], sum[HEADS], context[HEADS][LANE_VALUES];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        highest[h] = -1e30f;
        sum[h] = 0.0f;
#pragma unroll
        for (int i = 0; i < LANE_VALUES; i++) context[h][i] = 0.0f;
    }

    for (u32 tile = begin + warp * TILE_KEYS; tile < end; tile += WARPS * TILE_KEYS) {
        Vector keys[LOADS][LANE_VECTORS], values[LOADS][LANE_VECTORS];
#pragma unroll
        for (int load = 0; load < LOADS; load++) {
            u32 place = tile + load * WARP_KEYS + own_key;
            i64 row = place < end ? cache_row(tables, item.table, place, kv_heads, kv_head) : 0;
#pragma unroll
            for (int part = 0; part < LANE_VECTORS; part++) {
                u32 vector = own_lane + part * LANES;
                Vector none = {{0, 0, 0, 0}};
                bool there = place < end && vector < ROW_VECTORS;
                keys[load][part] = there ? load_vector(k_cache + row + vector * VECTOR) : none;
                values[load][part] = there ? load_vector(v_cache + row + vector * VECTOR) : none;
            }
        }

        float scores[LOADS][HEADS];
#pragma unroll
        for (int load = 0; load < LOADS; load++) {
#pragma unroll
            for (int h = 0; h < HEADS; h++) scores[load][h] = 0.0f;
        }
#pragma unroll
        for (int part = 0; part < LANE_VECTORS; part++) {
            u32 vector = own_lane + part * LANES;
            // Beyond the row keys are zero; queries are read from where there are some.
            u32 from = vector < ROW_VECTORS ? vector : 0;
            float wide[LOADS][VECTOR];
#pragma unroll
            for (int load = 0; load < LOADS; load++) unpack(keys[load][part], wide[load]);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
#pragma unroll
                for (int i = 0; i < VECTOR; i++) {
                    float query = queries[h][i / 4][from][i % 4];
#pragma unroll
                    for (int load = 0; load < LOADS; load++) scores[load][h] += query * wide[load][i];
                }
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float above = highest[h];
#pragma unroll
            for (int load = 0; load < LOADS; load++) {
                float score = scores[load][h];
#pragma unroll
                for (int step = LANES / 2; step > 0; step /= 2) score += __shfl_xor_sync(FULL_WARP, score, step);
                bool there = tile + load * WARP_KEYS + own_key < end;
                scores[load][h] = there ? score : -1e30f;
                above = fmaxf(above, scores[load][h]);
            }
#pragma unroll
            for (int step = LANES; step < 32; step *= 2) above = fmaxf(above, __shfl_xor_sync(FULL_WARP, above, step));
            float shrink = exp2f(highest[h] - above);
            highest[h] = above;
            sum[h] *= shrink;
#pragma unroll
            for (int i = 0; i < LANE_VALUES; i++) context[h][i] *= shrink;
#pragma unroll
            for (int load = 0; load < LOADS; load++) {
                bool there = tile + load * WARP_KEYS + own_key < end;
                float weight = there ? exp2f(scores[load][h] - above) : 0.0f;
                scores[load][h] = weight;
                sum[h] += weight;
            }
        }
#pragma unroll
        for (int load = 0; load < LOADS; load++) {
#pragma unroll
            for (int part = 0; part < LANE_VECTORS; part++) {
                float wide[VECTOR];
                unpack(values[load][part], wide);
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
#pragma unroll
                    for (int i = 0; i < VECTOR; i++) context[h][part * VECTOR + i] += scores[load][h] * wide[i];
                }
            }
        }
    }

    // The lanes of a warp that had different keys have the same highest score; their sums come together first.
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
        for (int step = LANES; step < 32; step *= 2) {
            sum[h] += __shfl_xor_sync(FULL_WARP, sum[h], step);
#pragma unroll
            for (int i = 0; i < LANE_VALUES; i++) context[h][i] += __shfl_xor_sync(FULL_WARP, context[h][i], step);
        }
        if (lane == 0) {
            highest_of[warp][h] = highest[h];
            sum_of[warp][h] = sum[h];
        }
    }
    // Then the warps, a head at a time.
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        __syncthreads();
        if (own_key == 0) {
#pragma unroll
            for (int part = 0; part < LANE_VECTORS; part++) {
                u32 vector = own_lane + part * LANES;
                if (vector < ROW_VECTORS) {
#pragma unroll
                    for (int i = 0; i < VECTOR; i++) {
                        contexts[warp][vector * VECTOR + i] = context[h][part * VECTOR + i];
                    }
                }
            }
        }
        __syncthreads();
        if (h >= head_count) continue;
        float above = -1e30f, all = 0.0f, factors[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++) above = fmaxf(above, highest_of[w][h]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            factors[w] = exp2f(highest_of[w][h] - above);
            all += sum_of[w][h] * factors[w];
        }
        i64 row = (i64)blockIdx.x * heads + head + h;
        for (u32 at = threadIdx.x; at < HEAD_DIM; at += 32 * WARPS) {
            float value = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) value += contexts[w][at] * factors[w];
            if (splits == 1) {
                out[((i64)item.token * heads + head + h) * HEAD_DIM + at] = narrow(value / all);
            } else {
                sums[(row * splits + blockIdx.z) * HEAD_DIM + at] = value;
            }
        }
        if (splits > 1 && threadIdx.x == 0) parts[row * splits + blockIdx.z] = {above, all};
    }
}

// Puts the parts of a context together. blockIdx: (item, head); a thread for each value of a head, or several.
extern "C" __global__ void combine(const Part* parts, const float* sums, const u32* items, u32 splits, Element* out) {
    const Item item = reinterpret_cast<const Item*>(items)[blockIdx.x];
    i64 row = (i64)blockIdx.x * gridDim.y + blockIdx.y;
    const Part* own = parts + row * splits;
    float above = -1e30f, all = 0.0f;
    for (u32 split = 0; split < splits; split++) above = fmaxf(above, own[split].highest);
    for (u32 split = 0; split < splits; split++) all += own[split].sum * exp2f(own[split].highest - above);
    for (u32 at = threadIdx.x; at < HEAD_DIM; at += blockDim.x) {
        float value = 0.0f;
        for (u32 split = 0; split < splits; split++) {
            value += sums[(row * splits + split) * HEAD_DIM + at] * exp2f(own[split].highest - above);
        }
        out[((i64)item.token * gridDim.y + blockIdx.y) * HEAD_DIM + at] = narrow(value / all);
    }
}
