// SPDX-License-Identifier: Apache-2.0
// What the library says about itself: version, statuses, backends, the choice among them, and the
// last error.
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <thread>

#include "tests/api/failure.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

steady_shape any_shape() { return HostileCase(CaseSpec{}).shape(); }

// Sets STEADY_BACKEND for as long as it lives; NULL unsets it.
std::set<steady_backend> of_this_build() {
#if STEADY_WITH_CUDA
  return {STEADY_CPU, STEADY_ORACLE, STEADY_CUDA};
#else
  return {STEADY_CPU, STEADY_ORACLE};
#endif
}

class BackendVariable {
 public:
  explicit BackendVariable(const char* value) {
    if (const char* before = std::getenv("STEADY_BACKEND")) before_ = before;
    set(value);
  }
  ~BackendVariable() { set(before_.empty() ? nullptr : before_.c_str()); }
  BackendVariable(const BackendVariable&) = delete;
  BackendVariable& operator=(const BackendVariable&) = delete;

 private:
  static void set(const char* value) {
    if (value == nullptr)
      unsetenv("STEADY_BACKEND");
    else
      setenv("STEADY_BACKEND", value, 1);
  }
  std::string before_;
};

steady_backend_info describe_backend(int32_t index) {
  steady_backend_info info = {};
  info.struct_size = sizeof(info);
  EXPECT_TRUE(ok(steady_describe_backend(index, &info)));
  return info;
}

steady_backend chosen_backend() {
  const Engine engine(any_shape(), STEADY_AUTO);
  return steady_engine_backend(engine.get());
}

TEST(Library, HasAVersion) {
  int major = 0, minor = 0, patch = 0;
  EXPECT_EQ(std::sscanf(steady_version(), "%d.%d.%d", &major, &minor, &patch), 3);
}

TEST(Library, NamesEveryStatusAsTheHeaderDoes) {
  const char* const names[] = {"STEADY_OK",           "STEADY_INVALID_ARGUMENT",
                               "STEADY_UNSUPPORTED",  "STEADY_OUT_OF_MEMORY",
                               "STEADY_NOT_PLANNED",  "STEADY_INTERNAL",
                               "STEADY_DEVICE_FAILED"};
  for (int status = 0; status < 7; ++status)
    EXPECT_STREQ(steady_status_name(static_cast<steady_status>(status)), names[status]);
  EXPECT_NE(steady_status_name(static_cast<steady_status>(8)), nullptr);
}

TEST(Library, LeavesALastErrorToEachThreadAndForItsFailuresAlone) {
  const steady_shape shape = any_shape();
  steady_engine* engine = nullptr;
  EXPECT_TRUE(invalid(steady_engine_create(nullptr, nullptr, &engine), {"shape"}));
  const std::string text = steady_last_error();
  ASSERT_TRUE(ok(steady_engine_create(&shape, nullptr, &engine)));
  steady_engine_destroy(engine);
  EXPECT_EQ(steady_last_error(), text) << "a success has changed the text of the last failure";
  std::thread([] { EXPECT_STREQ(steady_last_error(), ""); }).join();
}

TEST(Library, ListsItsBackendsAndChoosesTheBest) {
  const BackendVariable unset(nullptr);
  std::set<steady_backend> backends;
  int32_t count = 0;
  int chosen = 0;
  steady_backend_info info = {};
  info.struct_size = sizeof(info);
  for (; steady_describe_backend(count, &info) == STEADY_OK; ++count) {
    backends.insert(info.backend);
    EXPECT_NE(info.name[0], '\0');
    EXPECT_NE(info.detail[0], '\0');
    if (info.chosen != 0) {
      ++chosen;
      EXPECT_NE(info.usable, 0);
      EXPECT_EQ(info.backend, chosen_backend());
    } else if (info.usable != 0) {
      EXPECT_EQ(chosen, 1) << "a usable backend stands before the chosen one";
    }
  }
  EXPECT_EQ(chosen, 1);
  EXPECT_EQ(backends, of_this_build());
  EXPECT_EQ(describe_backend(count - 1).backend, STEADY_ORACLE);
  EXPECT_TRUE(invalid(steady_describe_backend(count, &info), {"index", std::to_string(count - 1)}));
  EXPECT_TRUE(invalid(steady_describe_backend(-1, &info), {"index", "0"}));
  EXPECT_TRUE(invalid(steady_describe_backend(0, nullptr), {"steady_backend_info", "NULL"}));
  info.struct_size = 3;
  EXPECT_TRUE(invalid(steady_describe_backend(0, &info), {"struct_size"}));
}

TEST(Library, RunsTheBackendThatIsAskedFor) {
  const BackendVariable ignored("oracle");
  for (const steady_backend backend : of_this_build()) {
    if (info_of(backend).usable == 0) continue;
    const Engine engine(any_shape(), backend);
    EXPECT_EQ(steady_engine_backend(engine.get()), backend);
  }
}

TEST(Library, RunsTheBackendThatTheEnvironmentNames) {
  for (const steady_backend named : of_this_build()) {
    if (info_of(named).usable == 0) continue;
    const BackendVariable forced(info_of(named).name);
    EXPECT_EQ(chosen_backend(), named);
    for (const steady_backend backend : of_this_build()) {
      EXPECT_EQ(info_of(backend).chosen != 0, backend == named);
    }
  }
}

TEST(Library, RefusesAnEnvironmentThatNamesNoBackend) {
  const BackendVariable forced("abacus");
  const steady_shape shape = any_shape();
  steady_engine* engine = nullptr;
  EXPECT_TRUE(invalid(steady_engine_create(&shape, nullptr, &engine),
                      {"STEADY_BACKEND", "abacus", "cpu", "oracle"}));
}

TEST(Library, NeedsScratchForItsWorkersAndNotForTheBatch) {
  for (const steady_backend backend : {STEADY_CPU, STEADY_ORACLE}) {
    CaseSpec spec;
    spec.heads = STEADY_MAX_HEADS;
    const auto bytes_for = [&](int32_t batch) {
      steady_shape shape = HostileCase(spec).shape();
      shape.queries = STEADY_MAX_QUERIES;
      shape.max_batch = batch;
      shape.window.max_tokens = STEADY_MAX_TOKENS;
      shape.window.page_tokens = 64;
      const Engine engine(shape, backend);
      return steady_workspace_bytes(engine.get());
    };
    // An unfinished answer of one row takes 128 * 512 floats.
    EXPECT_LT(bytes_for(STEADY_MAX_BATCH) - bytes_for(1),
              size_t{64} * STEADY_MAX_BATCH * STEADY_MAX_QUERIES);
  }
  EXPECT_EQ(steady_workspace_bytes(nullptr), 0U);
}

TEST(Library, TakesNullWhereNothingIsToBeDestroyed) {
  steady_engine_destroy(nullptr);
  steady_graph_destroy(nullptr);
  const Engine engine(any_shape(), STEADY_AUTO);
  steady_stream_destroy(engine.get(), nullptr);
  steady_device_free(engine.get(), nullptr);
}

}  // namespace
}  // namespace steady::test
