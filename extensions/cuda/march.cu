// Rays on a GPU: a thread for each.
#include "../include/launch.h"
//
#include "../include/march.h"

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

DF_KERNEL(march_pack, MarchArgs) {
    const int64_t word = thread_in_row();
    if (word < march_words(args.cells) + march_words(blocks_of(args))) march_pack_word(args, word);
}

DF_KERNEL(march_count, MarchArgs) {
    const int64_t ray = thread_in_row();
    if (ray < args.rays) args.first[ray + 1] = march_count_ray(args, ray);
}

DF_KERNEL(march_fill, MarchArgs) {
    const int64_t ray = thread_in_row();
    if (ray < args.rays) march_fill_ray(args, ray);
}

DF_KERNEL(march_keep_count, RenderArgs) {
    const int64_t ray = thread_in_row();
    if (ray < args.rays) args.kept[ray + 1] = keep_ray(args, ray, nullptr);
}

DF_KERNEL(march_keep, RenderArgs) {
    const int64_t ray = thread_in_row();
    if (ray < args.rays) keep_ray(args, ray, args.index + args.kept[ray]);
}

DF_KERNEL(march_render, RenderArgs) {
    const int64_t ray = thread_in_row();
    if (ray < args.rays) render_ray(args, ray);
}

DF_KERNEL(march_render_backward, RenderArgs) {
    const int64_t ray = thread_in_row();
    if (ray < args.rays) render_ray_backward(args, ray);
}
