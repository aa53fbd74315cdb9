// Causal attention of a step's queries over the pages of their rows. Up to MAX_QUERIES queries that share a key head
// (heads of one token, and neighbouring tokens) are computed together, so that keys and values are read once for all of
// them. A query's result does not depend, to the bit, on the queries beside it: its sums have one order, and positions
// that it may not see add zero. (Zero times NaN is NaN, but the queries of a group belong to one request, which fails
// with it.)
//
// A page holds all layers; of each, its keys as [kv heads, head dim, page size], so that a register holds one dimension of neighbouring
// positions, and its values as [kv heads, page size, head dim].
#pragma once
#include <vector>

#include "activation.h"
#include "simd.h"

struct Segment {  // `length` tokens of the step, at positions [start, start + length) of a row
    int32_t start, length;
    int32_t first_page;  // index of the row's first page in the step's page ids
};

struct KvLayout {
    int heads, kv_heads, head_dim, page_size;  // page_size is a multiple of LANES
    long page_stride;                          // floats from a layer's keys (or values) in one page to those in the next
    int group_size() const { return heads / kv_heads; }
};

struct AttentionRule {
    float scale, softcap;  // a softcap of 0: none
    int32_t window;        // a token sees itself and the window - 1 tokens before it; 0: all tokens before it
};

constexpr int MAX_QUERIES = 4;

inline void store_kv(const KvLayout& layout, const int32_t* page_ids, int position, const float* new_k,
                     const float* new_v, float* k, float* v) {
    const long page = page_ids[position / layout.page_size] * layout.page_stride;
    const int at = position % layout.page_size;
    for (int head = 0; head < layout.kv_heads; head++) {
        const long first = page + (long)head * layout.head_dim * layout.page_size;
        for (int d = 0; d < layout.head_dim; d++)
            k[first + d * layout.page_size + at] = new_k[head * layout.head_dim + d];
        std::memcpy(v + first + at * layout.head_dim, new_v + head * layout.head_dim, sizeof(float) * layout.head_dim);
    }
}

// out[n][d] = the sum over positions from `begin` on of weights[n][position] * value[position][d], divided by weight_sums[n], for as
// many dimensions d from `from` on as fill `registers` registers.
template <int count, int registers>
inline void weighted_values(const KvLayout& layout, const int32_t* page_ids, int begin, int length, const float* v,
                            const float* weights, int padded, const f32* weight_sums, float* const* out, int from) {
    f32 sums[count][registers] = {};
    page_ids += begin / layout.page_size;
    int first = begin % layout.page_size;  // of the page
    for (int base = begin - first; base < length; base += layout.page_size, page_ids++, first = 0) {
        const float* values = v + *page_ids * layout.page_stride + (long)first * layout.head_dim + from;
        const int end = length - base < layout.page_size ? length - base : layout.page_size;
        for (int i = first; i < end; i++, values += layout.head_dim) {
            f32 value[registers];
            for (int r = 0; r < registers; r++) value[r] = load<f32>(values + r * LANES);
            for (int n = 0; n < count; n++)
                for (int r = 0; r < registers; r++) sums[n][r] += value[r] * weights[n * padded + base + i];
        }
    }
    for (int n = 0; n < count; n++)
        for (int r = 0; r < registers; r++) store(out[n] + from + r * LANES, sums[n][r] / weight_sums[n]);
}

// The positions from `base` on that a query at position `last` sees.
inline i32 is_seen(const AttentionRule& rule, int base, int last) {
    const i32 positions = iota(base);
    i32 seen = positions <= last;
    if (rule.window) seen &= positions > last - rule.window;
    return seen;
}

