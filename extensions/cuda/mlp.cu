// The perceptron on a GPU: a block takes 32 points, one a lane, through all layers; its warps share the rows of a layer.
#include "../include/launch.h"
//
#include "../include/mlp.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int LANES = 32, WARPS = 8;
constexpr int STRIDE = LANES + 1;  // of a row in shared memory: a column then lies in different banks
constexpr int SOME = 4, TIMES = MLP_WIDTH / WARPS / SOME;  // rows at once, and how often, for a warp

// In place: numbers[r] = matrix's row r times numbers, clipped at zero if `relu`. All threads of the block.
DF_BODY void multiply_layer(const float* matrix, int row, int step, int rows, int depth, float* numbers, bool relu) {
    const int warp = thread_in_block() / LANES, lane = thread_in_block() % LANES;
    float sum[TIMES][SOME][1];
    for (int j = 0; j < TIMES; ++j)
        for (int i = 0; i < SOME; ++i) sum[j][i][0] = 0.0f;
    for (int j = 0; j < TIMES; ++j) {
        const int first = (warp + WARPS * j) * SOME;
        if (first + SOME <= rows)
            multiply<SOME, 1>(matrix + first * row, row, step, depth, numbers + lane, STRIDE, sum[j]);
        else
            for (int i = 0; i < SOME && first + i < rows; ++i) {
                float one[1][1] = {{0.0f}};
                multiply<1, 1>(matrix + (first + i) * row, row, step, depth, numbers + lane, STRIDE, one);
                sum[j][i][0] = one[0][0];
            }
    }
    sync_block();  // everyone has read
    for (int j = 0; j < TIMES; ++j)
        for (int i = 0; i < SOME; ++i) {
            const int r = (warp + WARPS * j) * SOME + i;
            if (r < rows) numbers[r * STRIDE + lane] = relu && sum[j][i][0] <= 0.0f ? 0.0f : sum[j][i][0];
        }
    sync_block();
}

// Rows of the tile's 32 points between memory, where rows are `stride` apart, and shared memory; zeros behind the last.
DF_BODY void read_rows(const float* from, int64_t stride, int64_t first, int64_t points, int rows, float* numbers) {
    for (int i = thread_in_block(); i < rows * LANES; i += block_size()) {
        const int64_t point = first + i % LANES;
        numbers[i / LANES * STRIDE + i % LANES] = point < points ? from[i / LANES * stride + point] : 0.0f;
    }
    sync_block();
}

DF_BODY void write_rows(float* to, int64_t stride, int64_t first, int64_t points, int rows, const float* numbers) {
    for (int i = thread_in_block(); i < rows * LANES; i += block_size())
        if (first + i % LANES < points)
            to[i / LANES * stride + first + i % LANES] = numbers[i / LANES * STRIDE + i % LANES];
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

// A block of 256 threads for each 32 points.
DF_KERNEL(mlp_forward, MlpArgs) {
    DF_SHARED(float, numbers, MLP_WIDTH * STRIDE);
    const int64_t first = int64_t(block_x()) * LANES;
    read_rows(args.x, args.points, first, args.points, args.widths[0], numbers);
    const float* matrix = args.weights;
    for (int l = 0; l < args.layers; ++l) {
        const int in = args.widths[l], out = args.widths[l + 1];
        multiply_layer(matrix, in, 1, out, in, numbers, l + 1 < args.layers);
        matrix += in * out;
    }
    write_rows(args.out, args.points, first, args.points, args.widths[args.layers], numbers);
}

// Blocks of 256 threads go on from tile to tile. `scratch` has for each block the inputs of all layers for 32 points,
// then sums like the weights, which are zero at the start and added to `grad_weights` at the end.
DF_KERNEL(mlp_backward, MlpArgs) {
    DF_SHARED(float, input, MLP_WIDTH * STRIDE);
    DF_SHARED(float, pull, MLP_WIDTH * STRIDE);
    int height = 0, total = 0;
    for (int l = 0; l < args.layers; ++l) {
        height += args.widths[l];
        total += args.widths[l] * args.widths[l + 1];
    }
    float* const seen = args.scratch + int64_t(block_x()) * (height * LANES + total);
    float* const sums = seen + height * LANES;
    for (int64_t first = int64_t(block_x()) * LANES; first < args.points; first += int64_t(args.blocks) * LANES) {
        read_rows(args.x, args.points, first, args.points, args.widths[0], input);
        int offset = 0, place = 0;
        for (int l = 0; l < args.layers; ++l) {
            const int in = args.widths[l], out = args.widths[l + 1];
            write_rows(seen + place * LANES, LANES, 0, LANES, in, input);
            if (l + 1 < args.layers) multiply_layer(args.weights + offset, in, 1, out, in, input, true);
            if (l + 1 < args.layers) offset += in * out;
            place += in;
        }
        sync_block();
        read_rows(args.grad, args.points, first, args.points, args.widths[args.layers], pull);
        for (int l = args.layers - 1; l >= 0; --l) {
            const int in = args.widths[l], out = args.widths[l + 1];
            place -= in;
            read_rows(seen + place * LANES, LANES, 0, LANES, in, input);
            if (args.grad_weights)
                for (int i = thread_in_block(); i < in * out; i += block_size()) {
                    float sum = 0.0f;
                    for (int p = 0; p < LANES; ++p) sum += pull[i / in * STRIDE + p] * input[i % in * STRIDE + p];
                    sums[offset + i] += sum;
                }
            if (l > 0 || args.grad_x) {
                multiply_layer(args.weights + offset, 1, in, in, out, pull, false);
                if (l > 0)
                    for (int i = thread_in_block(); i < in * LANES; i += block_size()) {
                        const int at = i / LANES * STRIDE + i % LANES;
                        if (input[at] <= 0.0f) pull[at] = 0.0f;
                    }
            }
            sync_block();
            if (l > 0) offset -= args.widths[l - 1] * in;
        }
        if (args.grad_x) write_rows(args.grad_x, args.points, first, args.points, args.widths[0], pull);
        sync_block();
    }
    if (args.grad_weights)
        for (int i = thread_in_block(); i < total; i += block_size()) add_atomically(args.grad_weights + i, sums[i]);
}
