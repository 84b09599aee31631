// SPDX-License-Identifier: Apache-2.0
// A layer in, its answer by way of OpenBLAS out.
#include "bench/baselines.hpp"

#include <cblas.h>
#include <pthreadpool.h>

#include <algorithm>
#include <vector>

#include "bench/loops.hpp"

namespace steady::bench {
namespace {

/// What one thread works in; each [·, 512] or [heads, tokens].
struct Buffers {
  std::vector<float> q, keys, weights, out;
};

struct DestroyPool {
  void operator()(pthreadpool* pool) const { pthreadpool_destroy(pool); }
};

class OpenBlasBaselines : public Baselines {
 public:
  OpenBlasBaselines(const steady_shape& shape, int threads)
      : shape_(shape),
        rows_(shape.max_batch * shape.queries),
        tokens_(shape.window.max_tokens + shape.compressed[0].max_tokens),
        threads_(threads),
        workers_(rows_ < threads ? 1 : threads),
        pool_(pthreadpool_create(workers_)),
        buffers_(workers_) {
    for (Buffers& buffers : buffers_) {
      buffers.q.resize(size_t{1} * shape.heads * STEADY_HEAD_DIM);
      buffers.keys.resize(size_t{1} * tokens_ * STEADY_HEAD_DIM);
      buffers.weights.resize(size_t{1} * shape.heads * tokens_);
      buffers.out.resize(buffers.q.size());
    }
  }

  void gather(const steady_layer& layer) override {
    openblas_set_num_threads(threads_);
    for (int row = 0; row < rows_; ++row) attend_row(plain_, layer, row, buffers_[0]);
  }

  void gather_tuned(const steady_layer& layer) override {
    spread_rows([&](int row, Buffers& buffers) { attend_row(tuned_, layer, row, buffers); });
  }

  void multiply() override {
    spread_rows([&](int, Buffers& buffers) {
      multiply_keys(buffers);
      multiply_values(buffers);
    });
  }

 private:
  template <class Work>
  void spread_rows(const Work& work) {
    openblas_set_num_threads(threads_ / workers_);
    struct Call {
      OpenBlasBaselines* self;
      const Work& work;
    } call = {this, work};
    const auto run_share = [](void* context, size_t worker) {
      const auto& [self, each] = *static_cast<Call*>(context);
      for (int row = static_cast<int>(worker); row < self->rows_; row += self->workers_)
        each(row, self->buffers_[worker]);
    };
    pthreadpool_parallelize_1d(pool_.get(), run_share, &call, workers_, 0);
  }

  void attend_row(const Loops& loops, const steady_layer& layer, int row, Buffers& buffers) const {
    const auto values = static_cast<int>(buffers.q.size());
    loops.widen_bf16(layer.q + int64_t{1} * row * values, values, buffers.q.data());
    float* keys = copy_tokens(loops, layer.window, shape_.window, row, buffers.keys.data());
    copy_tokens(loops, layer.compressed, shape_.compressed[0], row, keys);
    multiply_keys(buffers);
    for (int head = 0; head < shape_.heads; ++head)
      loops.soften(&buffers.weights[size_t{1} * head * tokens_], tokens_, layer.sink[head]);
    multiply_values(buffers);
    loops.narrow_to_bf16(buffers.out.data(), values, layer.out + int64_t{1} * row * values);
  }

  /// Returns the end of what it has written.
  static float* copy_tokens(const Loops& loops, const steady_pool& pool,
                            const steady_pool_shape& shape, int row, float* keys) {
    const int32_t* slots = pool.slots + int64_t{1} * row * shape.max_tokens;
    for (int i = 0; i < shape.max_tokens; ++i, keys += STEADY_HEAD_DIM) {
      const auto* page = static_cast<const uint8_t*>(pool.pages) +
                         slots[i] / shape.page_tokens * pool.page_stride_bytes;
      const int32_t token = slots[i] % shape.page_tokens;
      loops.dequantise(page + steady_data_offset(shape.format, token),
                       page + steady_fp8_scales_offset(shape.page_tokens, token), keys);
    }
    return keys;
  }

  void multiply_keys(Buffers& buffers) const {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, shape_.heads, tokens_, STEADY_HEAD_DIM,
                shape_.softmax_scale, buffers.q.data(), STEADY_HEAD_DIM, buffers.keys.data(),
                STEADY_HEAD_DIM, 0, buffers.weights.data(), tokens_);
  }

  void multiply_values(Buffers& buffers) const {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, shape_.heads, STEADY_HEAD_DIM, tokens_,
                1, buffers.weights.data(), tokens_, buffers.keys.data(), STEADY_HEAD_DIM, 0,
                buffers.out.data(), STEADY_HEAD_DIM);
  }

  steady_shape shape_;
  int rows_, tokens_, threads_, workers_;
  std::unique_ptr<pthreadpool, DestroyPool> pool_;
  std::vector<Buffers> buffers_;
  const Loops plain_ = plain_loops(), tuned_ = tuned_loops();
};

}  // namespace

std::unique_ptr<Baselines> make_baselines(const steady_shape& shape, int threads) {
  return std::make_unique<OpenBlasBaselines>(shape, threads);
}

std::string describe_baselines() {
  return std::string(openblas_get_config()) + ", kernels for " + openblas_get_corename();
}

}  // namespace steady::bench
