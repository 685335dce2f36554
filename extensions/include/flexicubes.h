// FlexiCubes (Shen et al. 2023) on a regular grid: the bodies for one cube that the surface crosses.
#pragma once
#include "isosurface.h"
//
#include "numbers.h"

namespace dreamforge {

// As in ops/isosurface_tables.py.
constexpr int LOOP_ROW = 16, LOOP_COUNT = 12, LOOP_JOINED = 13, LOOP_CROSSED = 14, NO_LOOP = 255;

// Mirrored in ops/isosurface_native.py. n vertices of size[0] x size[1] x size[2] cubes, of which the surface crosses
// `count`. Null: alpha, beta, gamma that were not given, gradients that nobody wants.
struct FlexiArgs {
    const float *x, *s, *alpha, *beta, *gamma;  // [n, 3], [n], [cubes, 8], [cubes, 12], [cubes]
    const uint8_t* table;                       // [256, LOOP_ROW]: loop_table
    uint8_t* cases;                             // [cubes]
    const int64_t* active;                      // [count], of cubes
    uint8_t* rows;                              // [count], of the table
    float *lean, *bend, *even;                  // [count, 8]: tanh(alpha), [count, 12]: tanh(beta), [count]: of gamma
    int32_t* rank;                              // [cubes]: an active cube's number among them
    int64_t* first;        // [3, count + 1] of dual vertices, quads, crossed edges: how many at i + 1, then where
    float* vertices;       // [V + Q, 3]: of quads when training
    float* deviation;      // [E]
    int64_t* faces;        // [F, 3]
    const float *grad_vertices, *grad_deviation;
    float* share;          // [Q, 4, 2]: see flexi_share
    float* slots;          // [count, 8, 4]: what each active cube pulls at its corners' {x, y, z, s}
    float *grad_x, *grad_s, *grad_alpha, *grad_beta, *grad_gamma;
    int64_t count;
    int32_t size[3], training;
    float scale;
};

namespace DF_LEVEL {

DF_BODY GridPlace cube_place(const FlexiArgs& args, int64_t cube) { return place_in(cube, args.size[1], args.size[2]); }

DF_BODY int64_t low_corner(const FlexiArgs& args, const GridPlace& cube) {
    return (int64_t(cube.at[0]) * (args.size[1] + 1) + cube.at[1]) * (args.size[2] + 1) + cube.at[2];
}

DF_BODY int64_t cube_step(const int32_t (&size)[3], int axis) {
    return axis == 0 ? int64_t(size[1]) * size[2] : axis == 1 ? size[2] : 1;
}

// Edge 4 axis + p + 2 q lies at the offsets p along `one`, q along `two`.
struct EdgeAxes {
    int axis, one, two;
    DF_BODY explicit EdgeAxes(int axis) : axis(axis), one(axis == 0), two(axis == 2 ? 1 : 2) {}
    DF_BODY int low(int edge) const { return (edge & 1) << one | (edge >> 1 & 1) << two; }  // its low corner
    DF_BODY int high(int edge) const { return low(edge) | 1 << axis; }
};

// The row of the table: of the opposite signs where this cube and its neighbour join on the face between them.
DF_BODY uint32_t loop_row(const FlexiArgs& args, const GridPlace& cube) {
    const uint32_t inside = args.cases[cube.number];
    const int face = args.table[inside * LOOP_ROW + LOOP_JOINED], axis = face >> 1, side = face & 1;
    if (axis > 2 || (side ? cube.at[axis] + 1 >= args.size[axis] : cube.at[axis] == 0)) return inside;
    const int64_t other = cube.number + (side ? 1 : -1) * cube_step(args.size, axis);
    return args.table[args.cases[other] * LOOP_ROW + LOOP_JOINED] == (face ^ 1) ? 255 - inside : inside;
}

// Whether a quad surrounds the edge along an axis at the cube's corner 0.
DF_BODY bool has_quad(const FlexiArgs& args, const GridPlace& cube, const EdgeAxes& axes) {
    const int32_t inside = args.cases[cube.number];
    return (inside & 1) != bit_of(inside, 1 << axes.axis) && cube.at[axes.one] > 0 && cube.at[axes.two] > 0;
}

DF_BODY void flexi_count(const FlexiArgs& args, int64_t item) {
    const GridPlace cube = cube_place(args, args.active[item]);
    const uint32_t row = loop_row(args, cube);
    int64_t* const first = args.first + item + 1;
    args.rows[item] = uint8_t(row);
    args.rank[cube.number] = int32_t(item);
    args.even[item] = args.gamma ? 0.5f + args.scale * (sigmoid_of(args.gamma[cube.number]) - 0.5f) : 1.0f;
    first[0] = args.table[row * LOOP_ROW + LOOP_COUNT];
    first[args.count + 1] = 0;
    for (int axis = 0; axis < 3; ++axis) first[args.count + 1] += has_quad(args, cube, EdgeAxes(axis));
    first[2 * (args.count + 1)] = args.table[row * LOOP_ROW + LOOP_CROSSED];
}

// A cube with its dual vertices, one a loop, and what they are made of, of each corner and each crossed edge.
struct DualCube {
    const uint8_t* loop;        // of each edge
    float x[8][3], s[8];
    float lean[8], bend[12];
    Crossing u[12], plain[12];  // with alpha and without
    float at[12][3];            // of u
    float off[12][3];           // from plain to the vertex
    float distance[12];         // its length
    float vertex[4][3], part[4], mean[4], each[4];  // part: 1 / sum of beta; mean of the distances; each: 1 / edges

