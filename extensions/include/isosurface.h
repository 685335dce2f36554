// Isosurfaces on a regular grid, z fastest: what both operations know of the grid, and marching tetrahedra's bodies for
// one vertex of it.
#pragma once
#include "scalar.h"

namespace dreamforge {

// Mirrored in ops/isosurface_native.py. n vertices of size[0] x size[1] x size[2] cubes.
struct TetraArgs {
    const float *x, *s;      // [n, 3], [n]
    const uint8_t* table;    // [256, TETRA_ROW]: tetra_table
    uint8_t* crossed;        // [n]: bit d - 1 for the edge in direction d
    int64_t* first;          // [2, n + 1] of vertices and triangles: count writes how many at v + 1; fill reads where
    float* vertices;         // [V, 3]
    int64_t* faces;          // [F, 3]
    const float* grad;       // like vertices
    float *grad_x, *grad_s;  // like x, like s
    int32_t size[3];
};

constexpr int TETRA_ROW = 40, TETRA_TRIANGLES = 36;  // as in ops/isosurface_tables.py

namespace DF_LEVEL {

// A vertex of the grid and where it lies; or a cube and its low corner's place.
struct GridPlace {
    int64_t number;
    int32_t at[3];
};

DF_BODY GridPlace place_in(int64_t number, int32_t y, int32_t z) {
    const int32_t row = int32_t(number) / z;  // there are less than 2^28
    return {number, {row / y, row % y, int32_t(number) % z}};
}

DF_BODY int32_t bit_of(int32_t bits, int axis) { return bits >> axis & 1; }

// How far the grid's vertex at `corner` of a cube is from the one at its corner 0.
DF_BODY int64_t corner_step(const int32_t (&size)[3], int corner) {
    return (int64_t(bit_of(corner, 0)) * (size[1] + 1) + bit_of(corner, 1)) * (size[2] + 1) + bit_of(corner, 2);
}

// The corners inside of the cube with the low corner `low`.
DF_BODY uint32_t grid_case(const float* s, int64_t low, const int32_t (&size)[3]) {
    uint32_t inside = 0;
    for (int corner = 0; corner < 8; ++corner) inside |= uint32_t(s[low + corner_step(size, corner)] < 0.0f) << corner;
    return inside;
}

// Where a line passes zero on its way from s_a to s_b, as a share of the way; the middle where both are nothing.
struct Crossing {
    float t, fall;
    DF_BODY Crossing() {}
    DF_BODY Crossing(float s_a, float s_b) : t(0.5f), fall(s_a - s_b) {
        if (fall != 0.0f) t = s_a / fall;
    }
    DF_BODY float slope_a() const { return fall != 0.0f ? (1.0f - t) / fall : 0.0f; }  // dt / ds_a
    DF_BODY float slope_b() const { return fall != 0.0f ? t / fall : 0.0f; }
};

DF_BODY bool has_cube(const TetraArgs& args, const GridPlace& vertex) {
    return vertex.at[0] < args.size[0] && vertex.at[1] < args.size[1] && vertex.at[2] < args.size[2];
}

// Signs at the corners of the cube above the grid's vertex; of those beyond the border, its own.
DF_BODY uint32_t tetra_case(const TetraArgs& args, const GridPlace& vertex) {
    if (has_cube(args, vertex)) return grid_case(args.s, vertex.number, args.size);
    const bool own = args.s[vertex.number] < 0.0f;
    uint32_t inside = own;
    for (int d = 1; d < 8; ++d) {
        bool there = true;
        for (int axis = 0; axis < 3; ++axis) there &= vertex.at[axis] + bit_of(d, axis) <= args.size[axis];
        inside |= uint32_t(there ? args.s[vertex.number + corner_step(args.size, d)] < 0.0f : own) << d;
    }
    return inside;
}

// Bits 1 to 7 of a case that differ from bit 0, at 0 to 6.
DF_BODY uint32_t crossed_edges(uint32_t inside) { return (inside & 1 ? ~inside & 255 : inside) >> 1; }

DF_BODY void tetra_count(const TetraArgs& args, int64_t count, const GridPlace& vertex) {
    const uint32_t inside = tetra_case(args, vertex), crossed = crossed_edges(inside);
    args.crossed[vertex.number] = uint8_t(crossed);
    args.first[vertex.number + 1] = bits_of(crossed);
    args.first[count + 1 + vertex.number + 1] =
        has_cube(args, vertex) ? args.table[inside * TETRA_ROW + TETRA_TRIANGLES] : 0;
}

DF_BODY int64_t tetra_vertex(const TetraArgs& args, int64_t vertex, int direction) {
    return args.first[vertex] + bits_of(args.crossed[vertex] & ((1u << (direction - 1)) - 1));
}

DF_BODY void tetra_fill(const TetraArgs& args, int64_t count, const GridPlace& vertex) {
    const int64_t a = vertex.number;
    for (int d = 1; d < 8; ++d) {
        if (!bit_of(args.crossed[a], d - 1)) continue;
        const int64_t b = a + corner_step(args.size, d);
        const Crossing crossing(args.s[a], args.s[b]);
        float* const to = args.vertices + 3 * tetra_vertex(args, a, d);
        for (int axis = 0; axis < 3; ++axis)
            to[axis] = args.x[3 * a + axis] + crossing.t * (args.x[3 * b + axis] - args.x[3 * a + axis]);
    }
    const int64_t begin = args.first[count + 1 + a], end = args.first[count + 1 + a + 1];
    if (begin == end) return;
    const uint8_t* const row = args.table + grid_case(args.s, a, args.size) * TETRA_ROW;
    for (int64_t i = 0; i < 3 * (end - begin); ++i)
        args.faces[3 * begin + i] = tetra_vertex(args, a + corner_step(args.size, row[i] >> 3), row[i] & 7);
}

// What the vertices on the edge from a to b pull at its end a, or at its end b: added to {x, y, z, s}.
DF_BODY void tetra_pull(const TetraArgs& args, int64_t a, int d, bool at_b, float (&sum)[4]) {
    const int64_t b = a + corner_step(args.size, d);
    const Crossing crossing(args.s[a], args.s[b]);
    const float* const grad = args.grad + 3 * tetra_vertex(args, a, d);
    const float share = at_b ? crossing.t : 1.0f - crossing.t;
    float along = 0.0f;
    for (int axis = 0; axis < 3; ++axis) {
        sum[axis] += share * grad[axis];
        along += grad[axis] * (args.x[3 * b + axis] - args.x[3 * a + axis]);
    }
    sum[3] += along * (at_b ? crossing.slope_b() : crossing.slope_a());
}

// A vertex of the grid takes what its 14 edges bring, in one order.
DF_BODY void tetra_backward(const TetraArgs& args, const GridPlace& vertex) {
    float sum[4] = {};
    for (int d = 1; d < 8; ++d) {
        if (bit_of(args.crossed[vertex.number], d - 1)) tetra_pull(args, vertex.number, d, false, sum);
        bool there = true;
        for (int axis = 0; axis < 3; ++axis) there &= vertex.at[axis] >= bit_of(d, axis);
        if (!there) continue;
        const int64_t a = vertex.number - corner_step(args.size, d);
        if (bit_of(args.crossed[a], d - 1)) tetra_pull(args, a, d, true, sum);
    }
    if (args.grad_x)
        for (int axis = 0; axis < 3; ++axis) args.grad_x[3 * vertex.number + axis] = sum[axis];
    if (args.grad_s) args.grad_s[vertex.number] = sum[3];
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
