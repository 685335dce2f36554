// Antialiasing of a mesh's outlines: the bodies for one face, and for one pixel with its neighbours to the right and
// below. See ops/antialias.py.
#pragma once
#include "raster.h"

namespace dreamforge {

// Mirrored in ops/antialias.py.
struct AntialiasArgs {
    const float* points;                   // [views, vertices, 3]: x, y in pixels, depth
    const int32_t *faces, *across;         // [count, 3] both
    uint8_t* outline;                      // [views, count]: bit k, whether the edge across from corner k is one
    uint8_t* blends;                       // like face: bit 0, whether a pixel and its right neighbour blend; 1, below
    const int64_t* face;                   // [views, height, width]
    const float *depth, *color;            // like face; [views, height, width, channels]
    float* out;                            // like color, and a copy of it at first
    const float* pull;                     // like color
    float *grad_color, *grad;              // a copy of pull, or null; [views, parts, vertices, 3], zeros, or null
    int64_t views, vertices, count;
    int32_t height, width, channels, parts;
};

namespace DF_LEVEL {

constexpr float ANTIALIAS_SLACK = 1.0f / 256.0f;  // as in ops/antialias.py
constexpr int ANTIALIAS_FACES = 64;       // as there

// On which side of the line from a to b a point lies on the screen. What lies behind the camera is seen mirrored.
DF_BODY float side_of(const float* a, const float* b, const float* point) {
    const float side = product(b[0] - a[0], point[1] - a[1]) - product(b[1] - a[1], point[0] - a[0]);
    return point[2] < 0.0f ? -side : side;
}

DF_BODY uint8_t outline_of(const AntialiasArgs& args, int64_t view, int64_t face) {
    const float* points = args.points + 3 * view * args.vertices;
    int mask = 0;
    for (int k = 0; k < 3; ++k) {
        const float* own = points + 3 * int64_t(args.faces[3 * face + k]);
        const float* start = points + 3 * int64_t(args.faces[3 * face + (k + 1) % 3]);
        const float* end = points + 3 * int64_t(args.faces[3 * face + (k + 2) % 3]);
        const int32_t across = args.across[3 * face + k];
        bool is = across < 0;
        if (!is) {
            const float beyond = side_of(start, end, points + 3 * int64_t(args.faces[across]));
            is = side_of(start, end, own) > 0.0f ? beyond >= 0.0f : beyond <= 0.0f;
        }
        mask |= (is && start[2] > 0.0f && end[2] > 0.0f) << k;
    }
    return uint8_t(mask);
}

// The pixel `target` gets `share` of what the pixel `source` has more than it. The share changes with the crossing of
// the edge from `start` to `end`, at `along` of it: by `slope` with the crossing's place, which changes by `tilt` with
// its line.
struct Blend {
    int64_t target, source;  // among the pixels of all views
    int64_t start, end;      // vertices
    float share, along, slope, tilt;
    int axis;
};

// The edge by which a line leaves a face: the line where x (axis 1) or y (axis 0) is `line`, into direction `step`.
struct Exit {
    int corner;   // across from the edge
    float along;  // of the edge
    float place;  // on the line
};

// Not by the edge across from corner `entered`, nor by one that reaches behind the camera. False where there is none.
DF_BODY bool leave(const AntialiasArgs& args, const float* points, int64_t face, int entered, int axis, float line,
                   float step, Exit& out) {
    const float* at[3];
    for (int k = 0; k < 3; ++k) at[k] = points + 3 * int64_t(args.faces[3 * face + k]);
    bool found = false;
    for (int k = 0; k < 3; ++k) {
        const float *start = at[(k + 1) % 3], *end = at[(k + 2) % 3];
        const float from = start[1 - axis], to = end[1 - axis];
        if (k == entered || (from <= line) == (to <= line) || !(start[2] > 0.0f && end[2] > 0.0f)) continue;
        const float along = (line - from) / (to - from), place = start[axis] + product(along, end[axis] - start[axis]);
        if (found && !((place - out.place) * step > 0.0f)) continue;
        out = Exit{k, along, place};
        found = true;
    }
    return found;
}

// Of pixel (x, y) and its neighbour to the right (axis 0) or below (1), which is there. Whether there is anything. From
// the nearer pixel's centre it goes from face to face towards the other's, to the first outline.
DF_BODY bool blend_of(const AntialiasArgs& args, int64_t view, int32_t x, int32_t y, int axis, Blend& out) {
    const int64_t first = (view * args.height + y) * args.width + x, second = first + (axis ? args.width : 1);
    const int64_t one = args.face[first], two = args.face[second];
    if (one == two) return false;
    const bool ahead = two < 0 || (one >= 0 && args.depth[first] <= args.depth[second]);  // the first is nearer
    const float* points = args.points + 3 * view * args.vertices;
    const float step = ahead ? 1.0f : -1.0f;
    const float line = float(axis ? x : y) + 0.5f, place = float((axis ? y : x) + (ahead ? 0 : 1)) + 0.5f;
    int64_t face = ahead ? one : two;
    const int64_t other = ahead ? two : one;
    int entered = -1;
    for (int n = 0; n < ANTIALIAS_FACES && face != other; ++n) {
        Exit exit = {};
        if (!leave(args, points, face, entered, axis, line, step, exit)) return false;
        float reach = (exit.place - place) * step;  // 0 at the nearer's centre, 1 at the other's
        if (!(reach >= -ANTIALIAS_SLACK && reach <= 1.0f + ANTIALIAS_SLACK)) return false;
        const int k = exit.corner;
        if (!(args.outline[view * args.count + face] >> k & 1)) {
            const int32_t across = args.across[3 * face + k];
            face = across / 3, entered = across % 3;
            continue;
        }
        out.start = args.faces[3 * face + (k + 1) % 3], out.end = args.faces[3 * face + (k + 2) % 3];
        const float *start = points + 3 * out.start, *end = points + 3 * out.end;
        const float rise = end[1 - axis] - start[1 - axis], run = end[axis] - start[axis];
        const float tall = rise < 0.0f ? -rise : rise, wide = run < 0.0f ? -run : run;
        if (axis ? tall <= wide : tall < wide) return false;
        const bool inner = reach < 0.5f, ends = reach < 0.0f || reach > 1.0f;
        reach = held(reach, 0.0f, 1.0f);
        out.share = inner ? 0.5f - reach : reach - 0.5f;
        out.slope = ends ? 0.0f : inner ? -step : step;
        out.tilt = -run / rise;
        out.along = exit.along;
        out.target = inner == ahead ? first : second;
        out.source = inner == ahead ? second : first;
        out.axis = axis;
        return true;
    }
    return false;
}

// Calls each(blend) for pixel (x, y) and its neighbours to the right and below: of those that `mask` says may blend.
// Returns which did.
template <class Each>
DF_BODY uint8_t for_blends(const AntialiasArgs& args, int64_t view, int32_t x, int32_t y, int mask, const Each& each) {
    int found = 0;
    Blend blend = {};
    for (int axis = 0; axis < 2; ++axis) {
        const bool there = axis ? y + 1 < args.height : x + 1 < args.width;
        if (!there || !(mask >> axis & 1) || !blend_of(args, view, x, y, axis, blend)) continue;
        found |= 1 << axis;
        each(blend);
    }
    return uint8_t(found);
}

// add(to, number): into the sums `grad [vertices, 3]`.
template <class Add>
DF_BODY void pull_edge(const AntialiasArgs& args, const Blend& blend, float* grad, const Add& add) {
    float pull = 0.0f;
    for (int c = 0; c < args.channels; ++c)
        pull += args.pull[blend.target * args.channels + c] *
                (args.color[blend.source * args.channels + c] - args.color[blend.target * args.channels + c]);
    pull *= blend.slope;
    const float to_start = pull * (1.0f - blend.along), to_end = pull * blend.along;
    add(grad + 3 * blend.start + blend.axis, to_start);
    add(grad + 3 * blend.start + 1 - blend.axis, to_start * blend.tilt);
    add(grad + 3 * blend.end + blend.axis, to_end);
    add(grad + 3 * blend.end + 1 - blend.axis, to_end * blend.tilt);
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
