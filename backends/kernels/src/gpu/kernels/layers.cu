// Norms, rotary embedding, the gated activation, and the way of keys and values into the cache.
//
// Rows come in groups: those of a group follow each other, groups are group_stride apart (the Rows of the host). Kernels with "vectors" take 16
// bytes at a time, which the host asks for where everything is aligned; else one value.

// Where a row begins.
__device__ __forceinline__ i64 row_start(u32 row, u32 group_rows, i64 group_stride, u32 width) {
    return (i64)(row / group_rows) * group_stride + (i64)(row % group_rows) * width;
}

// A sum over all threads of a block of whole warps, which all get.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float sums[32];
    value = warp_sum(value);
    if (blockDim.x == 32) return value;
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0f;
    value = warp_sum(value);
    __syncthreads();
    return value;
}

// A block for each row. With a residual, x + residual goes to `sum`, rounded, and the norm is of that.
template <int STEP>
__device__ __forceinline__ void norm_row(const Element* x, const Element* residual, const Element* weight,
                                         Element* out, Element* sum, u32 width, float epsilon) {
    float squares = 0.0f;
    for (u32 at = threadIdx.x * STEP; at < width; at += blockDim.x * STEP) {
        float values[VECTOR];
        if (STEP == 1) {
            values[0] = widen(x[at]);
            if (residual) {
                values[0] = rounded(values[0] + widen(residual[at]));
                sum[at] = narrow(values[0]);
            }
        } else {
            unpack(load_vector(x + at), values);
            if (residual) {
                float more[VECTOR];
                unpack(load_vector(residual + at), more);
#pragma unroll
                for (int i = 0; i < VECTOR; i++) values[i] = rounded(values[i] + more[i]);
                *reinterpret_cast<Vector*>(sum + at) = pack(values);
            }
        }
#pragma unroll
        for (int i = 0; i < STEP; i++) squares += values[i] * values[i];
    }
    float share = 1.0f / sqrtf(block_sum(squares) / (float)width + epsilon);
    // A thread reads again what it has read or written itself.
    const Element* from = residual ? sum : x;
    for (u32 at = threadIdx.x * STEP; at < width; at += blockDim.x * STEP) {
        if (STEP == 1) {
            out[at] = narrow(widen(from[at]) * share * widen(weight[at]));
        } else {
            float values[VECTOR], weights[VECTOR];
            unpack(load_vector(from + at), values);
            unpack(load_vector(weight + at), weights);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) values[i] = values[i] * share * weights[i];
            *reinterpret_cast<Vector*>(out + at) = pack(values);
        }
    }
}

extern "C" __global__ void rms_norm(const Element* x, u32 group_rows, i64 group_stride, const Element* weight,
                                    Element* out, u32 width, float epsilon, u32 vectors) {
    const Element* row = x + row_start(blockIdx.x, group_rows, group_stride, width);
    Element* result = out + (i64)blockIdx.x * width;
    if (vectors) {
        norm_row<VECTOR>(row, nullptr, weight, result, nullptr, width, epsilon);
    } else {
        norm_row<1>(row, nullptr, weight, result, nullptr, width, epsilon);
    }
}

extern "C" __global__ void add_rms_norm(const Element* x, u32 x_rows, i64 x_stride, const Element* residual,
                                        u32 residual_rows, i64 residual_stride, const Element* weight,
                                        Element* out, Element* sum, u32 width, float epsilon, u32 vectors) {
    const Element* row = x + row_start(blockIdx.x, x_rows, x_stride, width);
    const Element* more = residual + row_start(blockIdx.x, residual_rows, residual_stride, width);
    i64 at = (i64)blockIdx.x * width;
    if (vectors) {
        norm_row<VECTOR>(row, more, weight, out + at, sum + at, width, epsilon);
    } else {
        norm_row<1>(row, more, weight, out + at, sum + at, width, epsilon);
    }
}

