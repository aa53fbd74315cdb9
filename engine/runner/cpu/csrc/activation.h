// The feed-forward's gate, and softcaps.
#pragma once
#include "simd.h"

inline f32 sigmoid(f32 x) { return 1.0f / (1.0f + vector_exp(-x)); }

// cap · tanh(x / cap), with tanh(u) = 2 · sigmoid(2u) - 1.
inline f32 soft_capped(f32 x, float cap) { return cap * (2.0f * sigmoid(x * (2.0f / cap)) - 1.0f); }

// GELU by its tanh formula: x / 2 · (1 + tanh(u)) = x · sigmoid(2u), u = sqrt(2 / pi) · (x + 0.044715 x³).
inline f32 gelu_tanh(f32 x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

inline f32 silu(f32 x) { return x / (1.0f + vector_exp(-x)); }

// activation(first half) · second half, into the first half.
template <class Activation>
inline void gate(float* x, int width, Activation activation) {
    int i = 0;
    for (; i + LANES <= width; i += LANES)
        store(x + i, activation(load<f32>(x + i)) * load<f32>(x + width + i));
    for (; i < width; i++) x[i] = activation(broadcast(x[i]))[0] * x[width + i];
}

inline void gate(bool gelu, float* x, int width) {
    if (gelu)
        gate(x, width, gelu_tanh);
    else
        gate(x, width, silu);
}
