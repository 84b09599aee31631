// SPDX-License-Identifier: Apache-2.0
// What to measure in, a table or JSON lines on standard output out. bench/ does the work.
#pragma once

#include <string>
#include <vector>

namespace steady::cli {

struct BenchSettings {
  std::string backend;
  std::vector<int> heads = {8, 16, 64, 128}, batches = {1, 8, 32}, compressed = {512, 1024};
  int window = 128;
  int queries = 1;
  int kinds = 1;
  bool ragged = false;  ///< lengths differ between requests
  int layers = 0;       ///< of a captured step; 0: 1 on the host, else those of the model
  int threads = 0;      ///< 0: one for each core
  int repetitions = 9;
  double min_seconds = 0.05;  ///< of a repetition
  std::string beside;         ///< a file of another kernel's times, or empty
  bool nodes = false;         ///< trace the kernels of a step
  bool json = false;
  std::string save;  ///< a file for the lines of JSON beside what is printed, or empty
};

/// Measures every combination. Returns the exit code.
int run_bench(const BenchSettings&);

}  // namespace steady::cli
