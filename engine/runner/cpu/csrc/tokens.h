// Activations quantized to 16 bits, as a high and a low byte, with one scale for every 32 columns of a token.
#pragma once
#include "matrix.h"

constexpr float MAX_CODE = 32639;  // 127 * 256 + 127: the largest code whose two bytes are both at most 127

struct QuantizedGroup {  // one group of one token: x = scale * (256 * high + low)
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
