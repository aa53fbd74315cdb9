// Attention of a step's queries over the pages of their rows. The lanes of a register are queries that share a key head:
// the heads of a token, and tokens that lie side by side. A query's result is the same to the bit whatever lanes are
// beside it: sums run over positions in order, and positions that it may not see add zero.
#pragma once
#include <vector>

#include "lanes.h"

struct Segment {  // `length` tokens of the step at positions [start, start + length) of a row
    int32_t start, length;
    int32_t pages;  // where its pages begin in the step's list
};

struct Heads {
    int queries, keys, dim, page;
    int share() const { return queries / keys; }
};

constexpr int KEYS = 8;  // read together; pages hold a multiple of them

inline long slot(const int32_t* pages, int position, int page) {
    return (long)pages[position / page] * page + position % page;
}

// The lanes [first, first + LANES) of a segment's queries of one key head. q and out: the segment's first token.
inline void attend(const Heads& heads, const Segment& segment, const int32_t* pages, int head, int first,
                   const float* q, long q_stride, const float* k, const float* v, float* out, long out_stride,
                   std::vector<float>& space) {
    const int share = heads.share(), dim = heads.dim, count = segment.length * share;
    const int used = count - first < LANES ? count - first : LANES;
    const int length = segment.start + (first + used - 1) / share + 1;  // positions that the last query sees
    const int padded = (length + KEYS - 1) / KEYS * KEYS;
    const long row = (long)heads.keys * dim;
    space.resize((size_t)(dim + padded) * LANES);
    float *queries = space.data(), *weights = queries + dim * LANES;
    i32 last = {};  // position of each query
    const float scale = 1.0f / __builtin_sqrtf((float)dim);
    for (int lane = 0; lane < LANES; lane++) {
        const int at = first + (lane < used ? lane : 0);
        const float* from = q + at / share * q_stride + (head * share + at % share) * dim;
        last[lane] = segment.start + at / share;
        for (int d = 0; d < dim; d++) queries[d * LANES + lane] = from[d] * scale;
    }
    f32 peak = all(-__builtin_inff());
    for (int position = 0; position < padded; position += KEYS) {
        const float* keys = k + slot(pages, position, heads.page) * row + head * dim;
        f32 sums[KEYS] = {};
        for (int d = 0; d < dim; d++) {
            const f32 by = load<f32>(queries + d * LANES);
            for (int i = 0; i < KEYS; i++) sums[i] += by * keys[i * row + d];
        }
        for (int i = 0; i < KEYS; i++) {
            const f32 score = last >= position + i ? sums[i] : all(-__builtin_inff());
            peak = score > peak ? score : peak;
            store(weights + (position + i) * LANES, score);
        }
    }
    f32 sum = {};
    for (int position = 0; position < length; position++) {
        const f32 score = load<f32>(weights + position * LANES);
        const f32 weight = last >= position ? exponential(score - peak) : f32{};
        sum += weight;
        store(weights + position * LANES, weight);
    }
    const f32 share_of = 1.0f / sum;
    for (int from = 0; from < dim; from += LANES) {
        const int width = dim - from < LANES ? dim - from : LANES;
        f32 sums[LANES] = {};
        for (int position = 0; position < length; position++) {
            const f32 weight = load<f32>(weights + position * LANES);
            const float* values = v + slot(pages, position, heads.page) * row + head * dim + from;
            if (width == LANES)
                for (int d = 0; d < LANES; d++) sums[d] += weight * values[d];
            else
                for (int d = 0; d < width; d++) sums[d] += weight * values[d];
        }
        for (int d = 0; d < width; d++) {
            const f32 result = sums[d] * share_of;
            for (int lane = 0; lane < used; lane++) {
                const int at = first + lane;
                out[at / share * out_stride + (head * share + at % share) * dim + from + d] = result[lane];
            }
        }
    }
}
