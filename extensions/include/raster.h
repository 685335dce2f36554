// Triangles at pixels: which one covers each pixel centre, and the place on it. The bodies for one triangle and for one
// pixel, or a vector of them. Coverage is that of ops/scanline.py, rounding for rounding: nothing is fused there.
#pragma once
#include "scalar.h"

namespace dreamforge {

constexpr int RASTER_LANES = 8;  // threads of a GPU that draw a triangle together; as in ops/raster.py

// Mirrored in ops/raster.py.
struct RasterArgs {
    const float* points;   // [views, vertices, 3]: x, y in pixels, depth
    const int32_t* faces;  // [count, 3]
    int32_t* rows;         // CPU: [views, count, 2]
    int64_t* face;         // [views, height, width]; cover has zeros and writes keys, which resolve turns into faces
    float *bary, *depth, *dx, *dy;       // [views, height, width, 3], [views, height, width]; the last two or null
    const float *grad_bary, *grad_depth; // like bary and depth, or null
    float* grad;                         // [views, parts, vertices, 3], zeros
    int64_t views, vertices, count;
    int32_t height, width, parts;
    float near;
};

struct InterpolateArgs {
    const float* attributes;  // [sets, vertices, channels]
    const int32_t* faces;     // [., 3]
    const int64_t* face;      // [sets, points]
    const float* bary;        // [sets, points, 3]
    float* out;               // [sets, points, channels]
    const float* pull;        // like out
    float* grad;              // [sets, parts, vertices, channels], zeros; or null
    float* grad_bary;         // like bary, or null
    int64_t sets, points, vertices;
    int32_t channels, parts;
};

namespace DF_LEVEL {

constexpr float RASTER_TINY = 1e-12f;  // twice an area in pixels; below it slopes overflow
constexpr float RASTER_HUGE = 1e15f;   // pixels; beyond it areas overflow
constexpr float RASTER_NEVER = 3.4028235e38f; // the greatest number

// A product that is rounded before it is added to anything. (cpu/raster.cpp is compiled without contraction.)
#if defined(__CUDACC_RTC__)
DF_BODY float product(float a, float b) { return __fmul_rn(a, b); }
#else
DF_BODY float product(float a, float b) { return a * b; }
#endif

DF_BODY float ceil_of(float x) { return -floor_of(-x); }
DF_BODY float held(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
DF_BODY float lesser(float a, float b) { return a < b ? a : b; }
DF_BODY float greater(float a, float b) { return a > b ? a : b; }

struct Corner {
    float x, y, z;
};

DF_BODY Corner corner_of(const RasterArgs& args, int64_t view, int64_t face, int k) {
    const float* point = args.points + 3 * (view * args.vertices + args.faces[3 * face + k]);
    return Corner{point[0], point[1], point[2]};
}

// A triangle whose rows are to be filled; corners a, b, c from top to bottom, z inverse depths.
struct Rows {
    Corner a, b;
    float ac, ab, bc;           // x by y along the edges
    float dx, dy, low, high;    // of the inverse depth: slopes on the screen, least, greatest
    int32_t first, middle, last;
};

DF_BODY bool drawable(const Corner& one) {
    const bool here = one.x < RASTER_HUGE && one.x > -RASTER_HUGE && one.y < RASTER_HUGE && one.y > -RASTER_HUGE;
    return here && one.z <= RASTER_NEVER;
}

// Whether there is anything to fill.
DF_BODY bool rows_of(Corner a, Corner b, Corner c, int32_t height, int32_t width, Rows& out) {
    const float area = product(b.x - a.x, c.y - a.y) - product(b.y - a.y, c.x - a.x);
    const float right = greater(greater(a.x, b.x), c.x), left = lesser(lesser(a.x, b.x), c.x);
    const float bottom = greater(greater(a.y, b.y), c.y), top = lesser(lesser(a.y, b.y), c.y);
    const bool inside = right > 0.5f && left < float(width) && bottom > 0.5f && top < float(height);
    if (!(inside && drawable(a) && drawable(b) && drawable(c) && (area > 0.0f || area < 0.0f))) return false;
    Corner swap;
    if (b.y < a.y) swap = a, a = b, b = swap;  // stable: equal ones keep their order
    if (c.y < b.y) swap = b, b = c, c = swap;
    if (b.y < a.y) swap = a, a = b, b = swap;
    a.z = 1.0f / a.z, b.z = 1.0f / b.z, c.z = 1.0f / c.z;
    out.a = a, out.b = b;
    out.first = int32_t(held(ceil_of(a.y - 0.5f), 0.0f, float(height)));
    out.middle = int32_t(held(ceil_of(b.y - 0.5f), 0.0f, float(height)));
    out.last = int32_t(held(ceil_of(c.y - 0.5f), 0.0f, float(height)));
    const float bx = b.x - a.x, by = b.y - a.y, cx = c.x - a.x, cy = c.y - a.y, db = b.z - a.z, dc = c.z - a.z;
    const float twice = product(bx, cy) - product(by, cx);
    const bool thin = !(twice > RASTER_TINY || twice < -RASTER_TINY);  // is drawn at its first corner's depth
    out.dx = thin ? 0.0f : (product(db, cy) - product(dc, by)) / twice;
    out.dy = thin ? 0.0f : (product(dc, bx) - product(db, cx)) / twice;
    out.ac = cx / cy, out.ab = bx / by, out.bc = (c.x - b.x) / (c.y - b.y);
    out.low = lesser(lesser(a.z, b.z), c.z), out.high = greater(greater(a.z, b.z), c.z);
    return true;
}

// Calls plot(pixel of the row, inverse depth) for the centres of a row that lie in the triangle.
template <class Plot>
DF_BODY void fill_row(const Rows& in, int32_t row, int32_t width, const Plot& plot) {
    const float y = float(row) + 0.5f, below = y - in.a.y;
    const float long_side = in.a.x + product(below, in.ac);
    const float short_side = row < in.middle ? in.a.x + product(below, in.ab) : in.b.x + product(y - in.b.y, in.bc);
    const float start = held(ceil_of(lesser(long_side, short_side) - 0.5f), 0.0f, float(width));
    const float stop = held(ceil_of(greater(long_side, short_side) - 0.5f), 0.0f, float(width));
    if (!(stop > start)) return;
    const float at_row = in.a.z + product(in.dy, below);
    const float begin = held(at_row + product(in.dx, start + 0.5f - in.a.x), in.low, in.high);
    const float end = held(at_row + product(in.dx, stop - 0.5f - in.a.x), in.low, in.high);
    const float slope = (end - begin) / greater(stop - start - 1.0f, 1.0f);
    const int32_t count = int32_t(stop - start);
    for (int32_t i = 0; i < count; ++i) plot(int32_t(start) + i, begin + product(float(i), slope));
}

// Where the edge from a corner in front of the plane to one behind it meets the plane.
DF_BODY Corner crossing(const Corner& front, const Corner& behind, float near) {
    const float share = (front.z - near) / (front.z - behind.z);
    const float x = product(front.x, front.z), y = product(front.y, front.z);
    return Corner{(x + product(share, product(behind.x, behind.z) - x)) / near,
                  (y + product(share, product(behind.y, behind.z) - y)) / near, near};
}

// Calls draw(a, b, c) for what of a face lies beyond the plane: a triangle, two, or nothing.
template <class Draw>
DF_BODY void clip_face(const RasterArgs& args, int64_t view, int64_t face, const Draw& draw) {
    Corner p[3];
    for (int k = 0; k < 3; ++k) p[k] = corner_of(args, view, face, k);
    const bool front[3] = {p[0].z > args.near, p[1].z > args.near, p[2].z > args.near};
    const int count = front[0] + front[1] + front[2];
    if (count == 3) return draw(p[0], p[1], p[2]);
    if (count == 0) return;
    const bool one = count == 1;
    const int k = front[0] == one ? 0 : front[1] == one ? 1 : 2;  // the corner that has its side for itself
    const Corner a = p[k], b = p[(k + 1) % 3], c = p[(k + 2) % 3];
    if (one) return draw(a, crossing(a, b, args.near), crossing(a, c, args.near));
    const Corner ab = crossing(b, a, args.near), ac = crossing(c, a, args.near);
    draw(b, c, ac);
    draw(b, ac, ab);
}

// The greater key is nearer, then of the lower face; bits of positive floats sort as the floats do.
DF_BODY uint64_t key_of(float inverse, int64_t face) {
    union {
        float number;
        uint32_t bits;
    } value;
    value.number = inverse;
    return uint64_t(value.bits) << 32 | (0xffffffffu - uint32_t(face));
}

DF_BODY int64_t face_of(uint64_t key) { return key ? int64_t(0xffffffffu - uint32_t(key)) : -1; }

// ---- the place on a triangle; F is a float or a vector of them

template <class F>
struct Weights {
    F weight[3], total, exact[3], bary[3];
    decltype(F() > F()) good;
};

// x, y: of the corners, seen from the pixel's centre. See barycentric in ops/raster.py.
template <class F>
DF_BODY void place_on(const F (&x)[3], const F (&y)[3], const F (&z)[3], Weights<F>& out) {
    F held[3], sum{};
    for (int k = 0; k < 3; ++k) {
        const int after = (k + 1) % 3, before = (k + 2) % 3;
        out.weight[k] = (x[after] * y[before] - y[after] * x[before]) / z[k];
    }
    F total = out.weight[0] + out.weight[1] + out.weight[2];
    const F size = total < 0.0f ? -total : total;
    out.good = (size > 0.0f) & (size < RASTER_NEVER);
    const F none = F{} + 1.0f, third = F{} + 1.0f / 3.0f;
    out.total = total = out.good ? total : none;
    for (int k = 0; k < 3; ++k) {
        out.exact[k] = out.good ? out.weight[k] / total : third;
        held[k] = out.exact[k] < 0.0f ? F{} : out.exact[k] > 1.0f ? none : out.exact[k];
        sum += held[k];
    }
    for (int k = 0; k < 3; ++k) out.bary[k] = held[k] / sum;
}

// How the weights change to the right and downwards.
template <class F>
DF_BODY void slopes_on(const F (&x)[3], const F (&y)[3], const F (&z)[3], const Weights<F>& at, F (&dx)[3],
                       F (&dy)[3]) {
    F right{}, down{};
    for (int k = 0; k < 3; ++k) {
        const int after = (k + 1) % 3, before = (k + 2) % 3;
        dx[k] = (y[after] - y[before]) / z[k];
        dy[k] = (x[before] - x[after]) / z[k];
        right += dx[k], down += dy[k];
    }
    for (int k = 0; k < 3; ++k) {
        dx[k] = at.good ? (dx[k] - at.exact[k] * right) / at.total : F{};
        dy[k] = at.good ? (dy[k] - at.exact[k] * down) / at.total : F{};
    }
}

// The gradient by the corners' x, y, depth: grad[3 k + axis]. to_bary, to_depth: of the loss.
template <class F>
DF_BODY void pull_on(const F (&x)[3], const F (&y)[3], const F (&z)[3], const F (&to_bary)[3], F to_depth,
                     F (&grad)[9]) {
    Weights<F> at;
    place_on(x, y, z, at);
    F pull[3], mean{};
    for (int k = 0; k < 3; ++k) {
        pull[k] = to_bary[k] + to_depth * z[k];
        mean += pull[k] * at.exact[k];
        grad[3 * k] = grad[3 * k + 1] = F{};
    }
    for (int k = 0; k < 3; ++k) {
        const int after = (k + 1) % 3, before = (k + 2) % 3;
        const F to_weight = at.good ? (pull[k] - mean) / at.total : F{}, to_area = to_weight / z[k];
        grad[3 * k + 2] = to_depth * at.bary[k] - to_area * at.weight[k];
        grad[3 * after] += to_area * y[before];
        grad[3 * before + 1] += to_area * x[after];
        grad[3 * after + 1] -= to_area * x[before];
        grad[3 * before] -= to_area * y[after];
    }
}

// ---- what the corners carry

// Calls each(k, row) with a pixel's corners and the first of their attributes; not where there is no face.
template <class Each>
DF_BODY void for_corners(const InterpolateArgs& args, int64_t point, const Each& each) {
    const int64_t face = args.face[point];
    if (face < 0) return;
    for (int k = 0; k < 3; ++k) each(k, int64_t(args.faces[3 * face + k]) * args.channels);
}

// `point`: among those of all sets.
DF_BODY void interpolate_point(const InterpolateArgs& args, int64_t set, int64_t point) {
    float* out = args.out + point * args.channels;
    const float* attributes = args.attributes + set * args.vertices * args.channels;
    for (int c = 0; c < args.channels; ++c) out[c] = 0.0f;
    for_corners(args, point, [&](int k, int64_t row) {
        const float weight = args.bary[3 * point + k];
        for (int c = 0; c < args.channels; ++c) out[c] += weight * attributes[row + c];
    });
}

DF_BODY void pull_bary(const InterpolateArgs& args, int64_t set, int64_t point) {
    const float* pull = args.pull + point * args.channels;
    const float* attributes = args.attributes + set * args.vertices * args.channels;
    for (int k = 0; k < 3; ++k) args.grad_bary[3 * point + k] = 0.0f;
    for_corners(args, point, [&](int k, int64_t row) {
        float sum = 0.0f;
        for (int c = 0; c < args.channels; ++c) sum += pull[c] * attributes[row + c];
        args.grad_bary[3 * point + k] = sum;
    });
}

// add(to, number): into the sums `grad [vertices, channels]`.
template <class Add>
DF_BODY void pull_attributes(const InterpolateArgs& args, int64_t point, float* grad, const Add& add) {
    const float* pull = args.pull + point * args.channels;
    for_corners(args, point, [&](int k, int64_t row) {
        const float weight = args.bary[3 * point + k];
        for (int c = 0; c < args.channels; ++c) add(grad + row + c, weight * pull[c]);
    });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