    DF_BODY DualCube() {}  // leaves the numbers as they are
};

// Calls each(edge, its low corner, its high corner, its loop) for the edges that the surface crosses.
template <class Each>
DF_BODY void for_crossed(const uint8_t* loop, const Each& each) {
    for (int edge = 0; edge < 12; ++edge) {
        const EdgeAxes axes(edge >> 2);
        if (loop[edge] != NO_LOOP) each(edge, axes.low(edge), axes.high(edge), int(loop[edge]));
    }
}

DF_BODY void read_corners(const FlexiArgs& args, int64_t item, DualCube& dual) {
    const int64_t low = low_corner(args, cube_place(args, args.active[item]));
    dual.loop = args.table + args.rows[item] * LOOP_ROW;
    for (int c = 0; c < 8; ++c) {
        const int64_t vertex = low + corner_step(args.size, c);
        dual.s[c] = args.s[vertex];
        for (int axis = 0; axis < 3; ++axis) dual.x[c][axis] = args.x[3 * vertex + axis];
        dual.lean[c] = args.alpha ? args.lean[8 * item + c] : 0.0f;
    }
    for (int e = 0; e < 12; ++e) dual.bend[e] = args.beta ? args.bend[12 * item + e] : 0.0f;
}

DF_BODY float weight_of(const FlexiArgs& args, float raw) { return 1.0f + args.scale * raw; }

DF_BODY void solve_dual(const FlexiArgs& args, int64_t item, DualCube& dual) {
    read_corners(args, item, dual);
    float total[4] = {}, edges[4] = {};
    for (int l = 0; l < 4; ++l) {
        dual.mean[l] = 0.0f;
        for (int axis = 0; axis < 3; ++axis) dual.vertex[l][axis] = 0.0f;
    }
    for_crossed(dual.loop, [&](int e, int a, int b, int l) {
        const float beta = weight_of(args, dual.bend[e]);
        dual.plain[e] = Crossing(dual.s[a], dual.s[b]);
        dual.u[e] = Crossing(weight_of(args, dual.lean[a]) * dual.s[a], weight_of(args, dual.lean[b]) * dual.s[b]);
        for (int axis = 0; axis < 3; ++axis) {
            dual.at[e][axis] = dual.x[a][axis] + dual.u[e].t * (dual.x[b][axis] - dual.x[a][axis]);
            dual.vertex[l][axis] += beta * dual.at[e][axis];
        }
        total[l] += beta;
        edges[l] += 1.0f;
    });
    for (int l = 0; l < dual.loop[LOOP_COUNT]; ++l) {
        dual.part[l] = 1.0f / total[l], dual.each[l] = 1.0f / edges[l];
        for (int axis = 0; axis < 3; ++axis) dual.vertex[l][axis] *= dual.part[l];
    }
    for_crossed(dual.loop, [&](int e, int a, int b, int l) {
        float square = 0.0f;
        for (int axis = 0; axis < 3; ++axis) {
            const float plain = dual.x[a][axis] + dual.plain[e].t * (dual.x[b][axis] - dual.x[a][axis]);
            dual.off[e][axis] = dual.vertex[l][axis] - plain;
            square += dual.off[e][axis] * dual.off[e][axis];
        }
        dual.distance[e] = root_of(square);
        dual.mean[l] += dual.distance[e] * dual.each[l];
    });
}

DF_BODY void flexi_vertices(const FlexiArgs& args, int64_t item) {
    DualCube dual;
    solve_dual(args, item, dual);
    for (int l = 0; l < dual.loop[LOOP_COUNT]; ++l)
        for (int axis = 0; axis < 3; ++axis) args.vertices[3 * (args.first[item] + l) + axis] = dual.vertex[l][axis];
    int64_t place = args.first[2 * (args.count + 1) + item];
    for_crossed(dual.loop, [&](int e, int, int, int l) {
        const float more = dual.distance[e] - dual.mean[l];
        args.deviation[place++] = more < 0.0f ? -more : more;
    });
}

// The quad around the edge along an axis at a cube's corner 0: a ring of four, each with how far its cube is back along
// the other two axes (one + 2 two). It turns to the left seen from outside.
struct DualQuad {
    int32_t back[4];
    int64_t vertex[4];
    float gamma[4];
    float one, two;  // products of gamma at the ends of the diagonals 0-2 and 1-3
};

DF_BODY void quad_of(const FlexiArgs& args, const GridPlace& cube, const EdgeAxes& axes, DualQuad& quad) {
    const bool left = ((args.cases[cube.number] & 1) != 0) != (axes.axis == 1);
    for (int k = 0; k < 4; ++k) {
        const int turn = left ? k : 3 - k;
        const int32_t back = turn == 0 ? 3 : turn == 1 ? 2 : turn == 2 ? 0 : 1;
        const int64_t other = cube.number - bit_of(back, 0) * cube_step(args.size, axes.one) -
                              bit_of(back, 1) * cube_step(args.size, axes.two);
        const int64_t item = args.rank[other];
        quad.back[k] = back;
        quad.vertex[k] = args.first[item] + args.table[args.rows[item] * LOOP_ROW + 4 * axes.axis + back];
        quad.gamma[k] = args.even[item];
    }
    quad.one = quad.gamma[0] * quad.gamma[2], quad.two = quad.gamma[1] * quad.gamma[3];
}

DF_BODY void flexi_faces(const FlexiArgs& args, int64_t item) {
    const GridPlace cube = cube_place(args, args.active[item]);
    const int64_t total = args.first[args.count];
    int64_t number = args.first[args.count + 1 + item];
    for (int axis = 0; axis < 3; ++axis) {
        if (!has_quad(args, cube, EdgeAxes(axis))) continue;
        DualQuad quad;
        quad_of(args, cube, EdgeAxes(axis), quad);
        int64_t* face = args.faces + (args.training ? 12 : 6) * number;
        if (!args.training) {
            const bool other = quad.two > quad.one;  // the diagonal 1-3
            const int64_t ways[6] = {0, 1, other ? 3 : 2, other ? 1 : 0, 2, 3};
            for (int i = 0; i < 6; ++i) face[i] = quad.vertex[ways[i]];
        } else {
            const float share = quad.one / (quad.one + quad.two);
            for (int a = 0; a < 3; ++a) {
                float corner[4];
                for (int k = 0; k < 4; ++k) corner[k] = args.vertices[3 * quad.vertex[k] + a];
                args.vertices[3 * (total + number) + a] =
                    share * (corner[0] + corner[2]) * 0.5f + (1.0f - share) * (corner[1] + corner[3]) * 0.5f;
            }
            for (int k = 0; k < 4; ++k) {
                face[3 * k] = quad.vertex[k];
                face[3 * k + 1] = quad.vertex[(k + 1) % 4];
                face[3 * k + 2] = total + number;
            }
        }
        ++number;
    }
}

// What the centre of each quad of a cube passes on to the vertex of the cube that is `back`: the share of its own
// gradient, and the gradient of that cube's gamma.
DF_BODY void flexi_share(const FlexiArgs& args, int64_t item) {
    const GridPlace cube = cube_place(args, args.active[item]);
    const int64_t total = args.first[args.count];
    int64_t number = args.first[args.count + 1 + item];
    for (int axis = 0; axis < 3; ++axis) {
        if (!has_quad(args, cube, EdgeAxes(axis))) continue;
        DualQuad quad;
        quad_of(args, cube, EdgeAxes(axis), quad);
        const float sum = quad.one + quad.two, share = quad.one / sum;
        float along = 0.0f;  // d loss / d share
        for (int a = 0; a < 3; ++a) {
            float corner[4];
            for (int k = 0; k < 4; ++k) corner[k] = args.vertices[3 * quad.vertex[k] + a];
            along += 0.5f * args.grad_vertices[3 * (total + number) + a] *
                     (corner[0] + corner[2] - corner[1] - corner[3]);
        }
        for (int k = 0; k < 4; ++k) {
            float* const to = args.share + 8 * number + 2 * quad.back[k];
            to[0] = 0.5f * (k % 2 ? 1.0f - share : share);
            to[1] = along * quad.gamma[(k + 2) % 4] * (k % 2 ? -share : 1.0f - share) / sum;
        }
        ++number;
    }
}

// The number of the quad around an edge of a cube, or -1 at the border.
DF_BODY int64_t quad_around(const FlexiArgs& args, const GridPlace& cube, int edge) {
    const EdgeAxes axes(edge >> 2);
    GridPlace owner = cube;
    for (int n = 0; n < 2; ++n) {
        const int axis = n ? axes.two : axes.one, step = bit_of(edge, n);
        owner.at[axis] += step;
        owner.number += step * cube_step(args.size, axis);
        if (owner.at[axis] == 0 || owner.at[axis] >= args.size[axis]) return -1;
    }
    int64_t number = args.first[args.count + 1 + args.rank[owner.number]];
    for (int axis = 0; axis < axes.axis; ++axis) number += has_quad(args, owner, EdgeAxes(axis));
    return number;
}

// pull[l]: of the loss by the dual vertices; the answer: by the cube's weight gamma.
DF_BODY float gather_quads(const FlexiArgs& args, int64_t item, const DualCube& dual, float (&pull)[4][3]) {
    const GridPlace cube = cube_place(args, args.active[item]);
    const int64_t total = args.first[args.count];
    float to_gamma = 0.0f;
    for_crossed(dual.loop, [&](int e, int, int, int l) {
        const int64_t number = quad_around(args, cube, e);
        if (number < 0) return;
        const float* const share = args.share + 8 * number + 2 * (e & 3);
        const float* const grad = args.grad_vertices + 3 * (total + number);
        for (int axis = 0; axis < 3; ++axis) pull[l][axis] += share[0] * grad[axis];
        to_gamma += share[1];
    });
    return to_gamma;
}

// Adds what a pull at the crossing between corners a and b does to their {x, y, z}; the answer: the pull by t.
DF_BODY float pull_crossing(const DualCube& dual, float at, int a, int b, const float (&pull)[3], float (&slot)[8][4]) {
    float along = 0.0f;
    for (int axis = 0; axis < 3; ++axis) {
        slot[a][axis] += (1.0f - at) * pull[axis];
        slot[b][axis] += at * pull[axis];
        along += pull[axis] * (dual.x[b][axis] - dual.x[a][axis]);
    }
    return along;
}

// The deviations of a cube pull at its vertices and at the crossings without alpha: each through the distances of all
// edges of its loop.
DF_BODY void pull_deviations(const FlexiArgs& args, int64_t item, const DualCube& dual, float (&pull)[4][3],
                             float (&slot)[8][4]) {
    const float* const grad = args.grad_deviation + args.first[2 * (args.count + 1) + item];
    float by_distance[12], sum[4] = {};
    int n = 0;
    for_crossed(dual.loop, [&](int e, int, int, int l) {
        const float more = dual.distance[e] - dual.mean[l], given = grad[n++];
        by_distance[e] = more > 0.0f ? given : more < 0.0f ? -given : 0.0f;
        sum[l] += by_distance[e];
    });
    for_crossed(dual.loop, [&](int e, int a, int b, int l) {
        const float by = by_distance[e] - sum[l] * dual.each[l];
        const float share = dual.distance[e] > 0.0f ? by / dual.distance[e] : 0.0f;
        float back[3];
        for (int axis = 0; axis < 3; ++axis) {
            back[axis] = -share * dual.off[e][axis];
            pull[l][axis] -= back[axis];
        }
        const float along = pull_crossing(dual, dual.plain[e].t, a, b, back, slot);
        slot[a][3] += along * dual.plain[e].slope_a();
        slot[b][3] += along * dual.plain[e].slope_b();
    });
}

// The vertices pull at the crossings with alpha, at the weights and at the corners.
DF_BODY void pull_vertices(const FlexiArgs& args, int64_t cube, const DualCube& dual, const float (&pull)[4][3],
                           float (&slot)[8][4]) {
    float to_alpha[8] = {};
    for_crossed(dual.loop, [&](int e, int a, int b, int l) {
        const float beta = weight_of(args, dual.bend[e]) * dual.part[l];
        float to_u[3], to_beta = 0.0f;
        for (int axis = 0; axis < 3; ++axis) {
            to_u[axis] = beta * pull[l][axis];
            to_beta += pull[l][axis] * (dual.at[e][axis] - dual.vertex[l][axis]);
        }
        if (args.grad_beta)
            args.grad_beta[12 * cube + e] =
                to_beta * dual.part[l] * args.scale * (1.0f - dual.bend[e] * dual.bend[e]);
        const float along = pull_crossing(dual, dual.u[e].t, a, b, to_u, slot);
        const float by_a = along * dual.u[e].slope_a(), by_b = along * dual.u[e].slope_b();  // of alpha s
        slot[a][3] += by_a * weight_of(args, dual.lean[a]);
        slot[b][3] += by_b * weight_of(args, dual.lean[b]);
        to_alpha[a] += by_a * dual.s[a];
        to_alpha[b] += by_b * dual.s[b];
    });
    if (!args.grad_alpha) return;
    for (int c = 0; c < 8; ++c)
        args.grad_alpha[8 * cube + c] = to_alpha[c] * args.scale * (1.0f - dual.lean[c] * dual.lean[c]);
}

DF_BODY void flexi_pull(const FlexiArgs& args, int64_t item) {
    DualCube dual;
    solve_dual(args, item, dual);
    const int64_t cube = args.active[item];
    float pull[4][3], slot[8][4] = {};  // of the loss by the vertices, by the corners' {x, y, z, s}
    for (int l = 0; l < dual.loop[LOOP_COUNT]; ++l)
        for (int axis = 0; axis < 3; ++axis) pull[l][axis] = args.grad_vertices[3 * (args.first[item] + l) + axis];
    if (args.training) {
        const float to_gamma = gather_quads(args, item, dual, pull);
        if (args.grad_gamma) {
            const float even = sigmoid_of(args.gamma[cube]);
            args.grad_gamma[cube] = to_gamma * args.scale * even * (1.0f - even);
        }
    }
    if (args.grad_deviation) pull_deviations(args, item, dual, pull, slot);
    pull_vertices(args, cube, dual, pull, slot);
    for (int i = 0; args.slots && i < 32; ++i) args.slots[32 * item + i] = slot[i / 4][i % 4];
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
