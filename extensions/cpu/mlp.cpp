// The perceptron on a CPU: a block of points goes through all layers while its activations are in the cache; the
// backward pass computes them again instead of keeping them.
#include "simd.h"
#include "tasks.h"
//
#include "../include/mlp.h"

namespace dreamforge {
namespace DF_LEVEL {

#if defined(__AVX512F__)
constexpr int V = 3, ROWS = 8;  // 24 sums in 32 registers
#else
constexpr int V = 3, ROWS = 4;  // 12 sums in 16 registers
#endif
constexpr int BLOCK = V * W;  // points
static_assert(MLP_CHUNK % BLOCK == 0 && MLP_WIDTH % W == 0, "whole blocks, whole vectors");

// One number of each point of a block in every row.
typedef Floats Row[V];

// out[r] = matrix's row r times x, for r < rows; clipped at zero if `relu`.
template <int R>
DF_BODY void some_rows(const float* matrix, int row, int step, int depth, const Row* x, Row* out, bool relu) {
    Floats sum[R][V] = {};
    multiply<R, V>(matrix, row, step, depth, &x[0][0], V, sum);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) out[r][v] = relu ? (sum[r][v] <= 0.0f ? Floats{} : sum[r][v]) : sum[r][v];
}

static void all_rows(const float* matrix, int row, int step, int rows, int depth, const Row* x, Row* out, bool relu) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS) some_rows<ROWS>(matrix + r * row, row, step, depth, x, out + r, relu);
    for (; r + 2 <= rows; r += 2) some_rows<2>(matrix + r * row, row, step, depth, x, out + r, relu);
    for (; r < rows; ++r) some_rows<1>(matrix + r * row, row, step, depth, x, out + r, relu);
}

static void read(const float* from, int64_t stride, int64_t first, int64_t points, int rows, Row* to) {
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < V; ++v) to[r][v] = points_at(from + r * stride, first + v * W, points);
}

static void write(float* to, int64_t stride, int64_t first, int64_t points, int rows, const Row* from) {
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < V; ++v) store_points(to + r * stride, first + v * W, points, from[r][v]);
}

void mlp_forward(const MlpArgs& args) {
    parallel((args.points + MLP_CHUNK - 1) / MLP_CHUNK, [&](int64_t task) {
        Row one[MLP_WIDTH], two[MLP_WIDTH];
        const int64_t end = least((task + 1) * MLP_CHUNK, args.points);
        for (int64_t first = task * MLP_CHUNK; first < end; first += BLOCK) {
            Row *now = one, *next = two;
            read(args.x, args.points, first, end, args.widths[0], now);
            const float* matrix = args.weights;
            for (int l = 0; l < args.layers; ++l) {
                const int in = args.widths[l], out = args.widths[l + 1];
                all_rows(matrix, in, 1, out, in, now, next, l + 1 < args.layers);
                matrix += in * out;
                Row* other = now;
                now = next, next = other;
            }
            write(args.out, args.points, first, end, args.widths[args.layers], now);
        }
    });
}

// columns[p][i] = rows[i][p], with zeros to a whole number of vectors.
static void transpose(const Row* rows, int count, float (*columns)[MLP_WIDTH], int padded) {
    const Floats zeros{};
    for (int i = 0; i < padded; i += 4)
        for (int v = 0; v < V; ++v)
            for_quads(i < count ? rows[i][v] : zeros, i + 1 < count ? rows[i + 1][v] : zeros,
                      i + 2 < count ? rows[i + 2][v] : zeros, i + 3 < count ? rows[i + 3][v] : zeros,
                      [&](int p, Four quad) { store(&columns[v * W + p][i], quad); });
}

// sums[r][i] += pulls' row r times the column i of the inputs, over the points of a block; R rows, N vectors of columns.
template <int R, int N>
DF_BODY void some_sums(const Row* pulls, const float (*columns)[MLP_WIDTH], int i, float* sums, int stride) {
    Floats sum[R][N];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) sum[r][n] = load<Floats>(sums + r * stride + i + n * W);
    for (int p = 0; p < BLOCK; ++p) {
        Floats column[N];
        for (int n = 0; n < N; ++n) column[n] = load<Floats>(columns[p] + i + n * W);
        for (int r = 0; r < R; ++r) {
            const float pull = ((const float*)pulls[r])[p];
            for (int n = 0; n < N; ++n) sum[r][n] += pull * column[n];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) store(sums + r * stride + i + n * W, sum[r][n]);
}

