// Texels on a CPU: a task takes some points; for the gradient it owns some texels, and takes what all points bring in
// their order: so the sum does not depend on the number of threads.
#include "simd.h"
#include "tasks.h"
//
#include "../include/texture.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int64_t POINTS = 4096;  // of a task

template <class Body>
static void for_points(const TextureArgs& args, const Body& body) {
    const int64_t chunks = (args.points + POINTS - 1) / POINTS;
    parallel(args.sets * chunks, [&](int64_t task) {
        const int64_t set = task / chunks, first = task % chunks * POINTS;
        for (int64_t i = first; i < least(first + POINTS, args.points); ++i) body(set, set * args.points + i);
    });
}

void texture_forward(const TextureArgs& args) {
    for_points(args, [&](int64_t set, int64_t point) { texture_point(args, set, point); });
}

void texture_backward(const TextureArgs& args) {
    if (args.grad_uv) for_points(args, [&](int64_t set, int64_t point) { pull_uv(args, set, point); });
    if (!args.grad) return;
    const int64_t owners = thread_total();
    parallel(args.sets * owners, [&](int64_t task) {
        const int64_t set = task / owners, owner = task % owners;
        const int64_t from = args.total * owner / owners, to = args.total * (owner + 1) / owners;
        float* grad = args.grad + set * args.total * args.channels;
        for (int64_t point = set * args.points; point < (set + 1) * args.points; ++point)
            pull_texels(args, point, [&](int64_t texel, float weight, const float* pull) {
                if (texel < from || texel >= to) return;
                for (int c = 0; c < args.channels; ++c) grad[texel * args.channels + c] += weight * pull[c];
            });
    });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
