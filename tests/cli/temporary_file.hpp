// SPDX-License-Identifier: Apache-2.0
// Bytes in, a file that holds them and goes with its owner out.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace steady::test {

class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& bytes = "") {
    static int count = 0;
    path_ = testing::TempDir() + "steady_" + std::to_string(getpid()) + "_" +
            std::to_string(count++) + ".safetensors";
    write(bytes);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace steady::test