template <int N>
static void sums_across(const Row* pulls, int rows, const float (*columns)[MLP_WIDTH], int i, int padded, float* sums) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS) some_sums<ROWS, N>(pulls + r, columns, i, sums + r * padded, padded);
    for (; r + 2 <= rows; r += 2) some_sums<2, N>(pulls + r, columns, i, sums + r * padded, padded);
    for (; r < rows; ++r) some_sums<1, N>(pulls + r, columns, i, sums + r * padded, padded);
}

static void all_sums(const Row* pulls, int rows, const float (*columns)[MLP_WIDTH], int padded, float* sums) {
    int i = 0;
    for (; i + 2 * W <= padded; i += 2 * W) sums_across<2>(pulls, rows, columns, i, padded, sums);
    if (i < padded) sums_across<1>(pulls, rows, columns, i, padded, sums);
}

static int pad(int width) { return (width + W - 1) / W * W; }

void mlp_backward(const MlpArgs& args) {
    int64_t offset[MLP_LAYERS + 1] = {}, place[MLP_LAYERS + 1] = {};  // of a layer's weights; of its padded sums
    int64_t height = 0;
    for (int l = 0; l < args.layers; ++l) {
        offset[l + 1] = offset[l] + args.widths[l] * args.widths[l + 1];
        place[l + 1] = place[l] + pad(args.widths[l]) * args.widths[l + 1];
        height += args.widths[l];
    }
    const int64_t chunks = (args.points + MLP_CHUNK - 1) / MLP_CHUNK, padded = place[args.layers];
    parallel(chunks, [&](int64_t task) {
        Row* const seen = (Row*)__builtin_alloca_with_align(sizeof(Row) * height, 512);  // the inputs of every layer
        Row one[MLP_WIDTH], two[MLP_WIDTH];
        alignas(64) float columns[BLOCK][MLP_WIDTH];
        float* const sums = args.scratch ? args.scratch + task * padded : nullptr;
        if (sums) __builtin_memset(sums, 0, sizeof(float) * padded);
        const int64_t end = least((task + 1) * MLP_CHUNK, args.points);
        for (int64_t first = task * MLP_CHUNK; first < end; first += BLOCK) {
            read(args.x, args.points, first, end, args.widths[0], seen);
            Row* input = seen;
            for (int l = 0; l + 1 < args.layers; ++l) {
                const int in = args.widths[l];
                all_rows(args.weights + offset[l], in, 1, args.widths[l + 1], in, input, input + in, true);
                input += in;
            }
            Row *pull = one, *next = two;
            read(args.grad, args.points, first, end, args.widths[args.layers], pull);
            for (int l = args.layers - 1; l >= 0; --l) {
                const int in = args.widths[l], out = args.widths[l + 1];
                if (sums) {
                    transpose(input, in, columns, pad(in));
                    all_sums(pull, out, columns, pad(in), sums + place[l]);
                }
                if (l == 0 && !args.grad_x) break;
                all_rows(args.weights + offset[l], 1, in, in, out, pull, next, false);
                if (l > 0)
                    for (int r = 0; r < in; ++r)
                        for (int v = 0; v < V; ++v) next[r][v] = input[r][v] <= 0.0f ? Floats{} : next[r][v];
                Row* other = pull;
                pull = next, next = other;
                if (l > 0) input -= args.widths[l - 1];
            }
            if (args.grad_x) write(args.grad_x, args.points, first, end, args.widths[0], pull);
        }
    });
    if (!args.scratch || !chunks) return;
    for (int64_t task = 1; task < chunks; ++task)  // chunk after chunk: one sum, whatever threads made them
        for (int64_t i = 0; i < padded; ++i) args.scratch[i] += args.scratch[task * padded + i];
    for (int l = 0; l < args.layers; ++l)
        for (int r = 0; r < args.widths[l + 1]; ++r)
            for (int i = 0; i < args.widths[l]; ++i)
                args.grad_weights[offset[l] + r * args.widths[l] + i] = args.scratch[place[l] + r * pad(args.widths[l]) + i];
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
