// The tiles of Intel's AMX: registers of 16 rows of 64 bytes, and products of matrices of bytes between them. The code
// asks at run time whether the processor and the kernel have them. With GUILDLLAMA_EMULATE_AMX it computes the same in
// plain C++, so that what uses it can be tested on any processor.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(GUILDLLAMA_EMULATE_AMX)
#define GUILDLLAMA_AMX

namespace amx {

struct Tile {
    uint8_t bytes[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local int tile_rows[8], tile_bytes[8];

inline bool is_available() { return true; }

inline void configure(const int* rows, const int* bytes) {
    for (int n = 0; n < 8; n++) tile_rows[n] = rows[n], tile_bytes[n] = bytes[n];
}
inline void release() {}

template <int n>
inline void zero() {
    std::memset(&tiles[n], 0, sizeof(Tile));
}

template <int n>
inline void load(const void* from, long stride) {
    for (int row = 0; row < tile_rows[n]; row++)
        std::memcpy(tiles[n].bytes[row], (const char*)from + row * stride, tile_bytes[n]);
}

template <int n>
inline void store(void* to, long stride) {
    for (int row = 0; row < tile_rows[n]; row++)
        std::memcpy((char*)to + row * stride, tiles[n].bytes[row], tile_bytes[n]);
}

template <int sum, int a, int b>
inline void multiply() {
    for (int row = 0; row < tile_rows[sum]; row++)
        for (int lane = 0; lane < tile_bytes[sum] / 4; lane++) {
            int32_t total;
            std::memcpy(&total, tiles[sum].bytes[row] + 4 * lane, 4);
            for (int k = 0; k < tile_bytes[a]; k++)
                total += (int8_t)tiles[a].bytes[row][k] * tiles[b].bytes[k / 4][4 * lane + k % 4];
            std::memcpy(tiles[sum].bytes[row] + 4 * lane, &total, 4);
        }
}

}  // namespace amx

#elif defined(__AVX512F__) && defined(__linux__) && !defined(GUILDLLAMA_NO_AMX) && \
    (__GNUC__ >= 11 || __clang_major__ >= 12)  // older ones come with assemblers that do not know the instructions
#define GUILDLLAMA_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace amx {

// Whether the processor multiplies tiles of bytes and the kernel lets this process use them.
inline bool is_available() {
    static const bool available = [] {
        unsigned a, b, c, d, state, rest;
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;
        if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;  // XGETBV
        asm("xgetbv" : "=a"(state), "=d"(rest) : "c"(0));
        constexpr long request_permission = 0x1023, tile_data = 18;
        return (state >> 17 & 3) == 3 && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    }();
    return available;
}

// The tiles' shapes, for this thread.
inline void configure(const int* rows, const int* bytes) {
    struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    } shapes;
    for (int n = 0; n < 8; n++) shapes.rows[n] = rows[n], shapes.bytes[n] = bytes[n];
    asm volatile("ldtilecfg %0" ::"m"(shapes));
}
inline void release() { asm volatile("tilerelease"); }

template <int n>
inline void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(n));
}

template <int n>
inline void load(const void* from, long stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(n) : "memory");
}

template <int n>
inline void store(void* to, long stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(n) : "memory");
}

// sum += a · b: a has signed bytes, one token a row; b unsigned ones, in each row four columns of 16 rows of weights.
template <int sum, int a, int b>
inline void multiply() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
}

}  // namespace amx

#else

namespace amx {
inline bool is_available() { return false; }
}  // namespace amx

#endif
