// Rays on a CPU: tasks of many neighbouring rays.
#include "simd.h"
#include "tasks.h"
//
#include "../include/march.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int64_t RAYS = 512;  // of a task

template <class Body>
static void for_rays(int64_t rays, const Body& body) {
    parallel((rays + RAYS - 1) / RAYS, [&](int64_t task) {
        for (int64_t ray = task * RAYS; ray < least((task + 1) * RAYS, rays); ++ray) body(ray);
    });
}

void march_pack(const MarchArgs& args) {
    const int64_t words = march_words(args.cells) + march_words(blocks_of(args));
    for (int64_t word = 0; word < words; ++word) march_pack_word(args, word);
}

void march_count(const MarchArgs& args) {
    for_rays(args.rays, [&](int64_t ray) { args.first[ray + 1] = march_count_ray(args, ray); });
}

void march_fill(const MarchArgs& args) {
    for_rays(args.rays, [&](int64_t ray) { march_fill_ray(args, ray); });
}

void march_keep_count(const RenderArgs& args) {
    for_rays(args.rays, [&](int64_t ray) { args.kept[ray + 1] = keep_ray(args, ray, nullptr); });
}

void march_keep(const RenderArgs& args) {
    for_rays(args.rays, [&](int64_t ray) { keep_ray(args, ray, args.index + args.kept[ray]); });
}

void march_render(const RenderArgs& args) {
    for_rays(args.rays, [&](int64_t ray) { render_ray(args, ray); });
}

void march_render_backward(const RenderArgs& args) {
    for_rays(args.rays, [&](int64_t ray) { render_ray_backward(args, ray); });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
