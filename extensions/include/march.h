// Marching a ray through an occupancy grid, and compositing what lies on it: the bodies for one ray.
#pragma once
#include "scalar.h"
//
#include "numbers.h"

namespace dreamforge {

// Mirrored in ops/march.py. The grid is a cube of cells over [-bound, bound]^3, x outermost, one bit a cell.
struct MarchArgs {
    const float *origins, *directions, *shift;  // [rays, 3] twice, [rays]
    const uint8_t* occupancy;                   // [cells^3]: pack
    uint32_t *bits, *blocks;                    // [cells^3 / 32, rounded up]; the same of blocks of MARCH_BLOCK^3 cells
    int64_t* first;                             // [rays + 1]: count writes how many at ray + 1; fill reads where
    int64_t* ray;                               // [samples]
    float *t, *position;                        // [samples], [3, samples]
    int64_t rays, samples;
    int32_t cells;
    float bound, step;
};

constexpr int MARCH_CHANNELS = 8;  // at most
constexpr int MARCH_BLOCK = 4;     // cells a side

// Optical depth is density times step. A ray's samples are [first[ray], first[ray + 1]), near ones first.
struct RenderArgs {
    const float *density, *values, *t;       // [samples], [channels, samples], [samples]
    const int64_t* first;                    // [rays + 1]
    float *weights, *sums;                   // [samples], [channels + 2, rays]: of values, of 1, of t
    const float *grad_sums, *grad_weights;   // like sums; like weights, or null
    float *grad_density, *grad_values;       // like density, like values
    int64_t* kept;                           // [rays + 1]: keep_count writes how many at ray + 1; keep reads where
    int64_t* index;                          // [kept samples]
    int64_t rays, samples;
    int32_t channels;
    float step, least;                       // least: the share of light that must reach a sample to be kept
};

namespace DF_LEVEL {

DF_BODY int32_t blocks_of(const MarchArgs& args) { return (args.cells + MARCH_BLOCK - 1) / MARCH_BLOCK; }

DF_BODY bool is_set(const uint32_t* bits, int32_t side, int32_t x, int32_t y, int32_t z) {
    const int32_t number = (x * side + y) * side + z;
    return bits[number >> 5] >> (number & 31) & 1;
}

// Whether some cell of a block of a grid of `side` blocks, each of `size` cells, is occupied.
DF_BODY bool any_of_block(const MarchArgs& args, int64_t number, int32_t side, int32_t size) {
    const int32_t low[3] = {int32_t(number / side / side) * size, int32_t(number / side % side) * size,
                            int32_t(number % side) * size};
    for (int32_t x = low[0]; x < low[0] + size && x < args.cells; ++x)
        for (int32_t y = low[1]; y < low[1] + size && y < args.cells; ++y)
            for (int32_t z = low[2]; z < low[2] + size && z < args.cells; ++z)
                if (args.occupancy[(int64_t(x) * args.cells + y) * args.cells + z]) return true;
    return false;
}

DF_BODY int64_t march_words(int64_t side) { return (side * side * side + 31) / 32; }

// A word of `bits`, or, behind those, of `blocks`.
DF_BODY void march_pack_word(const MarchArgs& args, int64_t word) {
    const bool fine = word < march_words(args.cells);
    const int32_t side = fine ? args.cells : blocks_of(args), size = fine ? 1 : MARCH_BLOCK;
    if (!fine) word -= march_words(args.cells);
    const int64_t count = int64_t(side) * side * side;
    uint32_t bits = 0;
    for (int64_t i = 32 * word; i < 32 * word + 32 && i < count; ++i)
        bits |= uint32_t(any_of_block(args, i, side, size)) << (i & 31);
    (fine ? args.bits : args.blocks)[word] = bits;
}

// Calls found(t) for the samples of a ray, as long as it asks for more: midpoints at near + (shift + n) step, in occupied
// cells. A cell that is empty is left in one leap, and so is a block.
template <class Found>
DF_BODY void march_ray(const MarchArgs& args, int64_t ray, const Found& found) {
    float start[3], slope[3], inverse[3], near = 0.0f, far = 3.0e38f;
    const float scale = float(args.cells) / (2.0f * args.bound), often = 1.0f / args.step;
    for (int axis = 0; axis < 3; ++axis) {
        const float origin = args.origins[3 * ray + axis], given = args.directions[3 * ray + axis];
        const float direction = given < 0.0f ? (given > -2.0e-31f ? -2.0e-31f : given)
                                             : (given < 2.0e-31f ? 2.0e-31f : given);  // 0 times infinity is no number
        const float one = (-args.bound - origin) / direction, two = (args.bound - origin) / direction;
        const float in = one < two ? one : two, out = one < two ? two : one;
        if (!(in <= near)) near = in;
        if (!(out >= far)) far = out;
        start[axis] = (origin + args.bound) * scale;  // in cells
        slope[axis] = direction * scale;
        inverse[axis] = 1.0f / slope[axis];
    }
    const float begin = near + args.shift[ray] * args.step;
    const int64_t most = int64_t(4.0f * args.bound / args.step) + 2;  // steps across the cube
    for (int64_t n = 0; n < most;) {
        const float t = begin + float(n) * args.step;
        if (!(t < far)) return;
        int32_t cell[3];
        for (int axis = 0; axis < 3; ++axis) {
            const int32_t at = int32_t(vertex_of(floor_of(start[axis] + slope[axis] * t)));
            cell[axis] = at < 0 ? 0 : at >= args.cells ? args.cells - 1 : at;
        }
        if (is_set(args.bits, args.cells, cell[0], cell[1], cell[2])) {
            if (!found(t)) return;
            ++n;
            continue;
        }
        const bool wide = !is_set(args.blocks, blocks_of(args), cell[0] / MARCH_BLOCK, cell[1] / MARCH_BLOCK,
                                  cell[2] / MARCH_BLOCK);
        const int32_t size = wide ? MARCH_BLOCK : 1;
        float leave = far;
        for (int axis = 0; axis < 3; ++axis) {
            const int32_t low = cell[axis] & ~(size - 1);
            const float wall = (float(slope[axis] > 0.0f ? low + size : low) - start[axis]) * inverse[axis];
            if (wall < leave) leave = wall;
        }
        const float steps = floor_of((leave - begin) * often);  // one too few rather than one too many
        const int64_t next = steps < float(most) ? int64_t(steps) : most;
        n = next > n ? next : n + 1;
    }
}

DF_BODY int64_t march_count_ray(const MarchArgs& args, int64_t ray) {
    int64_t count = 0;
    march_ray(args, ray, [&](float) { return ++count, true; });
    return count;
}

DF_BODY void march_fill_ray(const MarchArgs& args, int64_t ray) {
    int64_t place = args.first[ray];
    const int64_t end = args.first[ray + 1];
    if (place == end) return;
    march_ray(args, ray, [&](float t) {
        args.ray[place] = ray;
        args.t[place] = t;
        for (int axis = 0; axis < 3; ++axis)
            args.position[axis * args.samples + place] =
                args.origins[3 * ray + axis] + args.directions[3 * ray + axis] * t;
        return ++place < end;
    });
}

// w = T (1 - e^-depth); then T (1 - (1 - e^-depth)) reaches the next sample (Max 1995; NeRF, eq. 3).
DF_BODY void render_ray(const RenderArgs& args, int64_t ray) {
    float light = 1.0f, alpha = 0.0f, along = 0.0f, sum[MARCH_CHANNELS] = {};
    for (int64_t i = args.first[ray]; i < args.first[ray + 1]; ++i) {
        const float stopped = -expm1_of(-args.density[i] * args.step), weight = light * stopped;
        light = light * (1.0f - stopped);
        args.weights[i] = weight;
        alpha += weight;
        along += weight * args.t[i];
        for (int c = 0; c < args.channels; ++c) sum[c] += weight * args.values[c * args.samples + i];
    }
    for (int c = 0; c < args.channels; ++c) args.sums[c * args.rays + ray] = sum[c];
    args.sums[args.channels * args.rays + ray] = alpha;
    args.sums[(args.channels + 1) * args.rays + ray] = along;
}

// With g_i the derivative by w_i: d/d depth_i = g_i T_(i+1) - sum over j > i of g_j w_j.
DF_BODY void render_ray_backward(const RenderArgs& args, int64_t ray) {
    const int64_t begin = args.first[ray], end = args.first[ray + 1];
    float light = 1.0f;
    for (int64_t i = begin; i < end; ++i) {
        light = light * (1.0f - -expm1_of(-args.density[i] * args.step));
        args.grad_density[i] = light;
    }
    const float to_alpha = args.grad_sums[args.channels * args.rays + ray];
    const float to_along = args.grad_sums[(args.channels + 1) * args.rays + ray];
    float behind = 0.0f;
    for (int64_t i = end - 1; i >= begin; --i) {
        const float weight = args.weights[i];
        float pull = to_alpha + to_along * args.t[i] + (args.grad_weights ? args.grad_weights[i] : 0.0f);
        for (int c = 0; c < args.channels; ++c) {
            const float to_sum = args.grad_sums[c * args.rays + ray];
            pull += to_sum * args.values[c * args.samples + i];
            args.grad_values[c * args.samples + i] = to_sum * weight;
        }
        args.grad_density[i] = (pull * args.grad_density[i] - behind) * args.step;
        behind += pull * weight;
    }
}

// How many samples, or which, at least `least` of the light reaches.
DF_BODY int64_t keep_ray(const RenderArgs& args, int64_t ray, int64_t* index) {
    float light = 1.0f;
    int64_t count = 0;
    for (int64_t i = args.first[ray]; i < args.first[ray + 1] && !(light < args.least); ++i) {
        if (index) index[count] = i;
        ++count;
        light = light * (1.0f - -expm1_of(-args.density[i] * args.step));
    }
    return count;
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
