// How linear.py packs a matrix: tiles of 16 rows; in a tile, groups of 32 columns in order; in a group the codes, 16
// scales as float16, and in one of the formats 16 minimums.
#pragma once
#include "simd.h"

constexpr int TILE = 16, GROUP = 32;  // rows of a tile, columns of a group; as in linear.py
constexpr int STEPS = GROUP / 4;      // of four columns each, whose codes of a row are neighbours

struct Matrix {
    const uint8_t* data;
    int32_t rows, columns, bits, has_minimums;
    float scale;  // of the whole matrix
    int groups() const { return (columns + GROUP - 1) / GROUP; }
    int tiles() const { return (rows + TILE - 1) / TILE; }
};

template <int bits_, int zero_, bool has_minimums_>
struct Format {  // weight = scale * (code - zero), or with minimums scale * code + minimum
    static constexpr int bits = bits_, zero = zero_;
    static constexpr bool has_minimums = has_minimums_;
    static constexpr int code_bytes = TILE * GROUP * bits / 8;
    static constexpr int group_bytes = code_bytes + 2 * TILE * (has_minimums ? 2 : 1);
};
using Int8 = Format<8, 128, false>;
using Int4 = Format<4, 0, true>;
using CentredInt4 = Format<4, 8, false>;  // GGUF's Q4_0, symmetric GPTQ

template <class Format>
struct Strip {  // LANES rows of a tile
    const uint8_t *data, *scales;

    Strip() = default;
    Strip(const Matrix& m, int row) {
        const uint8_t* tile = m.data + row / TILE * ((long)m.groups() * Format::group_bytes);
        data = tile + 4 * (row % TILE);
        scales = tile + Format::code_bytes + 2 * (row % TILE);
    }

    void prefetch(int group) const {
        for (int at = 0; at < Format::group_bytes; at += 64)
            __builtin_prefetch(data + (long)group * Format::group_bytes + at);
    }

    // Four columns of each row, as unsigned bytes.
    u32 codes(int group, int step) const {
        const uint8_t* from = data + (long)group * Format::group_bytes;
        if (Format::bits == 8) return load<u32>(from + 4 * TILE * step);
        return (load<u32>(from + 4 * TILE * (step / 2)) >> (4 * (step % 2))) & 0x0f0f0f0fu;
    }
    f32 scale(int group) const { return load_half(scales + (long)group * Format::group_bytes); }
    f32 minimum(int group) const {
        return Format::has_minimums ? load_half(scales + (long)group * Format::group_bytes + 2 * TILE) : f32{};
    }
};
