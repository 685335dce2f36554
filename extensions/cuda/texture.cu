// Texels on a GPU: a thread for each point.
#include "../include/launch.h"
//
#include "../include/texture.h"

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

DF_KERNEL(texture_forward, TextureArgs) {
    const int64_t point = thread_in_row();
    if (point < args.sets * args.points) texture_point(args, point / args.points, point);
}

DF_KERNEL(texture_backward, TextureArgs) {
    const int64_t point = thread_in_row();
    if (point >= args.sets * args.points) return;
    const int64_t set = point / args.points;
    if (args.grad_uv) pull_uv(args, set, point);
    if (!args.grad) return;
    float* grad = args.grad + set * args.total * args.channels;
    pull_texels(args, point, [&](int64_t texel, float weight, const float* pull) {
        for (int c = 0; c < args.channels; ++c) add_atomically(grad + texel * args.channels + c, weight * pull[c]);
    });
}
