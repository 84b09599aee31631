// SPDX-License-Identifier: Apache-2.0
// A Python type or tensor in, its exchange table or current stream out.
#include "exchange.hpp"

#include <array>
#include <utility>

namespace nb = nanobind;

namespace steady::python {
namespace {

/// The table that a type offers, or NULL.
const ExchangeTable* offered_table(PyTypeObject* type) {
  const ExchangeTable* table = nullptr;
  PyObject* capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule != nullptr && PyCapsule_IsValid(capsule, "dlpack_exchange_api")) {
    table = static_cast<const ExchangeTable*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (table->version.major != 1 || table->view_from_object == nullptr) table = nullptr;
  }
  Py_XDECREF(capsule);
  PyErr_Clear();
  return table;
}

}  // namespace

/// As offered_table, which asks, and where there is none raises, for the last few types only once.
/// A type without a table that gets one later is still right, only slower. A remembered type is
/// kept alive, so that no other can have its address. The GIL guards what is remembered.
const ExchangeTable* exchange_table(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type;
    const ExchangeTable* table;
  };
  static std::array<Known, 4> known = {};  // torch's, NumPy's, one's own subclass, and one more
  static size_t oldest = 0;
  for (const Known& entry : known)
    if (entry.type == type) return entry.table;
  const ExchangeTable* table = offered_table(type);
  Py_INCREF(reinterpret_cast<PyObject*>(type));
  const Known forgotten = std::exchange(known[oldest], {type, table});
  oldest = (oldest + 1) % known.size();
  Py_XDECREF(reinterpret_cast<PyObject*>(forgotten.type));  // last: it may run any code
  return table;
}

uintptr_t current_stream(nb::handle tensor, nb::dlpack::device device, const nb::callable& ask) {
  const ExchangeTable* table = exchange_table(Py_TYPE(tensor.ptr()));
  void* stream = nullptr;
  if (table != nullptr && table->current_stream != nullptr &&
      table->current_stream(device.device_type, device.device_id, &stream) == 0)
    return reinterpret_cast<uintptr_t>(stream);
  PyErr_Clear();
  return nb::cast<uintptr_t>(ask(tensor));
}

}  // namespace steady::python
