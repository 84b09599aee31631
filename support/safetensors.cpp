// SPDX-License-Identifier: Apache-2.0
// The bytes of a safetensors file in (8 bytes of header length, a JSON header, tensor data without
// gaps), a checked table of its tensors out.
#include "support/safetensors.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

namespace steady::support {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kPrefixBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr int kMaxNesting = 3;  // header, tensor, shape

const std::map<std::string, uint64_t> kDtypeBytes = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
    {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},     {"I32", 4},
    {"F32", 4},  {"F64", 8}, {"U64", 8}, {"I64", 8},
};

/// A reason for refusal, before the name of the file joins it.
struct Refusal {
  std::string sentence;
};

/// Refuses what a tolerant parser would let pass: a name that stands twice, and deep nesting.
class HeaderRules {
 public:
  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      if (depth >= kMaxNesting) throw Refusal{"its header is nested too deeply"};
      names_.emplace_back();
    } else if (event == Json::parse_event_t::object_end ||
               event == Json::parse_event_t::array_end) {
      names_.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names_.back().insert(name).second)
        throw Refusal{"its header has the name " + escaped(name) + " twice"};
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> names_;
};

Json parse_header(const std::string& text) {
  if (text.empty() || text.front() != '{') throw Refusal{"its header does not begin with '{'"};
  try {
    return Json::parse(text, HeaderRules());
  } catch (const Json::exception&) {
    throw Refusal{"its header is not JSON"};
  }
}

/// Elements of a shape; refuses a product beyond 64 bits.
uint64_t element_count(const std::string& name, const std::vector<int64_t>& shape) {
  uint64_t count = 1;
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(extent), &count))
      throw Refusal{"tensor " + name + " claims more elements than 64 bits can count"};
  }
  return count;
}

/// Offsets in the result still count from the begin of the data.
Tensor parse_tensor(const std::string& name, const Json& entry) {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets"))
    throw Refusal{"tensor " + name + " must have exactly dtype, shape and data_offsets"};
  const Json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];

  Tensor tensor;
  if (!dtype.is_string()) throw Refusal{"the dtype of tensor " + name + " is not a string"};
  tensor.dtype = dtype.get<std::string>();
  const auto known = kDtypeBytes.find(tensor.dtype);
  if (known == kDtypeBytes.end())
    throw Refusal{"tensor " + name + " has the unknown dtype " + escaped(tensor.dtype)};

  const auto is_extent = [](const Json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX;
  };
  if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), is_extent))
    throw Refusal{"the shape of tensor " + name + " is not a list of whole numbers from 0 up"};
  tensor.shape = shape.get<std::vector<int64_t>>();

  if (!offsets.is_array() || offsets.size() != 2 ||
      !std::all_of(offsets.begin(), offsets.end(), is_extent))
    throw Refusal{"the data_offsets of tensor " + name + " are not two whole numbers from 0 up"};
  const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (end < begin) throw Refusal{"tensor " + name + " ends before it begins"};

  uint64_t bytes = 0;
  if (__builtin_mul_overflow(element_count(name, tensor.shape), known->second, &bytes))
    throw Refusal{"tensor " + name + " claims more bytes than 64 bits can count"};
  if (bytes != end - begin)
    throw Refusal{"tensor " + name + " is " + describe(tensor) + ", which is " +
                  std::to_string(bytes) + " bytes, but its data_offsets span " +
                  std::to_string(end - begin)};
  tensor.begin = begin;
  tensor.bytes = bytes;
  return tensor;
}

/// The tensors must tile the data: no overlap, no hole, nothing behind the last.
void check_tiling(const std::map<std::string, Tensor>& tensors, uint64_t data_bytes) {
  std::vector<std::pair<const std::string*, const Tensor*>> order;
  for (const auto& [name, tensor] : tensors) order.emplace_back(&name, &tensor);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->bytes) <
           std::pair(b.second->begin, b.second->bytes);
  });
  uint64_t covered = 0;
  for (const auto& [name, tensor] : order) {
    if (tensor->bytes > data_bytes || tensor->begin > data_bytes - tensor->bytes)
      throw Refusal{"tensor " + escaped(*name) + " ends at byte " +
                    std::to_string(tensor->begin + tensor->bytes) + " of the data, but only " +
                    std::to_string(data_bytes) + " are there"};
    if (tensor->begin < covered)
      throw Refusal{"tensor " + escaped(*name) + " overlaps the one before it"};
    if (tensor->begin > covered)
      throw Refusal{"no tensor owns the bytes before tensor " + escaped(*name)};
    covered += tensor->bytes;
  }
  if (covered != data_bytes)
    throw Refusal{std::to_string(data_bytes - covered) + " bytes follow the last tensor"};
}

std::map<std::string, std::string> parse_metadata(const Json& entry) {
  const bool all_strings =
      entry.is_object() &&
      std::all_of(entry.begin(), entry.end(), [](const Json& value) { return value.is_string(); });
  if (!all_strings) throw Refusal{"its __metadata__ is not a table of strings"};
  return entry.get<std::map<std::string, std::string>>();
}

}  // namespace

std::string escaped(const std::string& text) {
  return Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string describe(const Tensor& tensor) {
  std::string text = tensor.dtype + " [";
  for (size_t i = 0; i < tensor.shape.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(tensor.shape[i]);
  return text + "]";
}

SafetensorsFile::SafetensorsFile(std::string path) : path_(std::move(path)) {
  try {
    std::error_code error;
    const auto status = std::filesystem::status(path_, error);
    if (!std::filesystem::exists(status)) throw Refusal{"there is no such file"};
    if (!std::filesystem::is_regular_file(status)) throw Refusal{"it is not a regular file"};
    stream_.open(path_, std::ios::binary);
    const uint64_t file_bytes = std::filesystem::file_size(path_, error);
    if (!stream_ || error) throw Refusal{"it cannot be opened for reading"};

    if (file_bytes < kPrefixBytes)
      throw Refusal{"it is " + std::to_string(file_bytes) +
                    " bytes long, too short for a safetensors file"};
    const uint64_t header_bytes = read<uint64_t>({"U64", {1}, 0, kPrefixBytes}).front();
    if (header_bytes > file_bytes - kPrefixBytes || header_bytes > kMaxHeaderBytes)
      throw Refusal{"it claims a header of " + std::to_string(header_bytes) +
                    " bytes, but the file is " + std::to_string(file_bytes) +
                    " bytes long and a header at most " + std::to_string(kMaxHeaderBytes)};
    const auto text = read<char>({"U8", {}, kPrefixBytes, header_bytes});

    const Json header = parse_header({text.begin(), text.end()});
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        metadata_ = parse_metadata(entry);
      } else {
        tensors_[name] = parse_tensor(escaped(name), entry);
      }
    }
    const uint64_t data_begin = kPrefixBytes + header_bytes;
    check_tiling(tensors_, file_bytes - data_begin);
    for (auto& [name, tensor] : tensors_) tensor.begin += data_begin;
  } catch (const Refusal& refusal) {
    throw FileError(path_, refusal.sentence);
  }
}

void SafetensorsFile::read_bytes(const Tensor& tensor, void* to) {
  stream_.clear();
  stream_.seekg(static_cast<std::streamoff>(tensor.begin));
  stream_.read(static_cast<char*>(to), static_cast<std::streamsize>(tensor.bytes));
  if (!stream_) throw FileError(path_, "it could not be read to its end");
}

}  // namespace steady::support
