// Multiresolution hash encoding (Mueller et al. 2022), sizes and indexing as tiny-cuda-nn documents them: the body for
// one point and one level. F is a float and U a uint32_t, or vectors of them (cpu/simd.h, to be included before).
#pragma once
#include "portable.h"

namespace dreamforge {

// One grid; its entries are the table's rows [first, first + entries).
struct GridLevel {
    float scale;
    uint32_t resolution, entries, first, hashed;
};

// Mirrored in ops/hashgrid.py. Coordinates and features are rows of `points` numbers each.
struct HashGridArgs {
    const float* axes;        // [3, points] in [0, 1]
    const void* table;        // [rows, features], float or half
    const GridLevel* levels;  // [count]
    const float* grad;        // [count * features, points], of the loss by what is encoded
    float* out;               // encode: like grad; table: [rows, features]; points: like axes
    int64_t points;
    int32_t count, features, half;
};

namespace DF_LEVEL {

// Where a coordinate in [0, 1] lies: the vertex below it and how far it is on the way to the next one.
template <class F, class U>
DF_BODY void locate(F x, float scale, U& vertex, F& fraction) {
    F position = x * scale + 0.5f;
    F below = floor_of(position);
    vertex = vertex_of(below);
    fraction = position - below;
}

// The part of a corner's weight that one axis has. Corner c is a vertex further along axis a if its bit a is set.
template <class F>
DF_BODY F side(int c, int axis, F fraction) {
    return c >> axis & 1 ? fraction : 1.0f - fraction;
}

template <class F>
DF_BODY F corner_weight(int c, const F (&fraction)[3]) {
    return side(c, 2, fraction[2]) * side(c, 1, fraction[1]) * side(c, 0, fraction[0]);
}

// The derivative of a corner's weight by the fraction of one axis.
template <class F>
DF_BODY F corner_slope(int c, int axis, const F (&fraction)[3]) {
    int b = axis == 0 ? 1 : 0, d = axis == 2 ? 1 : 2;
    F others = side(c, b, fraction[b]) * side(c, d, fraction[d]);
    return c >> axis & 1 ? others : 0.0f - others;
}

// The row of a corner before it is taken modulo the entries, in 32-bit arithmetic.
template <class U>
DF_BODY U corner_row(int c, const U (&vertex)[3], const GridLevel& level) {
    U x = vertex[0] + uint32_t(c & 1), y = vertex[1] + uint32_t(c >> 1 & 1), z = vertex[2] + uint32_t(c >> 2);
    if (level.hashed) return x ^ (y * 2654435761u) ^ (z * 805459861u);
    return x + y * level.resolution + z * (level.resolution * level.resolution);
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
