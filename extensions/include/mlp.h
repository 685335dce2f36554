// A small multilayer perceptron without biases, ReLU between its layers: the body that multiplies a matrix with columns
// of activations, one column a lane. F is a float, or a vector of them.
#pragma once
#include "portable.h"

namespace dreamforge {

constexpr int MLP_LAYERS = 8, MLP_WIDTH = 128;  // at most

// Mirrored in ops/mlp.py. Numbers of a point stand in rows of `points` numbers each.
struct MlpArgs {
    const float* x;        // [widths[0], points]
    const float* weights;  // of each layer [widths[l + 1], widths[l]], one after another
    const float* grad;     // [widths[layers], points], of the loss by the output
    float* out;            // [widths[layers], points]
    float* grad_x;         // like x, or null
    float* grad_weights;   // like weights, zeros, or null
    float* scratch;        // CPU: [chunks, sum of widths[l + 1] * (widths[l] up to a multiple of 32)], or null;
                           // CUDA: [blocks, 32 * all inputs of layers + all weights], zeros
    int64_t points;
    int32_t blocks, layers, widths[MLP_LAYERS + 1];
};

constexpr int64_t MLP_CHUNK = 4080;  // points: whole blocks of every SIMD level

namespace DF_LEVEL {

// sum[r][v] += sum over k < depth of matrix[r * row + k * step] * x[k * stride + v]: R rows, V lanes side by side.
template <int R, int V, class F>
DF_BODY void multiply(const float* matrix, int row, int step, int depth, const F* x, int stride, F (&sum)[R][V]) {
    for (int k = 0; k < depth; ++k) {
        F lane[V];
        for (int v = 0; v < V; ++v) lane[v] = x[k * stride + v];
        for (int r = 0; r < R; ++r) {
            const float weight = matrix[r * row + k * step];
            for (int v = 0; v < V; ++v) sum[r][v] += weight * lane[v];
        }
    }
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
