// SPDX-License-Identifier: Apache-2.0
// What the compiler told of each kernel in, compared with resources.txt: a change of registers,
// spills or shared memory is seen and meant, or the test fails. STEADY_UPDATE_RESOURCES=1 rewrites
// the file.
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cuda/attend.hpp"
#if STEADY_WITH_SM90
#include "cuda/sm90/attend.hpp"
#endif

namespace steady::cuda {
namespace {

constexpr const char* kColumns =
    "architecture kernel registers stack spill_stores spill_loads shared dynamic_shared";

std::string demangled(const std::string& name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  const std::string result = status == 0 ? text : name;
  std::free(text);
  return result;
}

/// "attend_kernel<64>" of all that the linker calls it.
std::string short_name(const std::string& mangled) {
  const std::string name = demangled(mangled);
  std::smatch found;
  return std::regex_search(name, found, std::regex(R"((\w+_kernel(<\d+(, \d+)?>)?))"))
             ? found.str(1)
             : name;
}

/// What a launch adds, for a cache of FP8; a cache of BF16 takes more.
std::map<std::string, size_t> dynamic_shared_bytes() {
  Shape shape = {1, 1, 1, 1, 1.0f, {STEADY_CACHE_FP8, 64, 128}, {}};
  std::map<std::string, size_t> bytes;
  for (const int heads : {16, 32, 64}) {
    shape.heads = heads;
    const AttendChoice choice = choose_attend(shape, 1 << 20, 1, size_t{1} << 20);
    bytes["attend_kernel<" + std::to_string(choice.heads) + ">"] = choice.shared_bytes;
  }
#if STEADY_WITH_SM90
  const auto in_blocks = [&](int heads, int groups) {
    bytes["block_kernel<" + std::to_string(heads) + ", " + std::to_string(groups) + ">"] =
        sm90::shared_bytes(1, groups, heads);
  };
  in_blocks(32, 1);
  in_blocks(64, 1);
  in_blocks(64, 2);
  for (const int heads : {32, 64})
    bytes["pair_kernel<" + std::to_string(heads) + ">"] = sm90::shared_bytes(2, 1, heads);
  const auto by_columns = [&](int cluster, int heads) {
    bytes["columns_kernel<" + std::to_string(cluster) + ", " + std::to_string(heads) + ">"] =
        sm90::shared_bytes(cluster, 1, heads);
  };
  for (const int heads : {8, 16}) by_columns(2, heads);
  for (const int heads : {8, 16, 24, 32}) by_columns(4, heads);
  by_columns(8, 8);
#endif
  return bytes;
}

std::vector<std::string> resources() {
  const auto dynamic = dynamic_shared_bytes();
  std::vector<std::string> lines;
  std::istringstream objects(STEADY_KERNELS);
  for (std::string object; std::getline(objects, object, ':');) {
    std::ifstream file(object + ".resources");
    EXPECT_TRUE(file) << object << ".resources";
    std::string name, architecture, memory;
    std::smatch found;
    for (std::string line; std::getline(file, line);) {
      if (std::regex_search(line, found,
                            std::regex("Compiling entry function '(\\w+)' for '(\\w+)'"))) {
        name = short_name(found.str(1));
        architecture = found.str(2);
      } else if (std::regex_search(line, found,
                                   std::regex(R"((\d+) bytes stack frame, (\d+) bytes spill )"
                                              R"(stores, (\d+) bytes spill loads)"))) {
        memory = found.str(1) + " " + found.str(2) + " " + found.str(3);
      } else if (std::regex_search(line, found, std::regex("Used (\\d+) registers"))) {
        const std::string registers = found.str(1);
        const bool has_shared = std::regex_search(line, found, std::regex(R"((\d+) bytes smem)"));
        const auto launched = dynamic.find(name);
        std::ostringstream text;
        text << architecture << ' ' << name << ' ' << registers << ' ' << memory << ' '
             << (has_shared ? found.str(1) : "0") << ' '
             << (launched == dynamic.end() ? 0 : launched->second);
        lines.push_back(text.str());
      }
    }
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

bool is_of_any(const std::vector<std::string>& lines, const std::string& line) {
  const std::string architecture = line.substr(0, line.find(' ') + 1);
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& other) { return other.starts_with(architecture); });
}

struct Record {
  std::string compiler;
  std::vector<std::string> lines;
};

Record read_record() {
  std::ifstream file(STEADY_GOLDEN);
  Record record;
  std::string columns;
  std::getline(file, record.compiler);
  std::getline(file, columns);
  for (std::string line; std::getline(file, line);) record.lines.push_back(line);
  return record;
}

/// Keeps what is recorded of architectures that this build leaves out.
void write_record(const std::vector<std::string>& now) {
  const Record old = read_record();
  std::vector<std::string> lines = now;
  for (const std::string& line : old.lines) {
    if (old.compiler == STEADY_NVCC && !is_of_any(now, line)) lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end());
  std::ofstream file(STEADY_GOLDEN);
  file << STEADY_NVCC << '\n' << kColumns << '\n';
  for (const std::string& line : lines) file << line << '\n';
}

TEST(Resources, AreThoseOfTheRecord) {
  const std::vector<std::string> now = resources();
  ASSERT_FALSE(now.empty());
  if (std::getenv("STEADY_UPDATE_RESOURCES") != nullptr) {
    write_record(now);
  }
  const Record record = read_record();
  if (record.compiler != STEADY_NVCC)
    GTEST_SKIP() << "the record is of " << record.compiler << ", this build is of " << STEADY_NVCC;
  // A build for other architectures compares those that both have.
  std::vector<std::string> recorded;
  for (const std::string& line : record.lines) {
    if (is_of_any(now, line)) recorded.push_back(line);
  }
  EXPECT_EQ(now, recorded);
}

}  // namespace
}  // namespace steady::cuda
