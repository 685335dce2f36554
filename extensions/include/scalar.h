// One number at a time: what cpu/simd.h has for vectors, for CUDA threads.
#pragma once
#include "portable.h"

namespace dreamforge {
namespace DF_LEVEL {

typedef uint16_t Half;  // the bits of an IEEE 754 half

#if defined(__CUDACC_RTC__)
DF_BODY float floor_of(float x) { return floorf(x); }
DF_BODY float root_of(float x) { return sqrtf(x); }
DF_BODY int32_t bits_of(uint32_t x) { return __popc(x); }
#else
DF_BODY float floor_of(float x) { return __builtin_floorf(x); }
DF_BODY float root_of(float x) { return __builtin_sqrtf(x); }
DF_BODY int32_t bits_of(uint32_t x) { return __builtin_popcount(x); }  // how many are set
#endif

// x where it is more (or less) than the limit, otherwise, and where it is no number, the limit.
DF_BODY float at_least(float x, float limit) { return x > limit ? x : limit; }
DF_BODY float at_most(float x, float limit) { return x < limit ? x : limit; }

DF_BODY uint32_t bits_of(float x) {
    union {
        float number;
        uint32_t bits;
    } value;
    value.number = x;
    return value.bits;
}

DF_BODY float from_bits(uint32_t bits) {
    union {
        uint32_t bits;
        float number;
    } value;
    value.bits = bits;
    return value.number;
}

// A whole number as an integer; of what does not fit, a NaN too, the least one, as x86 has it.
DF_BODY uint32_t vertex_of(float x) {
    return x >= -2147483648.0f && x < 2147483648.0f ? uint32_t(int32_t(x)) : 0x80000000u;
}

// number * 2^whole, for a whole number from -126 to 127.
DF_BODY float times_power(float number, float whole) {
    return number * from_bits((vertex_of(whole) + 127u) << 23);
}

// 2^whole for a whole number from -126 to 127.
DF_BODY float power_of_two(float whole) { return from_bits((vertex_of(whole) + 127u) << 23); }

DF_BODY float number_of(Half half) {
    uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
    union {
        uint32_t bits;
        float number;
    } value;
    value.bits = rest << 13;
    if (rest >= 0x7c00)
        value.bits |= 0x7f800000u;  // infinite, or not a number
    else
        value.number *= 5.192296858534828e33f;  // 2^112, the difference of the exponents; makes subnormal halves normal
    value.bits |= sign;
    return value.number;
}

DF_BODY float number_of(float number) { return number; }

}  // namespace DF_LEVEL
}  // namespace dreamforge
