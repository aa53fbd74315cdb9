// y = x · Wᵀ with 4-bit or 8-bit weights that have one scale for every 32 columns of a row, and 16-bit activations. The
// sums within a group are integers and exact, and the groups are added in order, so a token's result does not depend, to
// the bit, on the tokens beside it.
#pragma once
#include "amx_linear.h"
#include "dot.h"

// Several tokens leave the processor too little room to read ahead by itself; for one it does so best.
constexpr int GROUPS_AHEAD = 16;

// `count` tokens times a strip of LANES rows. The tokens' groups are `groups` apart.
template <class Format, int count>
inline void multiply_strip(const Strip<Format>& strip, int groups, const QuantizedGroup* x, f32* sums) {
    for (int t = 0; t < count; t++) sums[t] = f32{};
    for (int g = 0; g < groups; g++, x++) {
        if (count > 1) strip.prefetch(g + GROUPS_AHEAD);
        u32 w[STEPS];
        for (int step = 0; step < STEPS; step++) w[step] = strip.codes(g, step);
        const f32 scale = strip.scale(g), minimum = strip.minimum(g);
        for (int t = 0; t < count; t++) {
            const QuantizedGroup& token = x[t * (long)groups];
            GroupSum<Format::bits> sum;
            for (int step = 0; step < STEPS; step++) sum.add(w[step], token, step);
            sums[t] = add_group<Format>(sums[t], sum.total(), token, scale, minimum);
        }
    }
}

template <class Format, int count>
inline void multiply_tile(const Matrix& m, int tile, const QuantizedGroup* x, float* y, long stride, bool add) {
    for (int row = tile * TILE; row < (tile + 1) * TILE && row < m.rows; row += LANES) {
        f32 sums[count];
        multiply_strip<Format, count>({m, row}, m.groups(), x, sums);
        for (int t = 0; t < count; t++) put_rows(m, row, sums[t], y + t * stride, add);
    }
}

// Tiles [from, to) of y = x · Wᵀ, or with `add` of y += x · Wᵀ; y's rows are `stride` apart.
template <class Format>
inline void multiply_tiles(const Matrix& m, int from, int to, int tokens, const QuantizedGroup* x, float* y,
                           long stride, bool add) {
    const int groups = m.groups();
    if (tokens >= TILE_TOKENS && amx::is_available()) {
        const int in_tiles = tokens / TILE_TOKENS * TILE_TOKENS;
        multiply_tiles_by_amx<Format>(m, from, to, in_tiles, x, y, stride, add);
        x += (long)in_tiles * groups, y += in_tiles * stride, tokens -= in_tiles;
    }
    constexpr int at_once = LANES == 16 ? 8 : 4;  // tokens; AVX-512 has twice the registers
    for (int tile = from; tile < to; tile++) {
        int t = 0;
        for (; t + at_once <= tokens; t += at_once)
            multiply_tile<Format, at_once>(m, tile, x + (long)t * groups, y + t * stride, stride, add);
        for (; t + 4 <= tokens; t += 4)
            multiply_tile<Format, 4>(m, tile, x + (long)t * groups, y + t * stride, stride, add);
        for (; t + 2 <= tokens; t += 2)
            multiply_tile<Format, 2>(m, tile, x + (long)t * groups, y + t * stride, stride, add);
        for (; t < tokens; t++)
            multiply_tile<Format, 1>(m, tile, x + (long)t * groups, y + t * stride, stride, add);
    }
}

inline void multiply_tiles(const Matrix& m, int from, int to, int tokens, const QuantizedGroup* x, float* y,
                           long stride, bool add) {
    if (m.bits == 8) return multiply_tiles<Int8>(m, from, to, tokens, x, y, stride, add);
    if (m.has_minimums) return multiply_tiles<Int4>(m, from, to, tokens, x, y, stride, add);
    multiply_tiles<CentredInt4>(m, from, to, tokens, x, y, stride, add);
}
