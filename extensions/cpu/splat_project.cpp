// Projection and colours of Gaussians on a CPU: W Gaussians at a time, camera after camera, so that a Gaussian's gradient
// has one owner.
#include "simd.h"
#include "tasks.h"
//
#include "../include/splat_project.h"

namespace dreamforge {
namespace DF_LEVEL {

// W numbers that lie `stride` apart, of which `lanes` are there.
static DF_BODY Floats strided(const float* from, int64_t stride, int lanes) {
    if (lanes == W) return gather(from, lane_numbers() * uint32_t(stride));
    Floats value{};
    for (int i = 0; i < lanes; ++i) value[i] = from[i * stride];
    return value;
}

template <class T>
static DF_BODY void put(T* to, int64_t stride, int lanes, Floats value) {
    float kept[W];
    store(kept, value);
    for (int i = 0; i < lanes; ++i) to[i * stride] = T(kept[i]);
}

static DF_BODY float sum_of(Floats value) {
    float kept[W], sum = 0.0f;
    store(kept, value);
    for (int i = 0; i < W; ++i) sum += kept[i];
    return sum;
}

static DF_BODY Gaussian<Floats> read(const SplatProjectArgs& args, int64_t n, int lanes) {
    Gaussian<Floats> g;
    for (int i = 0; i < 3; ++i) g.mean[i] = strided(args.means + 3 * n + i, 3, lanes);
    for (int i = 0; i < 4; ++i) g.quat[i] = strided(args.quats + 4 * n + i, 4, lanes);
    for (int i = 0; i < 3; ++i) g.scale[i] = strided(args.scales + 3 * n + i, 3, lanes);
    g.opacity = strided(args.opacities + n, 1, lanes);
    return g;
}

static DF_BODY Ints seen_at(const int32_t* radii, int lanes) {
    Ints seen{};
    for (int i = 0; i < lanes; ++i) seen[i] = radii[2 * i] > 0 ? -1 : 0;
    return seen;
}

void splat_project(const SplatProjectArgs& args) {
    const int64_t chunks = (args.count + SPLAT_CHUNK - 1) / SPLAT_CHUNK;
    parallel(chunks, [&](int64_t task) {
        const int64_t end = least((task + 1) * SPLAT_CHUNK, args.count);
        for (int64_t number = 0; number < args.cameras; ++number) {
            const Camera camera = camera_of(args, number);
            for (int64_t n = task * SPLAT_CHUNK; n < end; n += W) {
                const int lanes = int(least(W, end - n));
                const int64_t m = number * args.count + n;
                Picture<Floats> picture;
                project(args, camera, read(args, n, lanes), picture);
                for (int i = 0; i < 2; ++i) put(args.radii + 2 * m + i, 2, lanes, picture.radius[i]);
                for (int i = 0; i < 2; ++i) put(args.means2d + 2 * m + i, 2, lanes, picture.mean[i]);
                put(args.depths + m, 1, lanes, picture.depth);
                for (int i = 0; i < 3; ++i) put(args.conics + 3 * m + i, 3, lanes, picture.conic[i]);
                if (args.compensations) put(args.compensations + m, 1, lanes, picture.compensation);
            }
        }
    });
}

static DF_BODY Picture<Floats> pull_of(const SplatProjectArgs& args, int64_t m, int lanes) {
    Picture<Floats> pull = {};
    const int64_t mean = args.mean_step, conic = args.conic_step;
    for (int i = 0; args.grad_means2d && i < 2; ++i) pull.mean[i] = strided(args.grad_means2d + mean * m + i, mean, lanes);
    if (args.grad_depths) pull.depth = strided(args.grad_depths + m, 1, lanes);
    for (int i = 0; args.grad_conics && i < 3; ++i) pull.conic[i] = strided(args.grad_conics + conic * m + i, conic, lanes);
    if (args.grad_compensations) pull.compensation = strided(args.grad_compensations + m, 1, lanes);
    return pull;
}

// The sums over chunks of some numbers, in the chunks' order.
static void sum_chunks(const float* scratch, int64_t chunks, int64_t numbers, float* sums) {
    for (int64_t i = 0; i < numbers; ++i) {
        float sum = 0.0f;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += scratch[chunk * numbers + i];
        sums[i] = sum;
    }
}

void splat_project_backward(const SplatProjectArgs& args) {
    const int64_t chunks = (args.count + SPLAT_CHUNK - 1) / SPLAT_CHUNK;
    parallel(chunks, [&](int64_t task) {
        const int64_t end = least((task + 1) * SPLAT_CHUNK, args.count);
        const Floats zeros{};
        if (args.scratch) __builtin_memset(args.scratch + task * args.cameras * 12, 0, sizeof(float) * args.cameras * 12);
        for (int64_t n = task * SPLAT_CHUNK; n < end; n += W) {
            const int lanes = int(least(W, end - n));
            const Gaussian<Floats> g = read(args, n, lanes);
            Floats mean[3] = {}, quat[4] = {}, scale[3] = {};
            for (int64_t number = 0; number < args.cameras; ++number) {
                const int64_t m = number * args.count + n;
                const Ints seen = seen_at(args.radii + 2 * m, lanes);
                if (!any(seen)) continue;
                Gaussian<Floats> to;
                Floats view[12];
                project_backward(args, camera_of(args, number), g, pull_of(args, m, lanes), to, view);
                for (int i = 0; i < 3; ++i) mean[i] += seen ? to.mean[i] : zeros;
                for (int i = 0; i < 4; ++i) quat[i] += seen ? to.quat[i] : zeros;
                for (int i = 0; i < 3; ++i) scale[i] += seen ? to.scale[i] : zeros;
                if (args.scratch)
                    for (int i = 0; i < 12; ++i)
                        args.scratch[(task * args.cameras + number) * 12 + i] += sum_of(seen ? view[i] : zeros);
            }
            for (int i = 0; i < 3; ++i) put(args.grad_means + 3 * n + i, 3, lanes, mean[i]);
            for (int i = 0; i < 4; ++i) put(args.grad_quats + 4 * n + i, 4, lanes, quat[i]);
            for (int i = 0; i < 3; ++i) put(args.grad_scales + 3 * n + i, 3, lanes, scale[i]);
        }
    });
    if (args.scratch) sum_chunks(args.scratch, chunks, args.cameras * 12, args.grad_viewmats);
}

// The unit direction from a camera's eye, and how far it was.
static DF_BODY Floats direction_of(const SplatHarmonicsArgs& args, int64_t number, int64_t n, int lanes, Floats (&d)[3]) {
    for (int i = 0; i < 3; ++i) d[i] = strided(args.means + 3 * n + i, 3, lanes) - args.eyes[3 * number + i];
    const Floats length = root_of(dot(d, d));
    for (int i = 0; i < 3; ++i) d[i] = d[i] / length;
    return length;
}

void splat_harmonics(const SplatHarmonicsArgs& args) {
    const int used = (args.degree + 1) * (args.degree + 1);
    const int64_t row = 3 * args.bases;
    parallel((args.count + SPLAT_CHUNK - 1) / SPLAT_CHUNK, [&](int64_t task) {
        const Floats zeros{};
        for (int64_t n = task * SPLAT_CHUNK; n < least((task + 1) * SPLAT_CHUNK, args.count); n += W)
            for (int64_t number = 0; number < args.cameras; ++number) {
                const int lanes = int(least(W, args.count - n));
                const int64_t m = number * args.count + n;
                const Ints seen = seen_at(args.radii + 2 * m, lanes);
                Floats d[3], base[SPLAT_BASES], color[3] = {};
                direction_of(args, number, n, lanes, d);
                harmonics<Floats>(args.degree, d, base, nullptr, nullptr);
                const float* from = args.coefficients + (args.own ? m : n) * row;
                for (int k = 0; k < used; ++k)
                    for (int c = 0; c < 3; ++c) color[c] += base[k] * strided(from + 3 * k + c, row, lanes);
                for (int c = 0; c < 3; ++c) {
                    color[c] = color[c] + 0.5f;
                    color[c] = color[c] < 0.0f ? zeros : color[c];
                    put(args.colors + 3 * m + c, 3, lanes, seen ? color[c] : zeros);
                }
            }
    });
}

// Gradient of W Gaussians' colours for one camera; nothing where the colour was below zero.
static DF_BODY void colors_backward(const SplatHarmonicsArgs& args, int64_t number, int64_t n, int lanes, bool first,
                                    Floats (&mean)[3], float* eye) {
    const int used = (args.degree + 1) * (args.degree + 1);
    const int64_t row = 3 * args.bases, m = number * args.count + n, place = args.own ? m : n;
    const Floats zeros{};
    const Ints seen = seen_at(args.radii + 2 * m, lanes);
    Floats d[3], base[SPLAT_BASES], along[SPLAT_BASES], slope[3], pull[3];
    const Floats length = direction_of(args, number, n, lanes, d);
    for (int c = 0; c < 3; ++c) {
        const Floats color = strided(args.colors + 3 * m + c, 3, lanes);
        pull[c] = seen & (color > 0.0f) ? strided(args.grad_colors + 3 * m + c, 3, lanes) : zeros;
    }
    for (int k = 0; k < used; ++k) {
        along[k] = zeros;
        for (int c = 0; c < 3; ++c) along[k] += pull[c] * strided(args.coefficients + place * row + 3 * k + c, row, lanes);
    }
    harmonics(args.degree, d, base, along, slope);
    unit_gradient(d, length, slope);
    for (int k = 0; k < args.bases; ++k)
        for (int c = 0; c < 3; ++c) {
            float* to = args.grad_coefficients + place * row + 3 * k + c;
            const Floats added = k < used ? (seen ? base[k] * pull[c] : zeros) : zeros;
            put(to, row, lanes, first || args.own ? added : strided(to, row, lanes) + added);
        }
    for (int i = 0; i < 3; ++i) {
        const Floats moved = seen ? slope[i] : zeros;
        mean[i] += moved;
        eye[i] -= sum_of(moved);
    }
}

void splat_harmonics_backward(const SplatHarmonicsArgs& args) {
    const int64_t chunks = (args.count + SPLAT_CHUNK - 1) / SPLAT_CHUNK;
    parallel(chunks, [&](int64_t task) {
        float* eyes = args.scratch + task * args.cameras * 3;
        __builtin_memset(eyes, 0, sizeof(float) * args.cameras * 3);
        for (int64_t n = task * SPLAT_CHUNK; n < least((task + 1) * SPLAT_CHUNK, args.count); n += W) {
            const int lanes = int(least(W, args.count - n));
            Floats mean[3] = {};
            for (int64_t number = 0; number < args.cameras; ++number)
                colors_backward(args, number, n, lanes, number == 0, mean, eyes + 3 * number);
            for (int i = 0; i < 3; ++i) put(args.grad_means + 3 * n + i, 3, lanes, mean[i]);
        }
    });
    sum_chunks(args.scratch, chunks, args.cameras * 3, args.grad_eyes);
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
