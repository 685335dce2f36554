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

}  // namespace DF_LEVEL
}  // namespace dreamforge
