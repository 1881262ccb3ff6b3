// Continuous integrate-and-fire with everything known in advance: float32 frames without
// padding, threshold 1, weights scaled to the targets. Each direction reads the frames
// once and keeps nothing but its results, so no form of the operator should be faster.
//
// Letters: B utterances, T frames, U tokens, D width.

#include <ATen/Parallel.h>
#include <torch/extension.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

struct Line {
  // Where each frame ends on the line of masses, from S_0 = 0 on, and the number of
  // tokens complete there; one utterance after the other, T + 1 entries each.
  std::vector<double> reached;
  std::vector<int64_t> fired;
};

Line lay_out(const float* weights, const int64_t* targets, int64_t B, int64_t T) {
  Line line{std::vector<double>(B * (T + 1)), std::vector<int64_t>(B * (T + 1))};
  for (int64_t b = 0; b < B; ++b) {
    double* reached = line.reached.data() + b * (T + 1);
    int64_t* fired = line.fired.data() + b * (T + 1);
    reached[0] = 0;
    fired[0] = 0;
    for (int64_t t = 0; t < T; ++t) reached[t + 1] = reached[t] + weights[b * T + t];
    const double mass = reached[T];
    for (int64_t t = 1; t <= T; ++t) {
      reached[t] = reached[t] / mass * targets[b];
      fired[t] = std::min(static_cast<int64_t>(reached[t]), targets[b]);
    }
  }
  return line;
}

// How much of token k the frame from `start` to `end` covers.
float share(double start, double end, int64_t k) {
  return std::min(end, static_cast<double>(k + 1)) - std::max(start, static_cast<double>(k));
}

}  // namespace

torch::Tensor forward(
    const torch::Tensor& hidden, const torch::Tensor& weights,
    const torch::Tensor& targets, int64_t U) {
  const int64_t B = hidden.size(0), T = hidden.size(1), D = hidden.size(2);
  const float* h = hidden.data_ptr<float>();
  const int64_t* n = targets.data_ptr<int64_t>();
  const Line line = lay_out(weights.data_ptr<float>(), n, B, T);
  auto states = torch::empty({B, U, D}, hidden.options());
  float* c = states.data_ptr<float>();
  at::parallel_for(0, B * U, 4, [&](int64_t begin, int64_t stop) {
    for (int64_t row = begin; row < stop; ++row) {
      const int64_t b = row / U, k = row % U;
      const double* reached = line.reached.data() + b * (T + 1);
      const int64_t* fired = line.fired.data() + b * (T + 1);
      float* out = c + row * D;
      std::fill(out, out + D, 0.0f);
      if (k >= n[b]) continue;
      // The first frame that ends beyond k, to the one that ends at k + 1 or beyond.
      int64_t t = std::upper_bound(fired + 1, fired + T + 1, k - 1) - (fired + 1);
      for (; t < T && fired[t] <= k; ++t) {
        const float a = share(reached[t], reached[t + 1], k);
        const float* in = h + (b * T + t) * D;
        for (int64_t d = 0; d < D; ++d) out[d] += a * in[d];
      }
    }
  });
  return states;
}

std::vector<torch::Tensor> backward(
    const torch::Tensor& grad, const torch::Tensor& hidden, const torch::Tensor& weights,
    const torch::Tensor& targets) {
  const int64_t B = hidden.size(0), T = hidden.size(1), D = hidden.size(2);
  const int64_t U = grad.size(1);
  const float* g = grad.data_ptr<float>();
  const float* h = hidden.data_ptr<float>();
  const float* w = weights.data_ptr<float>();
  const int64_t* n = targets.data_ptr<int64_t>();
  const Line line = lay_out(w, n, B, T);
  auto grad_hidden = torch::empty_like(hidden);
  auto grad_weights = torch::empty_like(weights);
  float* gh = grad_hidden.data_ptr<float>();
  float* gw = grad_weights.data_ptr<float>();
  // <h_t, g_k> for the first and the last token of each frame.
  std::vector<float> first(B * T), last(B * T);
  at::parallel_for(0, B * T, 16, [&](int64_t begin, int64_t stop) {
    for (int64_t row = begin; row < stop; ++row) {
      const int64_t b = row / T, t = row % T;
      const double* reached = line.reached.data() + b * (T + 1);
      const int64_t* fired = line.fired.data() + b * (T + 1);
      const float* in = h + row * D;
      float* out = gh + row * D;
      const int64_t from = fired[t], to = std::min(fired[t + 1], n[b] - 1);
      // Past the last token, where rounding left a frame over.
      if (from > to) std::fill(out, out + D, 0.0f);
      for (int64_t k = from; k <= to; ++k) {
        const float a = share(reached[t], reached[t + 1], k);
        const float* token = g + (b * U + k) * D;
        float product = 0;
        if (k == from) {
          for (int64_t d = 0; d < D; ++d) {
            out[d] = a * token[d];
            product += in[d] * token[d];
          }
          first[row] = product;
        } else {
          for (int64_t d = 0; d < D; ++d) {
            out[d] += a * token[d];
            product += in[d] * token[d];
          }
        }
        last[row] = product;
      }
    }
  });
  for (int64_t b = 0; b < B; ++b) {
    const int64_t* fired = line.fired.data() + b * (T + 1);
    const float* weight = w + b * T;
    // A scaled weight moves the end of its frame and of all later ones.
    std::vector<double> moved(T);
    double sum = 0, mean = 0, mass = 0;
    for (int64_t t = T - 1; t >= 0; --t) {
      if (fired[t + 1] < n[b]) sum += last[b * T + t];
      if (t + 1 < T && fired[t + 1] < n[b]) sum -= first[b * T + t + 1];
      moved[t] = sum;
      mean += sum * weight[t];
      mass += weight[t];
    }
    for (int64_t t = 0; t < T; ++t) gw[b * T + t] = (moved[t] - mean / mass) * n[b] / mass;
  }
  return {grad_hidden, grad_weights};
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("forward", &forward);
  m.def("backward", &backward);
}
