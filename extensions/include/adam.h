// Adam that touches the rows of a table that were hit in this step only: torch's SparseAdam (Kingma and Ba 2015, with
// moments that rest while a row does).
#pragma once
#include "portable.h"

namespace dreamforge {

// Mirrored in ops/adam.py. A row is hit where one of its gradients is not zero; its gradients become zero.
struct AdamArgs {
    float *table, *grad, *mean, *square;  // [rows, features]: parameters, gradients, first and second moments
    int64_t rows;
    int32_t features;
    float rate, beta1, beta2, eps;        // rate: lr sqrt(1 - beta2^step) / (1 - beta1^step)
};

namespace DF_LEVEL {

template <class F>
DF_BODY void adam_update(const AdamArgs& args, F grad, F& number, F& mean, F& square) {
    mean = mean + (grad - mean) * (1.0f - args.beta1);
    square = square + (grad * grad - square) * (1.0f - args.beta2);
    number = number - args.rate * mean / (root_of(square) + args.eps);
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
