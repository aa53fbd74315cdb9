// y = x · Wᵀ with 4-bit or 8-bit weights that have one scale for every 32 columns of a row. The activations x are
// quantized to 16 bits, as a high and a low byte, also with one scale for every 32. The sums within a group are integers
// and exact, and the groups are added in order, so a token's result does not depend, to the bit, on the tokens beside it.
#pragma once
#include "simd.h"

constexpr int TILE = 16, GROUP = 32;  // rows of a tile, columns of a group; as in linear.py
constexpr float MAX_CODE = 32639;     // 127 * 256 + 127: the largest code whose two bytes are both at most 127

struct Matrix {  // a tile is its groups in order; a group is its codes, its 16 scales, and with 4 bits 16 minimums
    const uint8_t* data;
    int32_t rows, columns, bits;
    float scale;  // of the whole matrix
    int groups() const { return (columns + GROUP - 1) / GROUP; }
    int tiles() const { return (rows + TILE - 1) / TILE; }
};

constexpr int group_bytes(int bits) { return TILE * GROUP * bits / 8 + 2 * TILE * (bits == 4 ? 2 : 1); }

struct QuantizedGroup {  // one group of one token's activations: x = scale * (256 * high + low)
    int8_t high[GROUP], low[GROUP];
    float scale, scaled_sum;  // scaled_sum: scale * sum
    int32_t sum, padding;     // sum: of the codes 256 * high + low
};

inline QuantizedGroup quantize_group(const float* x) {
    QuantizedGroup result;
    f32 largest = {}, zeros = {};
    for (int i = 0; i < GROUP; i += LANES) {
        const f32 part = load<f32>(x + i);
        largest = vector_max(largest, vector_abs(part));
        zeros += part * 0.0f;
    }
    const float peak = horizontal_max(largest);
    const float zero = horizontal_sum(zeros);  // NaN if the group holds a NaN or an infinity
    // Zeros have no scale; a group that is not finite becomes NaN through its scale.
    if (!(peak > 1e-30f) || zero != 0.0f) return {{}, {}, zero, zero, 0, 0};
    const float inverse = MAX_CODE / peak;
    i32 sum = {};
    for (int i = 0; i < GROUP; i += LANES) {
        const i32 code = round_to_int(load<f32>(x + i) * inverse), high = (code + 128) >> 8;
        store(result.high + i, __builtin_convertvector(high, i8));
        store(result.low + i, __builtin_convertvector(code - (high << 8), i8));
        sum += code;
    }
    result.sum = horizontal_sum(sum);
    result.scale = peak / MAX_CODE;
    result.scaled_sum = result.scale * (float)result.sum;
    return result;
}

inline void quantize_token(const float* x, int columns, QuantizedGroup* to) {
    int at = 0;
    for (; at + GROUP <= columns; at += GROUP) *to++ = quantize_group(x + at);
    if (at == columns) return;
    float rest[GROUP] = {};
    std::memcpy(rest, x + at, sizeof(float) * (columns - at));
    *to = quantize_group(rest);
}

// `count` tokens times LANES rows of one tile, beginning at row `offset` of it. The tokens' groups are `groups` apart.
template <int bits, int count>
inline void multiply_lanes(const uint8_t* tile, int offset, int groups, const QuantizedGroup* x, f32* sums) {
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
        const f32 scale = load_half(scales);
        f32 minimum = {};
        if (bits == 4) minimum = load_half(scales + 32);
        for (int t = 0; t < count; t++) {
            const QuantizedGroup& token = x[t * groups];
            i32 high = {}, low = {};
            if (bits == 8) low = low - 128 * token.sum;  // 8-bit codes are stored with 128 added
            for (int i = 0; i < 8; i++) {
                high = dot_u8s8<bits == 4>(high, w[i], token.high + 4 * i);
                low = dot_u8s8<bits == 4>(low, w[i], token.low + 4 * i);
            }
            sums[t] += __builtin_convertvector((high << 8) + low, f32) * (scale * token.scale);
            if (bits == 4) sums[t] += minimum * token.scaled_sum;
        }
    }
}

template <int bits, int count>
inline void multiply_tile(const Matrix& m, int tile, const QuantizedGroup* x, float* y, long stride, bool add) {
    const uint8_t* data = m.data + tile * ((long)m.groups() * group_bytes(bits));
    for (int offset = 0; offset < TILE && tile * TILE + offset < m.rows; offset += LANES) {
        f32 sums[count];
        multiply_lanes<bits, count>(data, offset, m.groups(), x, sums);
        const int first = tile * TILE + offset, width = m.rows - first < LANES ? m.rows - first : LANES;
        for (int t = 0; t < count; t++) {
            float* to = y + t * stride + first;
            const f32 result = sums[t] * m.scale;
            if (width == LANES)
                store(to, add ? load<f32>(to) + result : result);
            else
                for (int i = 0; i < width; i++) to[i] = add ? to[i] + result[i] : result[i];
        }
    }
}

template <int bits>
inline void multiply_tile(const Matrix& m, int tile, int tokens, const QuantizedGroup* x, float* y, long stride,
                          bool add) {
    constexpr int at_once = LANES == 16 ? 8 : 4;  // tokens; AVX-512 has twice the registers
    const int groups = m.groups();
    int t = 0;
    for (; t + at_once <= tokens; t += at_once)
        multiply_tile<bits, at_once>(m, tile, x + t * groups, y + t * stride, stride, add);
    for (; t + 2 <= tokens; t += 2) multiply_tile<bits, 2>(m, tile, x + t * groups, y + t * stride, stride, add);
    for (; t < tokens; t++) multiply_tile<bits, 1>(m, tile, x + t * groups, y + t * stride, stride, add);
}

// Tiles [from, to) of y = x · Wᵀ, or with `add` of y += x · Wᵀ; y's rows are `stride` apart.
inline void multiply_tiles(const Matrix& m, int from, int to, int tokens, const QuantizedGroup* x, float* y,
                           long stride, bool add) {
    for (int tile = from; tile < to; tile++)
        m.bits == 4 ? multiply_tile<4>(m, tile, tokens, x, y, stride, add)
                    : multiply_tile<8>(m, tile, tokens, x, y, stride, add);
}
