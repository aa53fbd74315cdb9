// The sum over a group of columns of weight times activation, in integers and exact, with the instructions that the
// processor has: AVX-512 VNNI adds four products of bytes to 32 bits; AVX-512 and AVX2 add two of them to 16 bits, where
// 16 of nibbles and bytes fit. An activation's code is 256 * high + low.
#pragma once
#include "tokens.h"

inline u32 broadcast_four(const int8_t* from) {
    uint32_t four;
    std::memcpy(&four, from, 4);
    return u32{} + four;
}

// Products of pairs of bytes of w, unsigned, and x, signed; the sums of two neighbouring ones, as 16 bits.
inline i16 add_pairs(u32 w, u32 x) {
#if defined(__AVX512F__)
    return (i16)_mm512_maddubs_epi16((__m512i)w, (__m512i)x);
#else
    return (i16)_mm256_maddubs_epi16((__m256i)w, (__m256i)x);
#endif
}

// factor * (the sums of neighbouring 16-bit numbers), as 32 bits.
inline i32 widen(i16 pairs, int16_t factor) {
#if defined(__AVX512F__)
    return (i32)_mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(factor));
#else
    return (i32)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(factor));
#endif
}

// The sums of LANES rows and one token over the steps of a group. `bits`: of the weights w, unsigned bytes.
template <int bits>
struct GroupSum;

#if defined(__AVX512VNNI__)
template <int bits>
struct GroupSum {
    i32 high = {}, low = {};
    void add(u32 w, const QuantizedGroup& x, int step) {
        high = (i32)_mm512_dpbusd_epi32((__m512i)high, (__m512i)w, (__m512i)broadcast_four(x.high + 4 * step));
        low = (i32)_mm512_dpbusd_epi32((__m512i)low, (__m512i)w, (__m512i)broadcast_four(x.low + 4 * step));
    }
    i32 total() const { return (high << 8) + low; }
};
#else
template <>
struct GroupSum<4> {
    i16 high = {}, low = {};
    void add(u32 w, const QuantizedGroup& x, int step) {
        high += add_pairs(w, broadcast_four(x.high + 4 * step));
        low += add_pairs(w, broadcast_four(x.low + 4 * step));
    }
    i32 total() const { return widen(high, 256) + widen(low, 1); }
};

template <>
struct GroupSum<8> {  // the nibbles of the weights apart
    GroupSum<4> upper, lower;
    void add(u32 w, const QuantizedGroup& x, int step) {
        upper.add((w >> 4) & 0x0f0f0f0fu, x, step);
        lower.add(w & 0x0f0f0f0fu, x, step);
    }
    i32 total() const { return (upper.total() << 4) + lower.total(); }
};
#endif

// sum + the group's product: `total` is the sum over its columns of code times code.
template <class Format>
inline f32 add_group(f32 sum, i32 total, const QuantizedGroup& x, f32 scale, f32 minimum) {
    if (Format::zero) total -= Format::zero * x.sum;
    sum = multiply_add(__builtin_convertvector(total, f32), scale * x.scale, sum);
    return Format::has_minimums ? multiply_add(minimum, broadcast(x.scaled_sum), sum) : sum;
}

// LANES results of one token, from row `row` on, into its y, or with `add` added to it.
inline void put_rows(const Matrix& m, int row, f32 sums, float* y, bool add) {
    const f32 result = sums * m.scale;
    const int width = m.rows - row < LANES ? m.rows - row : LANES;
    if (width == LANES) return store(y + row, add ? load<f32>(y + row) + result : result);
    for (int i = 0; i < width; i++) y[row + i] = add ? y[row + i] + result[i] : result[i];
}
