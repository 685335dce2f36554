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
    const int64_t cells = int64_t(args.cells) * args.cells * args.cells;
    for (int64_t word = 0; word < (cells + 31) / 32; ++word) {
        uint32_t bits = 0;
        for (int64_t i = 32 * word; i < least(32 * word + 32, cells); ++i)
            bits |= uint32_t(args.occupancy[i] != 0) << (i & 31);
        args.bits[word] = bits;
    }
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
