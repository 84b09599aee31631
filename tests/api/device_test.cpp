// SPDX-License-Identifier: Apache-2.0
// Device memory, copies, streams and packing: what is promised holds, misuse is refused.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>

#include "tests/api/failure.hpp"
#include "tests/support/engine.hpp"

namespace steady::test {
namespace {

class Device : public OnEveryBackend {
 protected:
  Engine engine{HostileCase(CaseSpec{}).shape(), backend()};
};

INSTANTIATE_TEST_SUITE_P(, Device, kEveryBackend, backend_name);

TEST_P(Device, MemoryIsAlignedTo256Bytes) {
  for (const size_t bytes : {0, 1, 255, 256, 257, 100'000}) {
    void* memory = nullptr;
    ASSERT_TRUE(ok(steady_device_alloc(engine.get(), bytes, &memory)));
    EXPECT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0U);
    steady_device_free(engine.get(), memory);
  }
}

TEST_P(Device, MemoryThatNobodyHasIsRefused) {
  void* memory = this;
  EXPECT_TRUE(
      failed(steady_device_alloc(engine.get(), std::numeric_limits<size_t>::max() / 2, &memory),
             STEADY_OUT_OF_MEMORY, {"memory"}));
  EXPECT_EQ(memory, nullptr);
  memory = this;
  EXPECT_EQ(steady_device_alloc(engine.get(), std::numeric_limits<size_t>::max(), &memory),
            STEADY_OUT_OF_MEMORY);
  EXPECT_EQ(memory, nullptr);
}

TEST_P(Device, CopiesReachTheDeviceAndComeBack) {
  std::vector<uint8_t> sent(1000), received(1000);
  std::iota(sent.begin(), sent.end(), uint8_t{0});
  void* memory = nullptr;
  const Caller caller(engine);
  ASSERT_TRUE(ok(steady_device_alloc(engine.get(), 1000, &memory)));
  ASSERT_TRUE(ok(steady_upload(engine.get(), memory, sent.data(), 1000, caller.stream())));
  ASSERT_TRUE(ok(steady_download(engine.get(), received.data(), memory, 1000, caller.stream())));
  ASSERT_TRUE(ok(steady_stream_wait(engine.get(), caller.stream())));
  EXPECT_EQ(received, sent);
  steady_device_free(engine.get(), memory);
}

TEST_P(Device, NullPointersAreRefused) {
  int value = 0;
  void* memory = nullptr;
  steady_stream stream = nullptr;
  EXPECT_TRUE(invalid(steady_device_alloc(nullptr, 1, &memory), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_device_alloc(engine.get(), 1, nullptr), {"out", "NULL"}));
  EXPECT_TRUE(invalid(steady_upload(nullptr, &value, &value, 4, nullptr), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_upload(engine.get(), nullptr, &value, 4, nullptr), {"device"}));
  EXPECT_TRUE(invalid(steady_upload(engine.get(), &value, nullptr, 4, nullptr), {"host"}));
  EXPECT_TRUE(invalid(steady_download(nullptr, &value, &value, 4, nullptr), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_download(engine.get(), nullptr, &value, 4, nullptr), {"host"}));
  EXPECT_TRUE(invalid(steady_download(engine.get(), &value, nullptr, 4, nullptr), {"device"}));
  EXPECT_TRUE(ok(steady_upload(engine.get(), nullptr, nullptr, 0, nullptr)));
  EXPECT_TRUE(ok(steady_download(engine.get(), nullptr, nullptr, 0, nullptr)));
  EXPECT_TRUE(invalid(steady_stream_create(nullptr, &stream), {"engine", "NULL"}));
  EXPECT_TRUE(invalid(steady_stream_create(engine.get(), nullptr), {"out", "NULL"}));
  EXPECT_TRUE(invalid(steady_stream_wait(nullptr, nullptr), {"engine", "NULL"}));
}

TEST_P(Device, StreamsAreManyAndNotNull) {
  steady_stream streams[3] = {};
  for (steady_stream& stream : streams) {
    ASSERT_TRUE(ok(steady_stream_create(engine.get(), &stream)));
    EXPECT_NE(stream, nullptr);
  }
  EXPECT_NE(streams[0], streams[1]);
  for (const steady_stream stream : streams) {
    EXPECT_TRUE(ok(steady_stream_wait(engine.get(), stream)));
    steady_stream_destroy(engine.get(), stream);
  }
  EXPECT_TRUE(ok(steady_stream_wait(engine.get(), nullptr)));
}

TEST(Packing, MisuseIsRefusedAndWritesNothing) {
  std::vector<float> values(STEADY_HEAD_DIM, 1.0F);
  std::vector<uint8_t> page(static_cast<size_t>(steady_page_bytes(STEADY_CACHE_BF16, 4)), 0xA5);
  const std::vector<uint8_t> page_before = page;
  const std::vector<float> values_before = values;
  const auto expect_refused = [&](int format, bool no_values, bool no_page, int32_t page_tokens,
                                  int32_t token, const std::vector<std::string>& words) {
    const auto given = static_cast<steady_cache_format>(format);
    float* const v = no_values ? nullptr : values.data();
    uint8_t* const p = no_page ? nullptr : page.data();
    EXPECT_TRUE(invalid(steady_pack_token(given, v, p, page_tokens, token), words));
    EXPECT_TRUE(invalid(steady_unpack_token(given, p, page_tokens, token, v), words));
  };
  expect_refused(2, false, false, 4, 0, {"format", "STEADY_CACHE_FP8", "STEADY_CACHE_BF16"});
  for (const int format : {0, 1}) {
    expect_refused(format, true, false, 4, 0, {"values", "NULL"});
    expect_refused(format, false, true, 4, 0, {"page", "NULL"});
    expect_refused(format, false, false, 0, 0, {"page_tokens", "1"});
    expect_refused(format, false, false, -3, 0, {"page_tokens", "1"});
    expect_refused(format, false, false, 4, 4, {"token", "3"});
    expect_refused(format, false, false, 4, -1, {"token", "0"});
  }
  EXPECT_EQ(page, page_before);
  EXPECT_EQ(values, values_before);
}

}  // namespace
}  // namespace steady::test
