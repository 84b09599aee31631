// SPDX-License-Identifier: Apache-2.0
// A Python object of any array library in, its address, shape and strides out, without a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace steady::python {

enum class Access { kRead, kWrite };

/// Element types as DLPack counts them.
struct ElementType {
  nanobind::dlpack::dtype_code code;
  int bits;
};
inline constexpr ElementType kInt32 = {nanobind::dlpack::dtype_code::Int, 32};
inline constexpr ElementType kFloat32 = {nanobind::dlpack::dtype_code::Float, 32};
inline constexpr ElementType kBf16 = {nanobind::dlpack::dtype_code::Bfloat, 16};
inline constexpr ElementType kBits16 = {nanobind::dlpack::dtype_code::UInt, 16};  // NumPy's bf16

class Tensor {
 public:
  /// Refuses what is no tensor, by `name`. With `keep` the memory lives as long as the Tensor does;
  /// otherwise both are good for one call, which a library with a C exchange table, torch for one,
  /// makes much cheaper. None gives an empty Tensor.
  Tensor(const char* name, nanobind::handle object, Access access, bool keep);
  Tensor() = default;

  explicit operator bool() const { return name_ != nullptr; }

  const char* name() const { return name_; }
  nanobind::dlpack::device device() const { return view_.device; }
  int dimensions() const { return view_.ndim; }
  int64_t extent(int dimension) const { return view_.shape[dimension]; }
  /// In elements. Where the extent is 1 the stride means nothing, and `instead` is given.
  int64_t stride(int dimension, int64_t instead) const;
  int element_bits() const { return view_.dtype.bits * view_.dtype.lanes; }
  bool is_of(ElementType type) const;
  /// Whether elements from `dimension` on lie one after the other.
  bool is_packed_from(int dimension) const;
  /// Elements of the dimensions from `dimension` on.
  int64_t elements_from(int dimension) const;

  void expect_type(std::initializer_list<ElementType> allowed, const char* words) const;
  /// `cuda_device` below 0 asks for host memory.
  void expect_device(int cuda_device) const;

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(static_cast<char*>(view_.data) + view_.byte_offset);
  }
  /// "q is float32 [4, 1, 64, 512] on the CPU"
  std::string describe() const;

 private:
  const char* name_ = nullptr;
  nanobind::dlpack::dltensor view_;
  nanobind::ndarray<nanobind::ro> owner_;  // invalid where the view is borrowed
};

}  // namespace steady::python
