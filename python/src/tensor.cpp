// SPDX-License-Identifier: Apache-2.0
// DLPack in its three forms in (a C table, a method, a buffer), one view out.
#include "tensor.hpp"

#include <algorithm>

#include "exchange.hpp"
#include "fail.hpp"

namespace nb = nanobind;

namespace steady::python {
namespace {

/// Invalid where the object is no array, or not writable though it must be.
nb::ndarray<nb::ro> import(nb::handle object, Access access) {
  nb::ndarray<nb::ro> read_only;
  if (access == Access::kRead) {
    nb::try_cast(object, read_only, false);
    return read_only;
  }
  nb::ndarray<> writable;
  if (nb::try_cast(object, writable, false)) read_only = nb::ndarray<nb::ro>(writable);
  return read_only;
}

std::string type_name(nb::dlpack::dtype type) {
  using Code = nb::dlpack::dtype_code;
  const std::string bits = std::to_string(type.bits);
  switch (static_cast<Code>(type.code)) {
    case Code::Int:
      return "int" + bits;
    case Code::UInt:
      return "uint" + bits;
    case Code::Float:
      return "float" + bits;
    case Code::Bfloat:
      return "bfloat" + bits;
    case Code::Complex:
      return "complex" + bits;
    case Code::Bool:
      return "bool";
    default:
      return "of a type of " + bits + " bits";
  }
}

std::string device_name(nb::dlpack::device device) {
  switch (device.device_type) {
    case nb::device::cpu::value:
    case nb::device::cuda_host::value:
      return "the CPU";
    case nb::device::cuda::value:
    case nb::device::cuda_managed::value:
      return "CUDA device " + std::to_string(device.device_id);
    default:
      return "a device that Steady does not know";
  }
}

}  // namespace

Tensor::Tensor(const char* name, nb::handle object, Access access, bool keep) {
  if (object.is_none()) return;
  const ExchangeTable* table = keep ? nullptr : exchange_table(Py_TYPE(object.ptr()));
  if (table != nullptr) {
    if (table->view_from_object(object.ptr(), &view_) != 0) throw nb::python_error();
    name_ = name;
    return;
  }
  owner_ = import(object, access);
  if (!owner_.is_valid()) {
    refuse(name, " is ", nb::type_name(object.type()).c_str(),
           access == Access::kRead ? "; a tensor" : "; a writable tensor",
           " is needed, on the CPU or on CUDA, that DLPack or the buffer protocol can share");
  }
  name_ = name;
  view_.data = const_cast<void*>(owner_.data());
  view_.device = {owner_.device_type(), owner_.device_id()};
  view_.ndim = static_cast<int32_t>(owner_.ndim());
  view_.dtype = owner_.dtype();
  view_.shape = const_cast<int64_t*>(owner_.shape_ptr());
  view_.strides = const_cast<int64_t*>(owner_.stride_ptr());
}

int64_t Tensor::stride(int dimension, int64_t instead) const {
  if (view_.shape[dimension] == 1) return instead;
  // DLPack allows NULL for what is contiguous.
  return view_.strides != nullptr ? view_.strides[dimension] : elements_from(dimension + 1);
}

bool Tensor::is_of(ElementType type) const {
  return view_.dtype.code == static_cast<uint8_t>(type.code) && view_.dtype.bits == type.bits &&
         view_.dtype.lanes == 1;
}

int64_t Tensor::elements_from(int dimension) const {
  int64_t count = 1;
  for (int d = dimension; d < view_.ndim; ++d) count *= view_.shape[d];
  return count;
}

bool Tensor::is_packed_from(int dimension) const {
  int64_t inner = 1;
  for (int d = view_.ndim - 1; d >= dimension; --d) {
    if (stride(d, inner) != inner) return false;
    inner *= view_.shape[d];
  }
  return true;
}

void Tensor::expect_type(std::initializer_list<ElementType> allowed, const char* words) const {
  const bool fits =
      std::any_of(allowed.begin(), allowed.end(), [this](ElementType type) { return is_of(type); });
  if (!fits) refuse(describe(), "; its elements must be ", words);
}

void Tensor::expect_device(int cuda_device) const {
  const auto [type, id] = view_.device;
  const bool managed = type == nb::device::cuda_managed::value;
  const bool fits =
      cuda_device < 0
          ? type == nb::device::cpu::value || type == nb::device::cuda_host::value || managed
          : (type == nb::device::cuda::value && id == cuda_device) || managed;
  if (fits) return;
  refuse(describe(), ", but this engine computes on ",
         cuda_device < 0 ? "the CPU" : "CUDA device " + std::to_string(cuda_device));
}

std::string Tensor::describe() const {
  std::string text = std::string(name_) + " is " + type_name(view_.dtype) + " [";
  for (int d = 0; d < view_.ndim; ++d)
    text += (d == 0 ? "" : ", ") + std::to_string(view_.shape[d]);
  return text + "] on " + device_name(view_.device);
}

}  // namespace steady::python
