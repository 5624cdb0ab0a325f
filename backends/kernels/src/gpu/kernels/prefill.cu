// Attention of many tokens of a sequence to their context, on tensor cores: a block takes 64 queries of a head, a warp 16 of them, and goes over
// the context in tiles with a running softmax (Dao, "FlashAttention-2", 2023). For bf16 and half, and heads of a multiple of 16 values.
//
// Compiled for the same shapes as decode.cu.

#if ELEMENT != 0 && HEAD_DIM % 16 == 0

#define QUERIES 64
// Keys of a tile: as many as shared memory holds without asking for more.
#define KEYS (HEAD_DIM > 128 ? 32 : 64)
// Rows of a tile lie so that eight of them begin in different banks.
#define STRIDE (HEAD_DIM + 8)

#ifndef EMULATED
// c += a b, for 16 rows, 8 columns and 16 values in between.
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
#if ELEMENT == 1
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two 8 × 8 matrices, transposed; lanes 0 to 15 say where their rows begin.
__device__ __forceinline__ void load_transposed(u32& first, u32& second, const Element* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(first), "=r"(second)
                 : "r"(at)
                 : "memory");
}

// Begins to copy 16 bytes into shared memory; zeros where there is nothing.
__device__ __forceinline__ void begin_copy(Element* to, const Element* from, bool there) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}

__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until no more than so many groups of copies are under way.
template <int LEFT>
__device__ __forceinline__ void await_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
#endif

// Some queries of a sequence: where they are, the place of the first in its sequence, and where the block table begins.
struct Queries {
    u32 token;
    u32 count;
    u32 place;
    u32 table;
};

// Begins to bring a tile of keys or values in; a group of copies.
__device__ __forceinline__ void begin_tile(Element (*tile)[STRIDE], const Element* cache, const u32* tables, u32 table,
                                           u32 first, u32 end, u32 kv_heads, u32 kv_head) {
    const u32 vectors = HEAD_DIM / VECTOR;
    for (u32 at = threadIdx.x; at < KEYS * vectors; at += 128) {
        u32 key = at / vectors, value = at % vectors * VECTOR;
        u32 place = first + key;
        bool there = place < end;
        i64 row = there ? cache_row(tables, table, place, kv_heads, kv_head) : 0;
        begin_copy(&tile[key][value], cache + row + value, there);
    }
    end_group();
}

// blockIdx: (tile of queries, head).
extern "C" __global__ void __launch_bounds__(128)
    prefill(const Element* q, i64 q_stride, const Element* k_cache, const Element* v_cache, const u32* tiles,
            const u32* tables, u32 kv_heads, float scale, u32 window, Element* out) {
    __shared__ __align__(16) Element keys[KEYS][STRIDE];
    __shared__ __align__(16) Element values[KEYS][STRIDE];

    const Queries tile = reinterpret_cast<const Queries*>(tiles)[blockIdx.x];
    u32 head = blockIdx.y, heads = gridDim.y, kv_head = head / GROUP;
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // As the fragments of tensor cores lie: of a lane are rows `low` and `low + 8`, and the columns `column` and the next.
    u32 row_in_fragment = lane / 4, column = lane % 4 * 2;
    u32 low = warp * 16 + row_in_fragment, high = low + 8;

    u32 query[HEAD_DIM / 16][4];
    const Element* own = q + (i64)head * HEAD_DIM + column;
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; step++) {
#pragma unroll
        for (int part = 0; part < 4; part++) {
            u32 row = part % 2 ? high : low;
            const Element* from = own + (i64)(tile.token + row) * q_stride + step * 16 + part / 2 * 8;
            query[step][part] = row < tile.count ? (u32)from[0] | (u32)from[1] << 16 : 0;
        }
    }

    float context[HEAD_DIM / 8][4];