// `count` queries of one key head, in order, each over the positions that it sees up to last_positions[n].
template <int count>
inline void attend(const KvLayout& layout, const AttentionRule& rule, const int32_t* page_ids, const int32_t* last_positions,
                   const float* const* q, const float* k, const float* v, float* const* out,
                   std::vector<float>& scratch) {
    const int dim = layout.head_dim, page_size = layout.page_size;
    const int length = last_positions[count - 1] + 1;  // the last query sees most
    const int padded = (length + LANES - 1) / LANES * LANES;
    const int first_seen = rule.window ? last_positions[0] - rule.window + 1 : 0;  // by the first query
    const int begin = first_seen > 0 ? first_seen / LANES * LANES : 0;
    scratch.resize((size_t)count * (dim + padded));
    float *queries = scratch.data(), *weights = queries + count * dim;
    for (int n = 0; n < count; n++)
        for (int d = 0; d < dim; d++) queries[n * dim + d] = q[n][d] * rule.scale;
    f32 max_scores[count], weight_sums[count];
    for (int n = 0; n < count; n++) max_scores[n] = broadcast(-__builtin_inff()), weight_sums[n] = f32{};
    for (int base = begin; base < padded; base += LANES) {
        const float* keys = k + page_ids[base / page_size] * layout.page_stride + base % page_size;
        f32 sums[count] = {};
        for (int d = 0; d < dim; d++) {
            const f32 key = load<f32>(keys + d * page_size);
            for (int n = 0; n < count; n++) sums[n] += key * queries[n * dim + d];
        }
        for (int n = 0; n < count; n++) {
            if (rule.softcap) sums[n] = soft_capped(sums[n], rule.softcap);
            const f32 score = is_seen(rule, base, last_positions[n]) ? sums[n] : broadcast(-__builtin_inff());
            max_scores[n] = vector_max(score, max_scores[n]);
            store(weights + n * padded + base, score);
        }
    }
    for (int n = 0; n < count; n++) max_scores[n] = broadcast(horizontal_max(max_scores[n]));
    for (int base = begin; base < padded; base += LANES)
        for (int n = 0; n < count; n++) {
            const f32 score = load<f32>(weights + n * padded + base);
            const f32 weight = is_seen(rule, base, last_positions[n]) ? vector_exp(score - max_scores[n]) : f32{};
            weight_sums[n] += weight;
            store(weights + n * padded + base, weight);
        }
    for (int n = 0; n < count; n++) weight_sums[n] = broadcast(horizontal_sum(weight_sums[n]));
    constexpr int registers = LANES == 16 ? 4 : 2;  // for each query
    int from = 0;
    for (; from + registers * LANES <= dim; from += registers * LANES)
        weighted_values<count, registers>(layout, page_ids, begin, length, v, weights, padded, weight_sums, out, from);
    for (; from + LANES <= dim; from += LANES)
        weighted_values<count, 1>(layout, page_ids, begin, length, v, weights, padded, weight_sums, out, from);
    for (; from < dim; from++)
        for (int n = 0; n < count; n++) {
            float sum = 0.0f;
            for (int position = begin; position < length; position++)
                sum += weights[n * padded + position] *
                       v[page_ids[position / page_size] * layout.page_stride + (long)position % page_size * dim + from];
            out[n][from] = sum / weight_sums[n][0];
        }
}

// Up to MAX_QUERIES queries of key head `kv_head`, from number `first` of the segment's on; query number t * group_size
// + g is head g of the group in the segment's token t. q and out point to the segment's first token.
inline void attend(const KvLayout& layout, const AttentionRule& rule, const Segment& segment, const int32_t* page_ids, int kv_head, int first,
                   const float* q, long q_stride, const float* k, const float* v, float* out, long out_stride,
                   std::vector<float>& scratch) {
    const int group_size = layout.group_size(), left = segment.length * group_size - first;
    const int count = left < MAX_QUERIES ? left : MAX_QUERIES;
    const float* from[MAX_QUERIES];
    float* to[MAX_QUERIES];
    int32_t last_positions[MAX_QUERIES];
    for (int n = 0; n < count; n++) {
        const int token = (first + n) / group_size;
        const int column = (kv_head * group_size + (first + n) % group_size) * layout.head_dim;
        from[n] = q + token * q_stride + column, to[n] = out + token * out_stride + column;
        last_positions[n] = segment.start + token;
    }
    const long head_start = (long)kv_head * layout.head_dim * layout.page_size;
    k += head_start, v += head_start;
    switch (count) {
        case 1: return attend<1>(layout, rule, page_ids, last_positions, from, k, v, to, scratch);
        case 2: return attend<2>(layout, rule, page_ids, last_positions, from, k, v, to, scratch);
        case 3: return attend<3>(layout, rule, page_ids, last_positions, from, k, v, to, scratch);
        default: return attend<4>(layout, rule, page_ids, last_positions, from, k, v, to, scratch);
    }
}
