// SPDX-License-Identifier: Apache-2.0
// Whole, damaged and lying safetensors files in; what they hold, or one sentence of refusal, out.
#include "support/safetensors.hpp"

#include <gmock/gmock.h>

#include "support/text.hpp"
#include "tests/cli/safetensors_bytes.hpp"
#include "tests/cli/temporary_file.hpp"

namespace steady::test {
namespace {

using support::FileError;
using support::SafetensorsFile;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string small_file() {
  return safetensors_bytes({{"a", tensor_bytes<int32_t>("I32", {2, 3}, {1, 2, 3, 4, 5, 6})},
                            {"b", tensor_bytes<uint8_t>("U8", {5}, {7, 8, 9, 10, 11})},
                            {"none", {"F64", {4, 0}, ""}},
                            {"one", tensor_bytes<float>("F32", {}, {2.5f})}},
                           {{"who", "a test"}});
}

/// "" where the file is accepted.
std::string refusal_at(const std::string& path) {
  try {
    SafetensorsFile file(path);
    return "";
  } catch (const FileError& error) {
    return error.what();
  }
}

std::string refusal(const std::string& bytes) { return refusal_at(TemporaryFile(bytes).path()); }

/// A file of 8 data bytes with this header.
std::string refusal_of_header(const std::string& header) {
  return refusal(safetensors_bytes(header, std::string(8, 'x')));
}

TEST(Safetensors, GivesBackTensorsAndMetadata) {
  const TemporaryFile written(small_file());
  SafetensorsFile file(written.path());
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_THAT(file.read<int32_t>(file.tensors().at("a")), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(file.tensors().at("a").shape, ElementsAre(2, 3));
  // Unaligned in the file, because `b` has five bytes.
  EXPECT_THAT(file.read<float>(file.tensors().at("one")), ElementsAre(2.5f));
  EXPECT_TRUE(file.read<double>(file.tensors().at("none")).empty());
  EXPECT_EQ(file.metadata().at("who"), "a test");
  EXPECT_EQ(describe(file.tensors().at("a")), "I32 [2, 3]");
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string whole = small_file();
  const TemporaryFile file;
  for (size_t length = 0; length < whole.size(); ++length) {
    file.write(whole.substr(0, length));
    EXPECT_NE(refusal_at(file.path()), "") << length << " of " << whole.size() << " bytes";
  }
}

TEST(Safetensors, RefusesOrReadsEveryFileWithOneBitFlipped) {
  const std::string whole = small_file();
  const TemporaryFile file;
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    file.write(flipped);
    EXPECT_NO_THROW(refusal_at(file.path())) << "bit " << bit;
  }
}

TEST(Safetensors, SaysWhichFileAndWhyInOneLine) {
  const TemporaryFile file("short");
  EXPECT_EQ(refusal_at(file.path()),
            file.path() + ": it is 5 bytes long, too short for a safetensors file");
}

TEST(Safetensors, RefusesWhatIsNoFile) {
  EXPECT_THAT(refusal_at("/no/such/file"), HasSubstr("there is no such file"));
  EXPECT_THAT(refusal_at(testing::TempDir()), HasSubstr("not a regular file"));
  EXPECT_THAT(refusal_at("/dev/zero"), HasSubstr("not a regular file"));
}

TEST(Safetensors, RefusesAHeaderLengthBeyondTheFile) {
  for (const uint64_t length : {uint64_t{100}, uint64_t{1} << 40, UINT64_MAX - 7, UINT64_MAX})
    EXPECT_THAT(refusal(little_endian(length) + "{}"), HasSubstr("claims a header of"));
}

TEST(Safetensors, RefusesAHeaderThatIsNoJsonObject) {
  EXPECT_THAT(refusal_of_header(""), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(refusal_of_header("[]"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(refusal_of_header(" {}"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(refusal_of_header("{"), HasSubstr("not JSON"));
  EXPECT_THAT(refusal_of_header("{} {}"), HasSubstr("not JSON"));
  EXPECT_THAT(refusal_of_header("{\"a\xff\": 1}"), HasSubstr("not JSON"));
  EXPECT_THAT(refusal_of_header("{\"a\": 1e999}"), HasSubstr("not JSON"));
}

TEST(Safetensors, RefusesDeepNesting) {
  std::string header = "{\"a\": ";
  header.append(1'000'000, '[');
  EXPECT_THAT(refusal_of_header(header), HasSubstr("nested too deeply"));
}

TEST(Safetensors, RefusesNamesThatStandTwice) {
  const std::string u8 = R"({"dtype": "U8", "shape": [4], "data_offsets": )";
  EXPECT_THAT(refusal_of_header("{\"a\": " + u8 + "[0, 4]}, \"a\": " + u8 + "[4, 8]}}"),
              HasSubstr("the name \"a\" twice"));
  EXPECT_THAT(refusal_of_header("{\"a\": " + u8 + "[0, 4]}, \"\\u0061\": " + u8 + "[4, 8]}}"),
              HasSubstr("the name \"a\" twice"));
  EXPECT_THAT(refusal_of_header(
                  R"({"a": {"dtype": "U8", "dtype": "I8", "shape": [8], "data_offsets": [0, 8]}})"),
              HasSubstr("the name \"dtype\" twice"));
}

TEST(Safetensors, RefusesATensorThatIsNotDescribedAsItMustBe) {
  const auto refused = [](const std::string& entry) {
    return refusal_of_header("{\"a\": " + entry + "}");
  };
  EXPECT_THAT(refused("7"), HasSubstr("exactly dtype, shape and data_offsets"));
  EXPECT_THAT(refused(R"({"dtype": "U8", "shape": [8]})"), HasSubstr("exactly dtype"));
  EXPECT_THAT(refused(R"({"dtype": "U8", "shape": [8], "data_offsets": [0, 8], "x": 1})"),
              HasSubstr("exactly dtype"));
  EXPECT_THAT(refused(R"({"dtype": 8, "shape": [8], "data_offsets": [0, 8]})"),
              HasSubstr("dtype of tensor \"a\" is not a string"));
  EXPECT_THAT(refused(R"({"dtype": "Q8", "shape": [8], "data_offsets": [0, 8]})"),
              HasSubstr("unknown dtype \"Q8\""));
  for (const char* shape : {"8", "[-8]", "[8.0]", "[\"8\"]", "[9223372036854775808]",
                            "[99999999999999999999]", "[true]", "null"}) {
    EXPECT_THAT(
        refused(std::string(R"({"dtype": "U8", "data_offsets": [0, 8], "shape": )") + shape + "}"),
        HasSubstr("not a list of whole numbers"))
        << shape;
  }
  for (const char* offsets : {"8", "[8]", "[0, 8, 8]", "[-1, 7]", "[0, 8.5]", "[\"0\", \"8\"]",
                              "[0, 18446744073709551615]"}) {
    EXPECT_THAT(
        refused(std::string(R"({"dtype": "U8", "shape": [8], "data_offsets": )") + offsets + "}"),
        HasSubstr("not two whole numbers"))
        << offsets;
  }
}

TEST(Safetensors, RefusesShapesThatDoNotFitTheirOffsets) {
  const auto refused = [](const char* dtype, const char* shape, const char* offsets) {
    return refusal_of_header(std::string("{\"a\": {\"dtype\": \"") + dtype +
                             "\", \"shape\": " + shape + ", \"data_offsets\": " + offsets + "}}");
  };
  EXPECT_EQ(refused("F32", "[2]", "[0, 8]"), "");
  EXPECT_THAT(refused("F32", "[8]", "[0, 8]"),
              HasSubstr("is F32 [8], which is 32 bytes, but its data_offsets span 8"));
  EXPECT_THAT(refused("U8", "[8]", "[8, 0]"), HasSubstr("ends before it begins"));
  EXPECT_THAT(refused("U8", "[4294967296, 4294967296]", "[0, 8]"),
              HasSubstr("more elements than 64 bits can count"));
  EXPECT_THAT(refused("F64", "[2305843009213693953]", "[0, 8]"),
              HasSubstr("more bytes than 64 bits can count"));
  EXPECT_THAT(refused("U8", "[9]", "[0, 9]"), HasSubstr("ends at byte 9 of the data, but only 8"));
  EXPECT_THAT(refused("U8", "[9223372036854775807]", "[0, 9223372036854775807]"),
              HasSubstr("but only 8 are there"));
}

TEST(Safetensors, RefusesOverlapsHolesAndTrailingBytes) {
  const auto refused = [](const std::vector<std::pair<int, int>>& ranges) {
    nlohmann::json header = nlohmann::json::object();
    for (const auto& [begin, end] : ranges) {
      header[support::format("t%zu", header.size())] = {
          {"dtype", "U8"}, {"shape", {end - begin}}, {"data_offsets", {begin, end}}};
    }
    return refusal_of_header(header.dump());
  };
  EXPECT_EQ(refused({{3, 8}, {0, 3}, {3, 3}}), "");
  EXPECT_THAT(refused({{0, 5}, {4, 8}}), HasSubstr("tensor \"t1\" overlaps"));
  EXPECT_THAT(refused({{0, 8}, {0, 8}}), HasSubstr("overlaps"));
  EXPECT_THAT(refused({{0, 3}, {4, 8}}),
              HasSubstr("no tensor owns the bytes before tensor \"t1\""));
  EXPECT_THAT(refused({{1, 8}}), HasSubstr("no tensor owns the bytes before tensor \"t0\""));
  EXPECT_THAT(refused({{0, 7}}), HasSubstr("1 bytes follow the last tensor"));
  EXPECT_THAT(refused({}), HasSubstr("8 bytes follow the last tensor"));
}

TEST(Safetensors, RefusesMetadataThatAreNoStrings) {
  EXPECT_THAT(refusal(safetensors_bytes(R"({"__metadata__": {"a": 1}})", "")),
              HasSubstr("not a table of strings"));
  EXPECT_THAT(refusal(safetensors_bytes(R"({"__metadata__": []})", "")),
              HasSubstr("not a table of strings"));
}

TEST(Safetensors, NeverRepeatsControlCharactersOfTheFile) {
  EXPECT_THAT(refusal_of_header(R"({"\u001b[31m": 1})"),
              AllOf(HasSubstr("u001b"), Not(HasSubstr("\x1b"))));
}

TEST(Safetensors, ReadsBeyondFourGigabytes) {
  const int64_t big = int64_t{5} << 30;
  const nlohmann::json header = {
      {"big", {{"dtype", "U8"}, {"shape", {big}}, {"data_offsets", {0, big}}}},
      {"tail", {{"dtype", "I32"}, {"shape", {1}}, {"data_offsets", {big, big + 4}}}}};
  const TemporaryFile written(safetensors_bytes(header.dump(), ""));
  const auto header_end = std::filesystem::file_size(written.path());
  std::filesystem::resize_file(written.path(), header_end + big + 4);  // leaves a hole
  std::fstream stream(written.path(), std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(header_end + big)) << "abcd";
  stream.close();

  SafetensorsFile file(written.path());
  EXPECT_THAT(file.read<char>(file.tensors().at("tail")), ElementsAre('a', 'b', 'c', 'd'));
}

TEST(Safetensors, RefusesAFileThatShrinksWhileItIsRead) {
  const TemporaryFile written(small_file());
  SafetensorsFile file(written.path());
  std::filesystem::resize_file(written.path(), 100);
  EXPECT_THROW(file.read<float>(file.tensors().at("one")), FileError);
}

}  // namespace
}  // namespace steady::test
