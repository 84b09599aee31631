// SPDX-License-Identifier: Apache-2.0
// A safetensors file in, its tensors and metadata out; a file that is not exactly one is refused.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace steady::support {

/// A file that cannot be used. what() names the file and says in one sentence why.
class FileError : public std::runtime_error {
 public:
  FileError(const std::string& path, const std::string& sentence)
      : std::runtime_error(path + ": " + sentence) {}
};

/// Text that came out of a file, quoted and with everything but printable ASCII escaped.
std::string escaped(const std::string& text);

struct Tensor {
  std::string dtype;  ///< as the file spells it: "BF16", "F32", "I32", "U8", …
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< bytes from the begin of the file
  uint64_t bytes = 0;
};

/// "F32 [3, 1, 64]"
std::string describe(const Tensor& tensor);

/// Opening reads the header alone and checks all of it against the size of the file, so a lying
/// header cannot make anybody allocate memory. Tensor bytes are read when asked for.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::string path);

  const std::string& path() const { return path_; }
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// T must have the size of the tensor's dtype.
  template <class T>
  std::vector<T> read(const Tensor& tensor) {
    std::vector<T> values(tensor.bytes / sizeof(T));
    read_bytes(tensor, values.data());
    return values;
  }

 private:
  void read_bytes(const Tensor& tensor, void* to);

  std::string path_;
  std::ifstream stream_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace steady::support
