// Projection and colours of Gaussians on a GPU: a thread for each; backward it goes through all cameras.
#include "../include/launch.h"
//
#include "../include/splat_project.h"

namespace dreamforge {
namespace DF_LEVEL {

DF_BODY Gaussian<float> read(const SplatProjectArgs& args, int64_t n) {
    Gaussian<float> g;
    for (int i = 0; i < 3; ++i) g.mean[i] = args.means[3 * n + i], g.scale[i] = args.scales[3 * n + i];
    for (int i = 0; i < 4; ++i) g.quat[i] = args.quats[4 * n + i];
    g.opacity = args.opacities[n];
    return g;
}

DF_BODY float direction_of(const SplatHarmonicsArgs& args, int64_t number, int64_t n, float (&d)[3]) {
    for (int i = 0; i < 3; ++i) d[i] = args.means[3 * n + i] - args.eyes[3 * number + i];
    const float length = root_of(dot(d, d));
    for (int i = 0; i < 3; ++i) d[i] = d[i] / length;
    return length;
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

// Blocks: x over Gaussians, y over cameras.
DF_KERNEL(splat_project, SplatProjectArgs) {
    const int64_t n = thread_in_row(), m = block_y() * args.count + n;
    if (n >= args.count) return;
    Picture<float> picture;
    project(args, camera_of(args, block_y()), read(args, n), picture);
    for (int i = 0; i < 2; ++i) args.radii[2 * m + i] = int32_t(picture.radius[i]);
    for (int i = 0; i < 2; ++i) args.means2d[2 * m + i] = picture.mean[i];
    for (int i = 0; i < 3; ++i) args.conics[3 * m + i] = picture.conic[i];
    args.depths[m] = picture.depth;
    if (args.compensations) args.compensations[m] = picture.compensation;
}

// Blocks: x over Gaussians.
DF_KERNEL(splat_project_backward, SplatProjectArgs) {
    const int64_t n = thread_in_row();
    const bool there = n < args.count;
    Gaussian<float> g = {}, sum = {};
    if (there) g = read(args, n);
    for (int64_t number = 0; number < args.cameras; ++number) {
        const int64_t m = number * args.count + n;
        Gaussian<float> to = {};
        float view[12] = {};
        if (there && args.radii[2 * m] > 0) {
            Picture<float> pull = {};
            for (int i = 0; args.grad_means2d && i < 2; ++i) pull.mean[i] = args.grad_means2d[args.mean_step * m + i];
            for (int i = 0; args.grad_conics && i < 3; ++i) pull.conic[i] = args.grad_conics[args.conic_step * m + i];
            if (args.grad_depths) pull.depth = args.grad_depths[m];
            if (args.grad_compensations) pull.compensation = args.grad_compensations[m];
            project_backward(args, camera_of(args, number), g, pull, to, view);
        }
        for (int i = 0; i < 3; ++i) sum.mean[i] += to.mean[i], sum.scale[i] += to.scale[i];
        for (int i = 0; i < 4; ++i) sum.quat[i] += to.quat[i];
        if (args.grad_viewmats)
            for (int i = 0; i < 12; ++i) add_from_warp(args.grad_viewmats + 12 * number + i, view[i]);
    }
    if (!there) return;
    for (int i = 0; i < 3; ++i) args.grad_means[3 * n + i] = sum.mean[i], args.grad_scales[3 * n + i] = sum.scale[i];
    for (int i = 0; i < 4; ++i) args.grad_quats[4 * n + i] = sum.quat[i];
}

// Blocks: x over Gaussians, y over cameras.
DF_KERNEL(splat_harmonics, SplatHarmonicsArgs) {
    const int64_t n = thread_in_row(), m = block_y() * args.count + n;
    if (n >= args.count) return;
    const int used = (args.degree + 1) * (args.degree + 1);
    float d[3], base[SPLAT_BASES];
    direction_of(args, block_y(), n, d);
    harmonics<float>(args.degree, d, base, nullptr, nullptr);
    const float* from = args.coefficients + (args.own ? m : n) * 3 * args.bases;
    for (int c = 0; c < 3; ++c) {
        float color = 0.5f;
        for (int k = 0; k < used; ++k) color += base[k] * from[3 * k + c];
        args.colors[3 * m + c] = args.radii[2 * m] > 0 && !(color < 0.0f) ? color : 0.0f;
    }
}

// Blocks: x over Gaussians.
DF_KERNEL(splat_harmonics_backward, SplatHarmonicsArgs) {
    const int64_t n = thread_in_row();
    const bool there = n < args.count;
    const int used = (args.degree + 1) * (args.degree + 1);
    float mean[3] = {};
    for (int64_t number = 0; number < args.cameras; ++number) {
        const int64_t m = number * args.count + n, place = (args.own ? m : n) * 3 * args.bases;
        const bool seen = there && args.radii[2 * m] > 0;
        float d[3], base[SPLAT_BASES], along[SPLAT_BASES], slope[3] = {}, pull[3] = {};
        if (seen) {
            const float length = direction_of(args, number, n, d);
            for (int c = 0; c < 3; ++c) pull[c] = args.colors[3 * m + c] > 0.0f ? args.grad_colors[3 * m + c] : 0.0f;
            for (int k = 0; k < used; ++k) {
                along[k] = 0.0f;
                for (int c = 0; c < 3; ++c) along[k] += pull[c] * args.coefficients[place + 3 * k + c];
            }
            harmonics<float>(args.degree, d, base, along, slope);
            unit_gradient(d, length, slope);
        }
        if (there)
            for (int k = 0; k < args.bases; ++k)
                for (int c = 0; c < 3; ++c) {
                    float& to = args.grad_coefficients[place + 3 * k + c];
                    const float added = seen && k < used ? base[k] * pull[c] : 0.0f;
                    to = number == 0 || args.own ? added : to + added;
                }
        for (int i = 0; i < 3; ++i) {
            mean[i] += slope[i];
            add_from_warp(args.grad_eyes + 3 * number + i, -slope[i]);
        }
    }
    for (int i = 0; there && i < 3; ++i) args.grad_means[3 * n + i] = mean[i];
}
