// The hash encoding on a GPU: a thread for each point and level, so that a level's table stays in the L2 cache.
#include "../include/launch.h"
//
#include "../include/hashgrid.h"

namespace dreamforge {
namespace DF_LEVEL {

struct Cell {
    uint32_t row[8];
    float fraction[3];
};

struct alignas(8) Pair {  // the features of a row, read at once
    float first, second;
};

DF_BODY Cell find(const HashGridArgs& args, int64_t point, const GridLevel& level) {
    Cell cell;
    uint32_t vertex[3];
    for (int axis = 0; axis < 3; ++axis)
        locate(args.axes[axis * args.points + point], level.scale, vertex[axis], cell.fraction[axis]);
    for (int c = 0; c < 8; ++c) {
        uint32_t row = corner_row(c, vertex, level);
        cell.row[c] = level.first + (row < level.entries ? row : row % level.entries);
    }
    return cell;
}

DF_BODY float entry(const HashGridArgs& args, uint32_t row, int feature) {
    int64_t place = int64_t(row) * args.features + feature;
    return args.half ? number_of(((const Half*)args.table)[place]) : ((const float*)args.table)[place];
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

// Blocks: x over points, y over levels.
DF_KERNEL(hashgrid_encode, HashGridArgs) {
    const int64_t point = thread_in_row();
    if (point >= args.points) return;
    const int number = block_y();
    const Cell cell = find(args, point, args.levels[number]);
    if (args.features == 2 && !args.half) {
        Pair sum = {0.0f, 0.0f};
        for (int c = 0; c < 8; ++c) {
            const float weight = corner_weight(c, cell.fraction);
            const Pair entries = ((const Pair*)args.table)[cell.row[c]];
            sum.first += weight * entries.first, sum.second += weight * entries.second;
        }
        args.out[2 * number * args.points + point] = sum.first;
        args.out[(2 * number + 1) * args.points + point] = sum.second;
        return;
    }
    for (int f = 0; f < args.features; ++f) {
        float sum = 0.0f;
        for (int c = 0; c < 8; ++c) sum += corner_weight(c, cell.fraction) * entry(args, cell.row[c], f);
        args.out[(number * args.features + f) * args.points + point] = sum;
    }
}

// Blocks as above; `out` must be zero. The order of the sums is the hardware's.
DF_KERNEL(hashgrid_grad_table, HashGridArgs) {
    const int64_t point = thread_in_row();
    if (point >= args.points) return;
    const int number = block_y();
    const Cell cell = find(args, point, args.levels[number]);
    if (args.features == 2) {
        const float first = args.grad[2 * number * args.points + point];
        const float second = args.grad[(2 * number + 1) * args.points + point];
        if (first != 0.0f || second != 0.0f)
            for (int c = 0; c < 8; ++c) {
                const float weight = corner_weight(c, cell.fraction);
                add_two_atomically(args.out + 2 * int64_t(cell.row[c]), weight * first, weight * second);
            }
        return;
    }
    for (int f = 0; f < args.features; ++f) {
        const float pull = args.grad[(number * args.features + f) * args.points + point];
        if (pull != 0.0f)
            for (int c = 0; c < 8; ++c)
                add_atomically(args.out + int64_t(cell.row[c]) * args.features + f,
                               corner_weight(c, cell.fraction) * pull);
    }
}

// Blocks: x over points. A thread goes through all levels.
DF_KERNEL(hashgrid_grad_points, HashGridArgs) {
    const int64_t point = thread_in_row();
    if (point >= args.points) return;
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int number = 0; number < args.count; ++number) {
        const GridLevel level = args.levels[number];
        const Cell cell = find(args, point, level);
        for (int c = 0; c < 8; ++c) {
            float along = 0.0f;
            for (int f = 0; f < args.features; ++f)
                along += args.grad[(number * args.features + f) * args.points + point] * entry(args, cell.row[c], f);
            for (int axis = 0; axis < 3; ++axis)
                sum[axis] += along * corner_slope(c, axis, cell.fraction) * level.scale;
        }
    }
    for (int axis = 0; axis < 3; ++axis) args.out[axis * args.points + point] = sum[axis];
}
