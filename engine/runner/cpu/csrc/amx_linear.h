// Matrix products of 16 tokens at a time in AMX's tiles, bitwise equal to those of linear.h: the tiles only sum the
// products of bytes within a group, and the groups are added in the same order.
#pragma once
#include <vector>

#include "amx.h"
#include "dot.h"

constexpr int TILE_TOKENS = 16;

#if defined(GUILDLLAMA_AMX)
// Where a group's codes are unsigned bytes in rows of four columns, as a tile wants them.
template <class Format>
inline const uint8_t* unpacked(const Strip<Format>& strip, int groups, std::vector<uint8_t>& buffer) {
    if (Format::bits == 8) return strip.data;
    buffer.resize((size_t)groups * TILE * GROUP);
    for (int g = 0; g < groups; g++)
        for (int step = 0; step < STEPS; step++)
            store(buffer.data() + ((size_t)g * STEPS + step) * 4 * TILE, strip.codes(g, step));
    return buffer.data();
}

// 16 tokens times two tiles of rows. `codes`: each tile's, whose groups are `code_stride` apart.
template <class Format>
inline void multiply_in_tiles(const Strip<Format>* strip, const uint8_t* const* codes, long code_stride, int groups,
                              const QuantizedGroup* x, f32 (*sums)[TILE_TOKENS]) {
    alignas(64) int32_t products[2][2][TILE_TOKENS][TILE];  // high and low, of each tile of rows
    const long token_stride = groups * (long)sizeof(QuantizedGroup), row = 4 * TILE;
    for (int s = 0; s < 2; s++)
        for (int t = 0; t < TILE_TOKENS; t++) sums[s][t] = f32{};
    for (int g = 0; g < groups; g++, x++) {
        amx::load<4>(x->high, token_stride), amx::load<5>(x->low, token_stride);
        amx::load<6>(codes[0] + g * code_stride, row), amx::load<7>(codes[1] + g * code_stride, row);
        amx::zero<0>(), amx::multiply<0, 4, 6>(), amx::store<0>(products[0][0], row);
        amx::zero<1>(), amx::multiply<1, 5, 6>(), amx::store<1>(products[0][1], row);
        amx::zero<2>(), amx::multiply<2, 4, 7>(), amx::store<2>(products[1][0], row);
        amx::zero<3>(), amx::multiply<3, 5, 7>(), amx::store<3>(products[1][1], row);
        for (int s = 0; s < 2; s++) {
            const f32 scale = strip[s].scale(g), minimum = strip[s].minimum(g);
            for (int t = 0; t < TILE_TOKENS; t++) {
                const i32 total = (load<i32>(products[s][0][t]) << 8) + load<i32>(products[s][1][t]);
                sums[s][t] = add_group<Format>(sums[s][t], total, x[t * (long)groups], scale, minimum);
            }
        }
    }
}

// Tiles [from, to) of y = x · Wᵀ for whole blocks of 16 tokens.
template <class Format>
inline void multiply_tiles_by_amx(const Matrix& m, int from, int to, int tokens, const QuantizedGroup* x, float* y,
                                  long stride, bool add) {
    static constexpr int rows[8] = {16, 16, 16, 16, TILE_TOKENS, TILE_TOKENS, STEPS, STEPS};
    static constexpr int bytes[8] = {64, 64, 64, 64, GROUP, GROUP, 64, 64};
    thread_local std::vector<uint8_t> buffers[2];
    const int groups = m.groups();
    amx::configure(rows, bytes);
    for (int tile = from; tile < to; tile += 2) {
        const int other = tile + 1 < to ? tile + 1 : tile;  // the last one may be computed twice
        const Strip<Format> strip[2] = {{m, tile * TILE}, {m, other * TILE}};
        const uint8_t* codes[2];
        for (int s = 0; s < 2; s++) codes[s] = unpacked(strip[s], groups, buffers[s]);
        for (int t = 0; t < tokens; t += TILE_TOKENS) {
            f32 sums[2][TILE_TOKENS];
            multiply_in_tiles(strip, codes, Format::bits == 8 ? Format::group_bytes : TILE * GROUP, groups,
                              x + (long)t * groups, sums);
            for (int s = 0; s <= other - tile; s++)
                for (int i = 0; i < TILE_TOKENS; i++)
                    put_rows(m, (tile + s) * TILE, sums[s][i], y + (t + i) * stride, add);
        }
    }
    amx::release();
}
#else
template <class Format>
inline void multiply_tiles_by_amx(const Matrix&, int, int, int, const QuantizedGroup*, float*, long, bool) {}
#endif