// A block for each token; its threads take the pairs of all heads.
__device__ __forceinline__ void turn(const Element* from, Element* to, u32 heads, u32 head_dim, const float* cos,
                                     const float* sin) {
    u32 half = head_dim / 2;
    for (u32 pair = threadIdx.x; pair < heads * half; pair += blockDim.x) {
        u32 place = pair % half;
        u32 at = pair / half * head_dim + place;
        float low = widen(from[at]), high = widen(from[at + half]);
        float c = cos[place], s = sin[place];
        to[at] = narrow(low * c - high * s);
        to[at + half] = narrow(high * c + low * s);
    }
}

extern "C" __global__ void rope(const Element* x, i64 stride, u32 heads, u32 head_dim, const float* cos,
                                const float* sin, u32 table, const u32* positions, Element* out) {
    u32 position = min(positions[blockIdx.x], table - 1);
    i64 row = (i64)position * (head_dim / 2);
    turn(x + (i64)blockIdx.x * stride, out + (i64)blockIdx.x * heads * head_dim, heads, head_dim, cos + row,
         sin + row);
}

// A token's values into its slot.
__device__ __forceinline__ void copy_row(const Element* from, Element* to, u32 width, u32 vectors) {
    if (vectors) {
        for (u32 at = threadIdx.x * VECTOR; at < width; at += blockDim.x * VECTOR) {
            *reinterpret_cast<Vector*>(to + at) = load_vector(from + at);
        }
    } else {
        for (u32 at = threadIdx.x; at < width; at += blockDim.x) to[at] = from[at];
    }
}

// A block for each token.
extern "C" __global__ void write_kv(const Element* k, i64 k_stride, const Element* v, i64 v_stride,
                                    Element* k_cache, Element* v_cache, u32 width, const u32* slots,
                                    u32 slot_count, u32 vectors) {
    u32 slot = slots[blockIdx.x];
    if (slot >= slot_count) return;
    copy_row(k + (i64)blockIdx.x * k_stride, k_cache + (i64)slot * width, width, vectors);
    copy_row(v + (i64)blockIdx.x * v_stride, v_cache + (i64)slot * width, width, vectors);
}

// The three of them in one: queries turn into `out`, keys turn into the cache, values go there as they are.
extern "C" __global__ void rope_write_kv(const Element* q, i64 q_stride, u32 heads, const Element* k, i64 k_stride,
                                         const Element* v, i64 v_stride, u32 kv_heads, u32 head_dim,
                                         const float* cos, const float* sin, u32 table, const u32* positions,
                                         Element* k_cache, Element* v_cache, const u32* slots, u32 slot_count,
                                         Element* out, u32 vectors) {
    i64 token = blockIdx.x;
    u32 position = min(positions[token], table - 1);
    cos += (i64)position * (head_dim / 2);
    sin += (i64)position * (head_dim / 2);
    turn(q + token * q_stride, out + token * heads * head_dim, heads, head_dim, cos, sin);
    u32 slot = slots[token];
    if (slot >= slot_count) return;
    u32 width = kv_heads * head_dim;
    turn(k + token * k_stride, k_cache + (i64)slot * width, kv_heads, head_dim, cos, sin);
    copy_row(v + token * v_stride, v_cache + (i64)slot * width, width, vectors);
}

__device__ __forceinline__ float gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// blockIdx.x is the row, blockIdx.y a part of it.
extern "C" __global__ void silu_mul(const Element* gate, u32 gate_rows, i64 gate_stride, const Element* up,
                                    u32 up_rows, i64 up_stride, Element* out, u32 width, u32 vectors) {
    gate += row_start(blockIdx.x, gate_rows, gate_stride, width);
    up += row_start(blockIdx.x, up_rows, up_stride, width);
    out += (i64)blockIdx.x * width;
    u32 thread = blockIdx.y * blockDim.x + threadIdx.x;
    if (vectors) {
        u32 at = thread * VECTOR;
        if (at >= width) return;
        float gates[VECTOR], ups[VECTOR];
        unpack(load_vector(gate + at), gates);
        unpack(load_vector(up + at), ups);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) gates[i] = gated(gates[i], ups[i]);
        *reinterpret_cast<Vector*>(out + at) = pack(gates);
    } else if (thread < width) {
        out[thread] = narrow(gated(widen(gate[thread]), widen(up[thread])));
    }
}
