// Products of tokens with 4-bit or 8-bit weights, a scale for every 32 columns. Tokens go in with 16 bits, as two bytes
// each and a scale for every 32: the sums of a group are whole numbers and exact, and the groups are added in order, so
// that a token's result is the same to the bit whatever tokens are beside it.
#pragma once
#include "lanes.h"

constexpr int TILE = 16, GROUP = 32;  // rows, columns
constexpr float REACH = 32639;      // 127 * 256 + 127, the most that two signed bytes hold on both sides of zero

struct Matrix {  // tiles of 16 rows; in each, its groups in order: bytes, then 16 scales (and for 4 bits 16 least values)
    const uint8_t* data;
    int32_t rows, columns, bits;
    float factor;  // of the whole matrix
    int groups() const { return (columns + GROUP - 1) / GROUP; }
    int tiles() const { return (rows + TILE - 1) / TILE; }
};

constexpr int group_bytes(int bits) { return TILE * GROUP * bits / 8 + 2 * TILE * (bits == 4 ? 2 : 1); }

struct Digits {  // one group of one token: scale * (256 * high + low)
    int8_t high[GROUP], low[GROUP];
    float scale, scaled_sum;
    int32_t sum, unused;
};

inline Digits digits(const float* x) {
    Digits result;
    f32 most = {}, nothing = {};
    for (int i = 0; i < GROUP; i += LANES) {
        const f32 part = load<f32>(x + i);
        most = larger(most, absolute(part));
        nothing += part * 0.0f;
    }
    const float peak = highest(most), wrong = total(nothing);  // no number if anything there is none, or infinite
    if (!(peak > 1e-30f) || wrong != 0.0f) return {{}, {}, wrong, wrong, 0, 0};  // what is no number has no digits
    const float inverse = REACH / peak;
    i32 sum = {};
    for (int i = 0; i < GROUP; i += LANES) {
        const i32 part = rounded(load<f32>(x + i) * inverse), high = (part + 128) >> 8;
        store(result.high + i, __builtin_convertvector(high, i8));
        store(result.low + i, __builtin_convertvector(part - (high << 8), i8));
        sum += part;
    }
    result.sum = total(sum);
    result.scale = peak / REACH;
    result.scaled_sum = result.scale * (float)result.sum;
    return result;
}

inline void quantize(const float* x, int columns, Digits* to) {
    int at = 0;
    for (; at + GROUP <= columns; at += GROUP) *to++ = digits(x + at);
    if (at == columns) return;
    float rest[GROUP] = {};
    std::memcpy(rest, x + at, sizeof(float) * (columns - at));
    *to = digits(rest);
}

// As many rows of one tile as there are lanes, times `count` tokens, whose digits lie `groups` apart.
template <int bits, int count>
inline void part_of(const uint8_t* tile, int offset, int groups, const Digits* x, f32* sums) {
    const uint8_t* weights = tile + 4 * offset;
    const uint8_t* scales = tile + (bits == 4 ? 256 : 512) + 2 * offset;
    for (int t = 0; t < count; t++) sums[t] = f32{};
    for (int g = 0; g < groups; g++, x++, weights += group_bytes(bits), scales += group_bytes(bits)) {
        u32 w[8];
        for (int i = 0; i < 8; i++)
            if (bits == 8)
                w[i] = load<u32>(weights + 64 * i);
            else
                w[i] = (load<u32>(weights + 64 * (i / 2)) >> (4 * (i % 2))) & 0x0f0f0f0fu;
        const f32 scale = halves(scales);
        f32 least = {};
        if (bits == 4) least = halves(scales + 32);
        for (int t = 0; t < count; t++) {
            const Digits& token = x[t * groups];
            i32 high = {}, low = {};
            if (bits == 8) low = low - 128 * token.sum;  // these bytes are 128 too large
            for (int i = 0; i < 8; i++) {
                high = dot<bits == 4>(high, w[i], token.high + 4 * i);
                low = dot<bits == 4>(low, w[i], token.low + 4 * i);
            }
            sums[t] += __builtin_convertvector((high << 8) + low, f32) * (scale * token.scale);
            if (bits == 4) sums[t] += least * token.scaled_sum;
        }
    }
}

template <int bits, int count>
inline void tile_of(const Matrix& m, int number, const Digits* x, float* y, long stride, bool add) {
    const uint8_t* tile = m.data + number * ((long)m.groups() * group_bytes(bits));
    for (int offset = 0; offset < TILE && number * TILE + offset < m.rows; offset += LANES) {
        f32 sums[count];
        part_of<bits, count>(tile, offset, m.groups(), x, sums);
        const int first = number * TILE + offset, width = m.rows - first < LANES ? m.rows - first : LANES;
        for (int t = 0; t < count; t++) {
            float* to = y + t * stride + first;
            const f32 result = sums[t] * m.factor;
            if (width == LANES)
                store(to, add ? load<f32>(to) + result : result);
            else
                for (int i = 0; i < width; i++) to[i] = add ? to[i] + result[i] : result[i];
        }
    }
}

template <int bits>
inline void tile_of(const Matrix& m, int number, int tokens, const Digits* x, float* y, long stride, bool add) {
    constexpr int most = LANES == 16 ? 8 : 4;  // AVX-512 has twice the registers
    const int groups = m.groups();
    int t = 0;
    for (; t + most <= tokens; t += most) tile_of<bits, most>(m, number, x + t * groups, y + t * stride, stride, add);
    for (; t + 2 <= tokens; t += 2) tile_of<bits, 2>(m, number, x + t * groups, y + t * stride, stride, add);
    for (; t < tokens; t++) tile_of<bits, 1>(m, number, x + t * groups, y + t * stride, stride, add);
}

// Tiles [from, to) of y = x · Wᵀ, or of y += x · Wᵀ.
inline void product(const Matrix& m, int from, int to, int tokens, const Digits* x, float* y, long stride, bool add) {
    for (int number = from; number < to; number++)
        m.bits == 4 ? tile_of<4>(m, number, tokens, x, y, stride, add)
                    : tile_of<8>(m, number, tokens, x, y, stride, add);
}
