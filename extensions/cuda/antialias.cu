// Outlines on a GPU: a thread for each face, then for each pixel.
#include "../include/launch.h"
//
#include "../include/antialias.h"

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

DF_KERNEL(antialias_outline, AntialiasArgs) {
    const int64_t item = thread_in_row();
    if (item < args.views * args.count) args.outline[item] = outline_of(args, item / args.count, item % args.count);
}

DF_KERNEL(antialias_blend, AntialiasArgs) {
    const int64_t pixel = thread_in_row(), pixels = int64_t(args.height) * args.width;
    if (pixel >= args.views * pixels) return;
    const int32_t x = int32_t(pixel % args.width), y = int32_t(pixel % pixels / args.width);
    args.blends[pixel] = for_blends(args, pixel / pixels, x, y, 3, [&](const Blend& blend) {
        for (int c = 0; c < args.channels; ++c) {
            const float here = args.color[blend.target * args.channels + c];
            const float there = args.color[blend.source * args.channels + c];
            add_atomically(args.out + blend.target * args.channels + c, blend.share * (there - here));
        }
    });
}

DF_KERNEL(antialias_backward, AntialiasArgs) {
    const int64_t pixel = thread_in_row(), pixels = int64_t(args.height) * args.width, view = pixel / pixels;
    if (pixel >= args.views * pixels || args.blends[pixel] == 0) return;
    const int32_t x = int32_t(pixel % args.width), y = int32_t(pixel % pixels / args.width);
    for_blends(args, view, x, y, args.blends[pixel], [&](const Blend& blend) {
        for (int c = 0; c < args.channels && args.grad_color; ++c) {
            const float change = blend.share * args.pull[blend.target * args.channels + c];
            add_atomically(args.grad_color + blend.target * args.channels + c, -change);
            add_atomically(args.grad_color + blend.source * args.channels + c, change);
        }
        if (args.grad)
            pull_edge(args, blend, args.grad + 3 * view * args.vertices,
                      [](float* to, float value) { add_atomically(to, value); });
    });
}
