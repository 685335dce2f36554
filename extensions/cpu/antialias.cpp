// Outlines on a CPU: a task owns a band of rows, and takes what the row above it brings; gradients of vertices are
// summed up by parts of the picture, in the order of the pixels.
#include "simd.h"
#include "tasks.h"
//
#include "../include/antialias.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int64_t FACES = 4096, BAND = 32;  // of a task: faces, rows of the picture

void antialias_outline(const AntialiasArgs& args) {
    const int64_t total = args.views * args.count;
    parallel((total + FACES - 1) / FACES, [&](int64_t task) {
        for (int64_t i = task * FACES; i < least((task + 1) * FACES, total); ++i)
            args.outline[i] = outline_of(args, i / args.count, i % args.count);
    });
}

// Calls each(blend, first pixel of the band, one behind its last) for all blends that may touch a band. `search`: looks
// for them and keeps where they are, in place of going where they were.
template <class Each>
static void for_bands(const AntialiasArgs& args, bool search, const Each& each) {
    const int64_t bands = (args.height + BAND - 1) / BAND;
    parallel(args.views * bands, [&](int64_t task) {
        const int64_t view = task / bands, top = task % bands * BAND, bottom = least(top + BAND, args.height);
        const int64_t before = view * args.height * args.width, from = before + top * args.width;
        const int64_t to = before + bottom * args.width;
        for (int64_t y = top > 0 ? top - 1 : 0; y < bottom; ++y)
            for (int32_t x = 0; x < args.width; ++x) {
                uint8_t& kept = args.blends[before + y * args.width + x];
                if (!search && kept == 0) continue;
                const int mask = search ? (y < top ? 2 : 3) : kept;
                const uint8_t found = for_blends(args, view, x, int32_t(y), mask, [&](const Blend& blend) {
                    each(blend, from, to);
                });
                if (search && y >= top) kept = found;
            }
    });
}

void antialias_blend(const AntialiasArgs& args) {
    const int channels = args.channels;
    for_bands(args, true, [&](const Blend& blend, int64_t from, int64_t to) {
        if (blend.target < from || blend.target >= to) return;
        const float *here = args.color + blend.target * channels, *there = args.color + blend.source * channels;
        float* out = args.out + blend.target * channels;
        for (int c = 0; c < channels; ++c) out[c] += blend.share * (there[c] - here[c]);
    });
}

static void backward_colors(const AntialiasArgs& args) {
    const int channels = args.channels;
    for_bands(args, false, [&](const Blend& blend, int64_t from, int64_t to) {
        const float* pull = args.pull + blend.target * channels;
        float *here = args.grad_color + blend.target * channels, *there = args.grad_color + blend.source * channels;
        const bool mine = blend.target >= from && blend.target < to, too = blend.source >= from && blend.source < to;
        for (int c = 0; c < channels && mine; ++c) here[c] -= blend.share * pull[c];
        for (int c = 0; c < channels && too; ++c) there[c] += blend.share * pull[c];
    });
}

void antialias_backward(const AntialiasArgs& args) {
    if (args.grad_color) backward_colors(args);
    if (!args.grad) return;
    const int64_t pixels = int64_t(args.height) * args.width, parts = args.parts;
    parallel(args.views * parts, [&](int64_t task) {
        const int64_t view = task / parts, part = task % parts;
        float* grad = args.grad + 3 * task * args.vertices;
        for (int64_t i = pixels * part / parts; i < pixels * (part + 1) / parts; ++i)
            if (const int mask = args.blends[view * pixels + i])
                for_blends(args, view, int32_t(i % args.width), int32_t(i / args.width), mask, [&](const Blend& blend) {
                    pull_edge(args, blend, grad, [](float* to, float value) { *to += value; });
                });
    });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
