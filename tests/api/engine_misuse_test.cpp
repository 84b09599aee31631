// SPDX-License-Identifier: Apache-2.0
// Shapes and options with one thing wrong go in; no engine, and a sentence that names the field and
// what is allowed, come out.
#include <sys/resource.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>

#include "tests/api/failure.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

class EngineMisuse : public OnEveryBackend {
 protected:
  EngineMisuse() {
    CaseSpec spec;
    spec.window = {128, STEADY_CACHE_FP8, 64};
    spec.compressed = {{512, STEADY_CACHE_FP8, 64}, {}, {64, STEADY_CACHE_BF16, 2}};
    shape = HostileCase(spec).shape();
  }

  steady_status create() {
    steady_engine* engine = reinterpret_cast<steady_engine*>(this);
    const steady_status status = steady_engine_create(&shape, &options, &engine);
    EXPECT_EQ(engine == nullptr, status != STEADY_OK);
    steady_engine_destroy(engine);
    return status;
  }

  // Every one of `values` in `field` is refused with these words; then `field` is as before.
  template <typename T>
  void expect_refused(T& field, const std::vector<T>& values,
                      const std::vector<std::string>& words) {
    const T right = field;
    for (const T& value : values) {
      field = value;
      EXPECT_TRUE(invalid(create(), words)) << value;
    }
    field = right;
    EXPECT_TRUE(ok(create()));
  }

  template <typename T>
  void expect_taken(T& field, const std::vector<T>& values) {
    const T right = field;
    for (const T& value : values) {
      field = value;
      EXPECT_TRUE(ok(create())) << value;
    }
    field = right;
  }

  steady_shape shape = {};
  steady_options options = {sizeof(steady_options), backend(), 0, 1, 0};
};

INSTANTIATE_TEST_SUITE_P(, EngineMisuse, kEveryBackend, backend_name);

TEST_P(EngineMisuse, NullPointers) {
  steady_engine* engine = nullptr;
  EXPECT_TRUE(invalid(steady_engine_create(nullptr, &options, &engine), {"shape", "NULL"}));
  EXPECT_TRUE(invalid(steady_engine_create(&shape, &options, nullptr), {"out", "NULL"}));
}

TEST_P(EngineMisuse, StructSizes) {
  const auto size = std::to_string(sizeof(steady_shape));
  expect_refused<size_t>(shape.struct_size, {0, 4, sizeof(steady_shape) - 1},
                         {"steady_shape", "struct_size", size});
  const auto options_size = std::to_string(sizeof(steady_options));
  expect_refused<size_t>(options.struct_size, {0, 4, sizeof(steady_options) - 1},
                         {"steady_options", "struct_size", options_size});
}

TEST_P(EngineMisuse, Heads) {
  expect_refused<int32_t>(shape.heads, {0, -1, 129, kMin, kMax}, {"heads", "1", "128"});
  expect_taken<int32_t>(shape.heads, {1, 128});
}

TEST_P(EngineMisuse, Queries) {
  expect_refused<int32_t>(shape.queries, {0, -1, 9, kMin, kMax}, {"queries", "1", "8"});
  expect_taken<int32_t>(shape.queries, {1, 8});
}

TEST_P(EngineMisuse, MaxBatch) {
  expect_refused<int32_t>(shape.max_batch, {0, -1, 8193, kMin, kMax}, {"max_batch", "1", "8192"});
  expect_taken<int32_t>(shape.max_batch, {1, 8192});
}

TEST_P(EngineMisuse, Kinds) {
  expect_refused<int32_t>(shape.kinds, {0, -1, 9, kMin, kMax}, {"kinds", "1", "8"});
  expect_taken<int32_t>(shape.kinds, {1, 8});
}

TEST_P(EngineMisuse, SoftmaxScale) {
  expect_refused<float>(shape.softmax_scale, {NAN, INFINITY, -INFINITY},
                        {"softmax_scale", "finite"});
  expect_taken<float>(shape.softmax_scale, {0, -1, 1e30F});
}

TEST_P(EngineMisuse, Pools) {
  const auto expect_pool = [this](steady_pool_shape& pool, const std::string& name) {
    expect_refused<int32_t>(pool.max_tokens, {-1, 65537, kMin, kMax},
                            {name, "max_tokens", "0", "65536"});
    expect_refused<int32_t>(pool.page_tokens, {0, -1, kMin}, {name, "page_tokens", "1"});
    for (const int number : {-1, 2, 99}) {
      const steady_cache_format right = pool.format;
      set_number(pool.format, number);
      EXPECT_TRUE(invalid(create(), {name, "format", "STEADY_CACHE_FP8", "STEADY_CACHE_BF16"}));
      pool.format = right;
    }
    expect_taken<int32_t>(pool.max_tokens, {0, 1, 65536});
    expect_taken<int32_t>(pool.page_tokens, {1, kMax});
  };
  expect_pool(shape.window, "window");
  expect_pool(shape.compressed[0], "compressed[0]");
  expect_pool(shape.compressed[2], "compressed[2]");
}

TEST_P(EngineMisuse, NoneIsWhatAnAbsentPoolOrKindHolds) {
  shape.compressed[1].page_tokens = shape.compressed[3].page_tokens = -5;
  shape.compressed[3].max_tokens = -5;
  set_number(shape.compressed[1].format, 77);
  set_number(shape.compressed[3].format, 77);
  EXPECT_TRUE(ok(create()));
}

TEST_P(EngineMisuse, Backend) {
  for (const int number : {-1, 98, 99}) {
    set_number(options.backend, number);
    EXPECT_TRUE(invalid(create(), {"backend", "cpu", "oracle"})) << number;
  }
}

TEST_P(EngineMisuse, Device) {
  expect_refused<int32_t>(options.device, {-1, 1, kMin, kMax}, {"device", "0"});
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they need the address space
// In a process of its own, which afterwards has no room left.
void ask_for_more_threads_than_there_is_room(steady_options options, const steady_shape& shape) {
  const rlimit room = {1 << 30, 1 << 30};  // of address space: for some of the threads' stacks
  setrlimit(RLIMIT_AS, &room);
  options.threads = 1024;
  steady_engine* engine = nullptr;
  const steady_status status = steady_engine_create(&shape, &options, &engine);
  std::fprintf(stderr, "%s: %s\n", steady_status_name(status), steady_last_error());
  std::_Exit(engine == nullptr ? 0 : 1);
}

TEST_P(EngineMisuse, MoreThreadsThanTheSystemAllows) {
  SKIP_ON_DEVICES("a device's engine starts no threads");
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(ask_for_more_threads_than_there_is_room(options, shape), testing::ExitedWithCode(0),
              "STEADY_UNSUPPORTED: the system does not allow 1024 threads");
}
#endif

TEST_P(EngineMisuse, NumberOfThreads) {
  expect_refused<int32_t>(options.threads, {-1, kMin, kMax}, {"threads", "0"});
}

}  // namespace
}  // namespace steady::test