#pragma unroll
    for (int part = 0; part < HEAD_DIM / 8; part++) {
#pragma unroll
        for (int i = 0; i < 4; i++) context[part][i] = 0.0f;
    }
    // Of the rows `low` and `high`.
    float highest[2] = {-1e30f, -1e30f}, sum[2] = {0.0f, 0.0f};
    float factor = scale * 1.44269504f;

    u32 end = tile.place + tile.count;
    u32 begin = tile.place + 1 > window ? tile.place + 1 - window : 0;
    begin_tile(keys, k_cache, tables, tile.table, begin, end, kv_heads, kv_head);
    for (u32 first = begin; first < end; first += KEYS) {
        await_groups<0>();
        __syncthreads();
        begin_tile(values, v_cache, tables, tile.table, first, end, kv_heads, kv_head);

        float scores[KEYS / 8][4];
#pragma unroll
        for (int part = 0; part < KEYS / 8; part++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[part][i] = 0.0f;
#pragma unroll
            for (int step = 0; step < HEAD_DIM / 16; step++) {
                const Element* key = &keys[part * 8 + row_in_fragment][step * 16 + column];
                u32 b0 = *reinterpret_cast<const u32*>(key);
                u32 b1 = *reinterpret_cast<const u32*>(key + 8);
                multiply(scores[part], query[step], b0, b1);
            }
        }
        __syncthreads();
        // The keys have been read: the next may come while the softmax is computed.
        if (first + KEYS < end) {
            begin_tile(keys, k_cache, tables, tile.table, first + KEYS, end, kv_heads, kv_head);
        } else {
            end_group();
        }

        float above[2] = {highest[0], highest[1]};
#pragma unroll
        for (int part = 0; part < KEYS / 8; part++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 place = first + part * 8 + column + i % 2;
                u32 query_place = tile.place + (i < 2 ? low : high);
                bool seen = place <= query_place && query_place - place < window;
                scores[part][i] = seen ? scores[part][i] * factor : -1e30f;
                above[i / 2] = fmaxf(above[i / 2], scores[part][i]);
            }
        }
#pragma unroll
        for (int row = 0; row < 2; row++) {
            above[row] = fmaxf(above[row], __shfl_xor_sync(FULL_WARP, above[row], 1));
            above[row] = fmaxf(above[row], __shfl_xor_sync(FULL_WARP, above[row], 2));
            float shrink = exp2f(highest[row] - above[row]);
            highest[row] = above[row];
            sum[row] *= shrink;
#pragma unroll
            for (int part = 0; part < HEAD_DIM / 8; part++) {
                context[part][2 * row] *= shrink;
                context[part][2 * row + 1] *= shrink;
            }
        }
        u32 weights[KEYS / 16][4];
#pragma unroll
        for (int part = 0; part < KEYS / 8; part++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                // What is not seen weighs nothing, even where a row has seen nothing yet.
                float score = scores[part][i];
                scores[part][i] = score > -1e29f ? exp2f(score - above[i / 2]) : 0.0f;
                sum[i / 2] += scores[part][i];
            }
            weights[part / 2][part % 2 * 2] = pair(scores[part][0], scores[part][1]);
            weights[part / 2][part % 2 * 2 + 1] = pair(scores[part][2], scores[part][3]);
        }

        await_groups<1>();
        __syncthreads();
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
#pragma unroll
            for (int part = 0; part < HEAD_DIM / 8; part++) {
                u32 b0, b1;
                load_transposed(b0, b1, &values[step * 16 + lane % 16][part * 8]);
                multiply(context[part], weights[step], b0, b1);
            }
        }
    }
    await_groups<0>();

#pragma unroll
    for (int row = 0; row < 2; row++) {
        sum[row] += __shfl_xor_sync(FULL_WARP, sum[row], 1);
        sum[row] += __shfl_xor_sync(FULL_WARP, sum[row], 2);
        u32 query_row = row ? high : low;
        if (query_row >= tile.count) continue;
        float share = 1.0f / sum[row];
        Element* to = out + ((i64)(tile.token + query_row) * heads + head) * HEAD_DIM + column;
#pragma unroll
        for (int part = 0; part < HEAD_DIM / 8; part++) {
            *reinterpret_cast<u32*>(to + part * 8) =
                pair(context[part][2 * row] * share, context[part][2 * row + 1] * share);
        }
    }
}

#endif
