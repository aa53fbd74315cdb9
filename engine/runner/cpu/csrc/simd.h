// Vector registers of this machine's width (AVX2 or AVX-512), and the operations that a compiler does not find by
// itself.
#pragma once
#include <cstdint>
#include <cstring>

#include <immintrin.h>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else  // AVX2, at least
constexpr int LANES = 8;
#endif
typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef int32_t i32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));
typedef int16_t i16 __attribute__((vector_size(4 * LANES)));
typedef int8_t i8 __attribute__((vector_size(LANES)));

template <class Vector, class Scalar>
inline Vector load(const Scalar* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class Vector, class Scalar>
inline void store(Scalar* to, Vector value) {
    std::memcpy(to, &value, sizeof value);
}

inline f32 multiply_add(f32 a, f32 b, f32 c) {  // a * b + c, rounded once
#if defined(__AVX512F__)
    return (f32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return (f32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
}

inline f32 broadcast(float value) { return f32{} + value; }
inline i32 iota(int first) {  // first, first + 1, …
    i32 result = {};
    for (int i = 0; i < LANES; i++) result[i] = first + i;
    return result;
}
inline f32 vector_max(f32 a, f32 b) { return a > b ? a : b; }
inline f32 vector_abs(f32 a) { return (f32)((i32)a & 0x7fffffff); }

inline float horizontal_max(f32 a) {
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) a[i] = a[i] > a[i + width] ? a[i] : a[i + width];
    return a[0];
}

template <class Vector>
inline auto horizontal_sum(Vector a) {
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) a[i] += a[i + width];
    return a[0];
}

inline i32 round_to_int(f32 a) {  // to nearest, ties to even; |a| < 2**22
    return (i32)(a + 12582912.0f) - 0x4b400000;
}

// exp(x), with x clamped to [-87, 88]. A NaN stays a NaN. Splits x into n · ln 2 + rest, |rest| <= ln 2 / 2, and sums
// the Taylor series of exp(rest) to degree 7.
inline f32 vector_exp(f32 x) {
    x = x < -87.0f ? broadcast(-87.0f) : x;
    x = x > 88.0f ? broadcast(88.0f) : x;
    f32 shifted = x * 1.44269504f + 12582912.0f;
    f32 whole = shifted - 12582912.0f;
    f32 rest = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    f32 sum = broadcast(1.0f / 5040);
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    return sum * (f32)(((u32)shifted << 23) + 0x3f800000u);  // unsigned: a NaN's bits may overflow
}

inline f32 load_half(const uint8_t* from) {  // LANES float16 numbers
#if defined(__AVX512F__)
    return (f32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#else
    return (f32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#endif
}
