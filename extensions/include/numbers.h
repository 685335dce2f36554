// Elementary functions of one number or of a vector of them (cpu/simd.h, to be included before), without a C library:
// equal everywhere.
#pragma once
#include "scalar.h"

namespace dreamforge {
namespace DF_LEVEL {

// e^x - 1, within two units of the last place; -1 below -87, and no more than e^88 above.
template <class F>
DF_BODY F expm1_of(F x) {
    x = x < -87.0f ? F{} - 87.0f : x > 88.0f ? F{} + 88.0f : x;
    const F whole = floor_of(x * 1.44269504f + 0.5f);
    F rest = x - whole * 0.693359375f;  // ln 2 in two parts, the first with few bits
    rest = rest + whole * 2.12194440e-4f;
    F series = F{} + 1.0f / 5040.0f;
    series = series * rest + 1.0f / 720.0f;
    series = series * rest + 1.0f / 120.0f;
    series = series * rest + 1.0f / 24.0f;
    series = series * rest + 1.0f / 6.0f;
    series = series * rest + 0.5f;
    series = series * rest * rest + rest;
    const F power = power_of_two(whole);
    return power * series + (power - 1.0f);
}

template <class F>
DF_BODY F tanh_of(F x) {
    const F grown = expm1_of(2.0f * x);
    return grown / (grown + 2.0f);
}

DF_BODY float sigmoid_of(float x) { return 1.0f / (2.0f + expm1_of(-x)); }

// 2^x for x in [-1/2, 1/2]: 1 + x times the polynomial that meets (2^x - 1) / x at the Chebyshev nodes.
template <class F>
DF_BODY F exp2_series(F x) {
    F series = x * 1.5453163e-4f + 1.3390863e-3f;
    series = series * x + 9.6180826e-3f;
    series = series * x + 5.5503571e-2f;
    series = series * x + 0.24022651f;
    series = series * x + 0.69314719f;
    return series * x + 1.0f;
}

#if defined(__CUDACC_RTC__)
// Of the GPU's own unit for it, as near.
DF_BODY float exp2_minus(float x) { return exp2f(-at_most(x, 126.0f)); }
#endif

// 2^-x for x >= 0, within two units of the last place; next to nothing above 126, and for what is no number.
template <class F>
DF_BODY F exp2_minus(F x) {
    x = at_most(x, 126.0f);
    const F whole = floor_of(0.5f - x), rest = -x - whole;
    return times_power(exp2_series(rest), whole);
}

// log2 of a normal number above 0, within two units of the last place or 1e-7.
template <class F>
DF_BODY F log2_of(F x) {
    const auto bits = bits_of(x) + (0x3f800000u - 0x3f3504f3u);  // the root of 1/2 begins an octave
    const F octave = from_bits((bits >> 23) | 0x4b000000u) - (8388608.0f + 127.0f);
    const F rest = from_bits((bits & 0x7fffffu) + 0x3f3504f3u);  // in [root of 1/2, root of 2)
    const F t = (rest - 1.0f) / (rest + 1.0f), square = t * t;   // log rest = 2 artanh t
    F series = square * 0.22222222f + 0.28571429f;
    series = series * square + 0.4f;
    series = series * square + 0.66666667f;
    series = series * square + 2.0f;
    return octave + series * t * 1.44269504f;
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
