// SPDX-License-Identifier: Apache-2.0
// Tensors in, the bytes of a safetensors file out; or any header before any data.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace steady::test {

inline std::string little_endian(uint64_t value) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &value, 8);
  return bytes;
}

inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return little_endian(header.size()) + header + data;
}

struct TensorBytes {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

template <class T>
TensorBytes tensor_bytes(const std::string& dtype, const std::vector<int64_t>& shape,
                         const std::vector<T>& values) {
  return {dtype, shape,
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
}

inline std::string safetensors_bytes(const std::map<std::string, TensorBytes>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  nlohmann::json header = {{"__metadata__", metadata}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return safetensors_bytes(header.dump(), data);
}

}  // namespace steady::test
