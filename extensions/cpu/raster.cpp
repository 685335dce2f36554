// Triangles at pixels on a CPU. A task draws a band of rows, or takes a run of pixels, one a lane; gradients of
// vertices are summed up by parts of the picture, in the order of the pixels. Compiled without fused products: see
// raster.h.
#include "simd.h"
#include "tasks.h"
//
#include "../include/raster.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int64_t FACES = 4096, BAND = 64, POINTS = 8192;  // of a task: faces, rows of the picture, pixels

// The rows that a face may reach, [out[0], out[1]); too many rather than too few.
static void reach(const RasterArgs& args, int64_t view, int64_t face, int32_t* out) {
    const Corner a = corner_of(args, view, face, 0), b = corner_of(args, view, face, 1);
    const Corner c = corner_of(args, view, face, 2);
    const int front = (a.z > args.near) + (b.z > args.near) + (c.z > args.near);
    out[0] = 0, out[1] = front == 0 ? 0 : args.height;
    if (front < 3) return;
    const float left = lesser(lesser(a.x, b.x), c.x), right = greater(greater(a.x, b.x), c.x);
    const float top = lesser(lesser(a.y, b.y), c.y), bottom = greater(greater(a.y, b.y), c.y);
    const float height = float(args.height);
    const bool inside = top < height && bottom > 0.5f && left < float(args.width) && right > 0.5f;
    out[0] = inside ? int32_t(held(ceil_of(top - 0.5f), 0.0f, height)) : 0;
    out[1] = inside ? int32_t(held(ceil_of(bottom - 0.5f), 0.0f, height)) : 0;
}

static void draw_band(const RasterArgs& args, int64_t view, int32_t from, int32_t to) {
    const int32_t* rows = args.rows + 2 * view * args.count;
    for (int64_t face = 0; face < args.count; ++face) {
        if (rows[2 * face] >= to || rows[2 * face + 1] <= from) continue;
        clip_face(args, view, face, [&](const Corner& a, const Corner& b, const Corner& c) {
            Rows triangle;
            if (!rows_of(a, b, c, args.height, args.width, triangle)) return;
            const int32_t end = triangle.last < to ? triangle.last : to;
            for (int32_t row = triangle.first > from ? triangle.first : from; row < end; ++row) {
                uint64_t* keys = (uint64_t*)args.face + (view * args.height + row) * args.width;
                fill_row(triangle, row, args.width, [&](int32_t x, float inverse) {
                    const uint64_t key = key_of(inverse, face);
                    if (key > keys[x]) keys[x] = key;
                });
            }
        });
    }
}

void raster_cover(const RasterArgs& args) {
    const int64_t chunks = (args.count + FACES - 1) / FACES, bands = (args.height + BAND - 1) / BAND;
    parallel(args.views * chunks, [&](int64_t task) {
        const int64_t view = task / chunks, first = task % chunks * FACES;
        for (int64_t face = first; face < least(first + FACES, args.count); ++face)
            reach(args, view, face, args.rows + 2 * (view * args.count + face));
    });
    parallel(args.views * bands, [&](int64_t task) {
        const int64_t first = task % bands * BAND;
        draw_band(args, task / bands, int32_t(first), int32_t(least(first + BAND, args.height)));
    });
}

// W pixels: their faces, and the corners of those as seen from them; where there is no face zeros, and ones for z.
struct Pixels {
    alignas(64) int64_t face[W];
    Floats x[3], y[3], z[3];
    bool empty;
};

// `count` pixels from `first` on, of all views' pixels.
static void look(const RasterArgs& args, int64_t view, int64_t first, int count, Pixels& out) {
    alignas(64) float numbers[9][W], across[W], down[W];
    const float* points = args.points + 3 * view * args.vertices;
    const int64_t at = first - view * args.height * args.width;
    int32_t row = int32_t(at / args.width), column = int32_t(at % args.width);
    out.empty = true;
    for (int i = 0; i < W; ++i) {
        const int64_t face = i < count ? out.face[i] : -1;
        across[i] = float(column) + 0.5f, down[i] = float(row) + 0.5f;
        if (++column == args.width) column = 0, ++row;
        if (face < 0) {
            for (int k = 0; k < 9; ++k) numbers[k][i] = k % 3 == 2 ? 1.0f : 0.0f;
            continue;
        }
        out.empty = false;
        for (int k = 0; k < 3; ++k) {
            const float* point = points + 3 * int64_t(args.faces[3 * face + k]);
            for (int axis = 0; axis < 3; ++axis) numbers[3 * k + axis][i] = point[axis];
        }
    }
    for (int k = 0; k < 3; ++k) {
        out.x[k] = load<Floats>(numbers[3 * k]) - load<Floats>(across);
        out.y[k] = load<Floats>(numbers[3 * k + 1]) - load<Floats>(down);
        out.z[k] = load<Floats>(numbers[3 * k + 2]);
    }
}

