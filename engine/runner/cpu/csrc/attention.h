// Attention of a step's queries over the pages of their rows. Queries that share a key head go together, so that keys
// and values are read once for all of them: the heads of a token, and tokens that lie side by side. A query's result is
// the same to the bit whatever queries are beside it: its sums have one order, and what it may not see adds zero. (Zero
// times what is no number is none, but queries that lie together are of one reply, which fails with it.)
//
// In a page, the keys of a head lie by dimension, [key heads, dim, page], so that a register holds one dimension of
// neighbouring positions; its values lie by position, [key heads, page, dim].
#pragma once
#include <vector>

#include "lanes.h"

struct Segment {  // `length` tokens of the step at positions [start, start + length) of a row
    int32_t start, length;
    int32_t pages;  // where its pages begin in the step's list
};

struct Heads {
    int queries, keys, dim, page;  // a page holds whole registers of positions
    int share() const { return queries / keys; }
    long of_page() const { return (long)keys * dim * page; }
};

constexpr int QUERIES = 4;  // go together

inline void keep(const Heads& heads, const int32_t* pages, int position, const float* from_k, const float* from_v,
                 float* k, float* v) {
    const long page = pages[position / heads.page] * heads.of_page();
    const int at = position % heads.page;
    for (int head = 0; head < heads.keys; head++) {
        const long first = page + (long)head * heads.dim * heads.page;
        for (int d = 0; d < heads.dim; d++) k[first + d * heads.page + at] = from_k[head * heads.dim + d];
        std::memcpy(v + first + at * heads.dim, from_v + head * heads.dim, sizeof(float) * heads.dim);
    }
}

// out[n][d], for `registers` full of dimensions from `from` on: the sum of weights[n][position] * value[position][d].
template <int count, int registers>
inline void weigh(const Heads& heads, const int32_t* pages, int length, const float* v, const float* weights, int padded,
                  const f32* whole, float* const* out, int from) {
    f32 sums[count][registers] = {};
    for (int base = 0; base < length; base += heads.page, pages++) {
        const float* values = v + *pages * heads.of_page() + from;
        const int end = length - base < heads.page ? length - base : heads.page;
        for (int i = 0; i < end; i++, values += heads.dim) {
            f32 value[registers];
            for (int r = 0; r < registers; r++) value[r] = load<f32>(values + r * LANES);
            for (int n = 0; n < count; n++)
                for (int r = 0; r < registers; r++) sums[n][r] += value[r] * weights[n * padded + base + i];
        }
    }
    for (int n = 0; n < count; n++)
        for (int r = 0; r < registers; r++) store(out[n] + from + r * LANES, sums[n][r] / whole[n]);
}

template <int count>
inline void attend(const Heads& heads, const int32_t* pages, const int32_t* last, const float* const* q, const float* k,
                   const float* v, float* const* out, std::vector<float>& space) {
    const int dim = heads.dim, page = heads.page, length = last[count - 1] + 1;  // the last query sees most
    const int padded = (length + LANES - 1) / LANES * LANES;
    space.resize((size_t)count * (dim + padded));
    float *queries = space.data(), *weights = queries + count * dim;
    const float scale = 1.0f / __builtin_sqrtf((float)dim);
    for (int n = 0; n < count; n++)
        for (int d = 0; d < dim; d++) queries[n * dim + d] = q[n][d] * scale;
    f32 peak[count], whole[count];
    for (int n = 0; n < count; n++) peak[n] = all(-__builtin_inff()), whole[n] = f32{};
    for (int base = 0; base < padded; base += LANES) {
        const float* keys = k + pages[base / page] * heads.of_page() + base % page;
        f32 sums[count] = {};
        for (int d = 0; d < dim; d++) {
            const f32 key = load<f32>(keys + d * page);
            for (int n = 0; n < count; n++) sums[n] += key * queries[n * dim + d];
        }
        for (int n = 0; n < count; n++) {
            const f32 score = counting(base) <= last[n] ? sums[n] : all(-__builtin_inff());
            peak[n] = larger(score, peak[n]);
            store(weights + n * padded + base, score);
        }
    }
    for (int n = 0; n < count; n++) peak[n] = all(highest(peak[n]));
    for (int base = 0; base < padded; base += LANES)
        for (int n = 0; n < count; n++) {
            const f32 score = load<f32>(weights + n * padded + base);
            const f32 weight = counting(base) <= last[n] ? exponential(score - peak[n]) : f32{};
            whole[n] += weight;
            store(weights + n * padded + base, weight);
        }
    for (int n = 0; n < count; n++) whole[n] = all(total(whole[n]));
    constexpr int registers = LANES == 16 ? 4 : 2;  // for each query
    int from = 0;
    for (; from + registers * LANES <= dim; from += registers * LANES)
        weigh<count, registers>(heads, pages, length, v, weights, padded, whole, out, from);
    for (; from + LANES <= dim; from += LANES)
        weigh<count, 1>(heads, pages, length, v, weights, padded, whole, out, from);
    for (; from < dim; from++)
        for (int n = 0; n < count; n++) {
            float sum = 0.0f;
            for (int position = 0; position < length; position++)
                sum += weights[n * padded + position] *
                       v[pages[position / page] * heads.of_page() + (long)position % page * dim + from];
            out[n][from] = sum / whole[n][0];
        }
}

// The queries from `first` on, up to QUERIES of them, of one key head. q and out: the segment's first token.
inline void attend(const Heads& heads, const Segment& segment, const int32_t* pages, int head, int first,
                   const float* q, long q_stride, const float* k, const float* v, float* out, long out_stride,
                   std::vector<float>& space) {
    const int share = heads.share(), left = segment.length * share - first, count = left < QUERIES ? left : QUERIES;
    const float* from[QUERIES];
    float* to[QUERIES];
    int32_t last[QUERIES];
    for (int n = 0; n < count; n++) {
        const int token = (first + n) / share, column = (head * share + (first + n) % share) * heads.dim;
        from[n] = q + token * q_stride + column, to[n] = out + token * out_stride + column;
        last[n] = segment.start + token;
    }
    k += (long)head * heads.dim * heads.page, v += (long)head * heads.dim * heads.page;
    switch (count) {
        case 1: return attend<1>(heads, pages, last, from, k, v, to, space);
        case 2: return attend<2>(heads, pages, last, from, k, v, to, space);
        case 3: return attend<3>(heads, pages, last, from, k, v, to, space);
        default: return attend<4>(heads, pages, last, from, k, v, to, space);
    }
}
