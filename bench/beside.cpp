// SPDX-License-Identifier: Apache-2.0
// Lines of a CSV file in, cases and times out.
#include "bench/beside.hpp"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace steady::bench {
namespace {

constexpr const char* kSizes[] = {"batch", "heads", "queries", "window_tokens",
                                  "compressed_tokens"};

std::vector<std::string> cells_of(std::string line) {
  if (!line.empty() && line.back() == '\r') line.pop_back();
  std::vector<std::string> cells;
  std::istringstream stream(line);
  for (std::string cell; std::getline(stream, cell, ',');) cells.push_back(cell);
  return cells;
}

template <class T>
bool parse(const std::string& text, T* value) {
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && at == end;
}

}  // namespace

Beside::Beside(const std::string& path) {
  std::ifstream file(path);
  int number = 1;
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error(path + ": line " + std::to_string(number) + ": " + what);
  };
  std::string line;
  if (!std::getline(file, line)) throw std::runtime_error(path + ": cannot be read, or is empty");
  const std::vector<std::string> header = cells_of(line);
  const auto column = [&](const auto& is_it) {
    return std::find_if(header.begin(), header.end(), is_it) - header.begin();
  };
  std::vector<size_t> columns;
  for (const char* size : kSizes) {
    columns.push_back(column([&](const std::string& name) { return name == size; }));
    if (columns.back() == header.size()) fail(std::string("no column ") + size);
  }
  const auto time = static_cast<size_t>(
      column([](const std::string& name) { return name.size() > 3 && name.ends_with("_us"); }));
  if (time == header.size()) fail("no column that ends in _us");
  name_ = header[time].substr(0, header[time].size() - 3);

  while (std::getline(file, line)) {
    ++number;
    const std::vector<std::string> cells = cells_of(line);
    if (cells.empty()) continue;
    if (cells.size() != header.size()) {
      fail(std::to_string(cells.size()) + " cells, the header has " +
           std::to_string(header.size()));
    }
    Row row = {{}, 0};
    for (const size_t at : columns) {
      row.sizes.push_back(0);
      if (!parse(cells[at], &row.sizes.back())) fail("'" + cells[at] + "' is no whole number");
    }
    if (!parse(cells[time], &row.us)) fail("'" + cells[time] + "' is no number");
    rows_.push_back(std::move(row));
  }
}

Timing Beside::timing_of(const Case& sizes) const {
  const std::vector<int> wanted = {sizes.batch, sizes.heads, sizes.queries, sizes.window,
                                   sizes.compressed};
  for (const Row& row : rows_) {
    if (sizes.kinds == 1 && !sizes.ragged && row.sizes == wanted)
      return {name_, row.us, row.us, row.us};
  }
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  return {name_, kNone, kNone, kNone};
}

}  // namespace steady::bench