// The k-th number of each of `count` pixels, zero where there is no face.
static void spread(const Floats (&values)[3], const Pixels& at, int count, float* to) {
    for (int k = 0; k < 3; ++k)
        for (int i = 0; i < count; ++i) to[3 * i + k] = at.face[i] < 0 ? 0.0f : values[k][i];
}

static void resolve(const RasterArgs& args, int64_t view, int64_t first, int count) {
    Pixels at;
    for (int i = 0; i < count; ++i) args.face[first + i] = at.face[i] = face_of(uint64_t(args.face[first + i]));
    look(args, view, first, count, at);
    Weights<Floats> place{};
    Floats depth{};
    if (!at.empty) {
        place_on(at.x, at.y, at.z, place);
        depth = place.bary[0] * at.z[0] + place.bary[1] * at.z[1] + place.bary[2] * at.z[2];
    }
    spread(place.bary, at, count, args.bary + 3 * first);
    for (int i = 0; i < count; ++i) args.depth[first + i] = at.face[i] < 0 ? 0.0f : depth[i];
    if (!args.dx) return;
    Floats dx[3]{}, dy[3]{};
    if (!at.empty) slopes_on(at.x, at.y, at.z, place, dx, dy);
    spread(dx, at, count, args.dx + 3 * first);
    spread(dy, at, count, args.dy + 3 * first);
}

void raster_resolve(const RasterArgs& args) {
    const int64_t pixels = int64_t(args.height) * args.width, chunks = (pixels + POINTS - 1) / POINTS;
    parallel(args.views * chunks, [&](int64_t task) {
        const int64_t view = task / chunks, first = task % chunks * POINTS, end = least(first + POINTS, pixels);
        for (int64_t i = first; i < end; i += W) resolve(args, view, view * pixels + i, int(least(W, end - i)));
    });
}

void raster_backward(const RasterArgs& args) {
    const int64_t pixels = int64_t(args.height) * args.width, parts = args.parts;
    parallel(args.views * parts, [&](int64_t task) {
        const int64_t view = task / parts, end = view * pixels + pixels * (task % parts + 1) / parts;
        float* grad = args.grad + 3 * task * args.vertices;
        for (int64_t first = view * pixels + pixels * (task % parts) / parts; first < end; first += W) {
            const int count = int(least(W, end - first));
            Pixels at;
            for (int i = 0; i < count; ++i) at.face[i] = args.face[first + i];
            look(args, view, first, count, at);
            if (at.empty) continue;
            Floats to_bary[3]{}, to_depth{}, sums[9];
            for (int i = 0; i < count; ++i) {
                for (int k = 0; k < 3 && args.grad_bary; ++k) to_bary[k][i] = args.grad_bary[3 * (first + i) + k];
                if (args.grad_depth) to_depth[i] = args.grad_depth[first + i];
            }
            pull_on(at.x, at.y, at.z, to_bary, to_depth, sums);
            for (int i = 0; i < count; ++i) {
                if (at.face[i] < 0) continue;
                for (int k = 0; k < 9; ++k) grad[3 * int64_t(args.faces[3 * at.face[i] + k / 3]) + k % 3] += sums[k][i];
            }
        }
    });
}

template <class Body>
static void for_points(const InterpolateArgs& args, const Body& body) {
    const int64_t chunks = (args.points + POINTS - 1) / POINTS;
    parallel(args.sets * chunks, [&](int64_t task) {
        const int64_t set = task / chunks, first = task % chunks * POINTS;
        for (int64_t i = first; i < least(first + POINTS, args.points); ++i) body(set, set * args.points + i);
    });
}

void raster_interpolate(const InterpolateArgs& args) {
    for_points(args, [&](int64_t set, int64_t point) { interpolate_point(args, set, point); });
}

void raster_interpolate_backward(const InterpolateArgs& args) {
    if (args.grad_bary) for_points(args, [&](int64_t set, int64_t point) { pull_bary(args, set, point); });
    if (!args.grad) return;
    parallel(args.sets * args.parts, [&](int64_t task) {
        const int64_t set = task / args.parts, part = task % args.parts;
        float* grad = args.grad + task * args.vertices * args.channels;
        for (int64_t i = args.points * part / args.parts; i < args.points * (part + 1) / args.parts; ++i)
            pull_attributes(args, set * args.points + i, grad, [](float* to, float value) { *to += value; });
    });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
