// SPDX-License-Identifier: Apache-2.0
// Calls into the library in, the same calls with one promise broken (as STEADY_SABOTAGE names it)
// out. Loaded before the library.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "steady/device.h"
#include "steady/steady.h"

namespace {

std::vector<steady_layer> g_captured;
std::set<void*> g_written;
bool g_capturing = false;

bool deed_is(const char* name) {
  const char* deed = std::getenv("STEADY_SABOTAGE");
  return deed != nullptr && std::strcmp(deed, name) == 0;
}

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

STEADY_API steady_status steady_capture_begin(const steady_engine* engine, steady_stream stream) {
  g_captured.clear();
  g_capturing = true;
  return real<decltype(steady_capture_begin)>("steady_capture_begin")(engine, stream);
}

STEADY_API steady_status steady_capture_end(const steady_engine* engine, steady_stream stream,
                                            steady_graph** out) {
  g_capturing = false;
  return real<decltype(steady_capture_end)>("steady_capture_end")(engine, stream, out);
}

STEADY_API steady_status steady_decode(const steady_engine* engine, steady_workspace workspace,
                                       const steady_step* step, const steady_layer* layer,
                                       steady_stream stream) {
  if (g_capturing) g_captured.push_back(*layer);
  steady_layer given = *layer;
  if (deed_is("drop_the_sink")) given.sink = nullptr;
  return real<decltype(steady_decode)>("steady_decode")(engine, workspace, step, &given, stream);
}

STEADY_API steady_status steady_graph_replay(const steady_graph* graph, steady_stream stream) {
  if (deed_is("do_nothing")) return STEADY_OK;
  if (deed_is("refuse")) return STEADY_INTERNAL;
  const steady_status status =
      real<decltype(steady_graph_replay)>("steady_graph_replay")(graph, stream);
  if (deed_is("allocate")) {
    void* volatile memory = std::malloc(1);
    std::free(memory);
  }
  uint16_t* last_out = g_captured.back().out;
  if (deed_is("flip_a_bit")) last_out[0] ^= 1;
  if (deed_is("write_behind")) last_out[-1] = 0;
  return status;
}

// Queries are all that is large, written again on each step, and not written over by an answer.
STEADY_API steady_status steady_upload(const steady_engine* engine, void* device, const void* host,
                                       size_t bytes, steady_stream stream) {
  const auto* begin = static_cast<const uint8_t*>(host);
  std::vector<uint8_t> given(begin, begin + bytes);
  const bool again = !g_written.insert(device).second;
  if (deed_is("change_later_queries") && again && bytes > 1 << 16) {
    for (size_t i = 1; i < bytes; i += 2) given[i] ^= 0x80;
  }
  return real<decltype(steady_upload)>("steady_upload")(engine, device, given.data(), bytes,
                                                        stream);
}

STEADY_API steady_status steady_read_report(const steady_engine* engine, steady_workspace workspace,
                                            steady_stream stream, steady_report* out) {
  const steady_status status =
      real<decltype(steady_read_report)>("steady_read_report")(engine, workspace, stream, out);
  if (deed_is("hide_faults")) out->stray_slot.count = 0;
  return status;
}

}  // extern "C"
