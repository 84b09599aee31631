// SPDX-License-Identifier: Apache-2.0
// DLPack's C exchange table: what an array library offers to C, without a call through Python.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace steady::python {

struct DlpackVersion {
  uint32_t major, minor;
};

/// DLPack's DLManagedTensorVersioned: a tensor that its receiver gives back by `deleter`.
struct ManagedTensor {
  DlpackVersion version;
  void* context;
  void (*deleter)(ManagedTensor* self);
  uint64_t flags;
  nanobind::dlpack::dltensor tensor;
};

/// The table as of DLPack 1.2, which later 1.x only extend. Every function returns 0, or something
/// else with a Python exception set, but for `allocate`, which tells `set_error`.
struct ExchangeTable {
  DlpackVersion version;
  ExchangeTable* previous;
  int (*allocate)(nanobind::dlpack::dltensor* like, ManagedTensor** out, void* error_context,
                  void (*set_error)(void* error_context, const char* kind, const char* message));
  void* managed_from_object;
  void* managed_to_object;
  int (*view_from_object)(void* object, nanobind::dlpack::dltensor* out);
  int (*current_stream)(int32_t device_type, int32_t device, void** out);
};

/// The table that the objects of a type share, or NULL.
const ExchangeTable* exchange_table(PyTypeObject* type);

/// The stream that the tensor's library runs on now, by its table or, where that does not tell, as
/// ask(tensor) says.
uintptr_t current_stream(nanobind::handle tensor, nanobind::dlpack::device device,
                         const nanobind::callable& ask);

}  // namespace steady::python
